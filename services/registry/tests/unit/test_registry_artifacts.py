"""Artifact paths mean one place; a manifest's digest means its bytes."""

import hashlib
from urllib.parse import quote

import pytest
from clave_registry.domain.artifact_path import InvalidArtifactPath, checked_artifact_path
from clave_registry.domain.manifest import Artifact, InvalidManifest, Manifest
from hypothesis import given
from hypothesis import strategies as st

BAD_PATHS = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../x",
    "a/../b",
    "a//b",
    "a/./b",
    "a/",
    "a\\b",
    "..\\x",
    "C:/x",
    "c:x",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a#b",
    "a?b",
    "%2e%2e/x",
    "a/%2E%2E",
    "%252e%252e%252fx",
    "a%00b",
    "%2fetc",
    "a%5cb",
    "\uff0e\uff0e/x",
    "a/\u2024\u2024/b",
    " a/b",
    "a/b ",
    "x" * 501,
    "y" * 256,
    "/".join("a" * 21),
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_could_leave_their_version_are_refused(path: str) -> None:
    with pytest.raises(InvalidArtifactPath):
        checked_artifact_path(path)


@pytest.mark.parametrize(
    "path", ["model.onnx", "monitoring/reference.parquet", "a b/ü ñ.txt", "100%.csv", "a+b=c@d.txt"]
)
def test_ordinary_paths_stay_as_they_are(path: str) -> None:
    assert checked_artifact_path(path) == path


@given(st.sampled_from([path for path in BAD_PATHS if path and ".." in path]), st.integers(1, 5))
def test_no_number_of_encodings_hides_a_way_out(path: str, times: int) -> None:
    for _ in range(times):
        path = quote(path, safe="")
    with pytest.raises(InvalidArtifactPath):
        checked_artifact_path(path)


@given(st.lists(st.tuples(st.text("abc/.%", min_size=1, max_size=8), st.integers(0, 9)), max_size=5))
def test_whatever_is_accepted_is_relative_and_stays_inside(items: list[tuple[str, int]]) -> None:
    for path, _ in items:
        try:
            accepted = checked_artifact_path(path)
        except InvalidArtifactPath:
            continue
        assert not accepted.startswith("/")
        assert ".." not in accepted.split("/")


def artifact(path: str, digit: str = "a", size: int = 1) -> Artifact:
    return Artifact(path, digit * 64, size)


def test_a_manifest_digest_depends_on_content_and_not_on_order() -> None:
    one, two = artifact("a.json"), artifact("b/c.json", "b", 2)
    assert Manifest.of([one, two]).digest == Manifest.of([two, one]).digest
    assert Manifest.of([one]).digest != Manifest.of([artifact("a.json", "c")]).digest
    assert Manifest.of([one]).digest != Manifest.of([artifact("a2.json")]).digest


def test_a_manifest_digest_can_be_recomputed_with_sha256_and_json_alone() -> None:
    text = '[{"digest":"' + "a" * 64 + '","path":"m","size":1}]'
    assert Manifest.of([artifact("m", "a", 1)]).digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("paths", [[], ["a", "a"], ["a", "a/b"]])
def test_manifests_that_cannot_be_files_are_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.of([artifact(path) for path in paths])


def test_files_that_may_run_code_are_found() -> None:
    manifest = Manifest.of([artifact("model.onnx"), artifact("x/model.PKL"), artifact("w.pt")])
    assert manifest.unsafe_paths == ("w.pt", "x/model.PKL")
    assert [model.path for model in manifest.models] == ["model.onnx"]
