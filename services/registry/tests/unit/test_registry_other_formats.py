"""XGBoost models and safetensors files are looked into in the sandbox before they are kept."""

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import xgboost
from clave_registry.runtime.model_inspector import ModelInspector, UnsafeModel
from clave_registry.runtime.tensor_inspection import inspect as inspect_tensors
from clave_registry.runtime.tree_inspection import inspect as inspect_trees


def booster() -> xgboost.Booster:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 80)
    matrix = xgboost.DMatrix(generator.random((80, 3)), label=labels, feature_names=["a", "b", "c"])
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, matrix, 3)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize(("form", "path"), [("ubj", "model.ubj"), ("json", "model.json")])
async def test_an_xgboost_model_is_described_by_its_features_and_objective(form: str, path: str) -> None:
    facts = await ModelInspector().inspect(stream(bytes(booster().save_raw(form))), path=path)
    assert (facts.inputs[0].shape, facts.columns) == ((-1, 3), ("a", "b", "c"))
    assert facts.operators == ("gbtree", "binary:logistic")


def altered(change: str) -> bytes:
    model = json.loads(bytes(booster().save_raw("json")))
    tree = model["learner"]["gradient_booster"]["model"]["trees"][0]
    match change:
        case "cycle":
            tree["left_children"][0] = 0
        case "missing child":
            tree["right_children"][0] = 10_000
        case "unknown feature":
            tree["split_indices"][0] = 7
        case "short":
            tree["split_conditions"].pop()
        case "names":
            model["learner"]["feature_names"].append("d")
    return json.dumps(model).encode()


@pytest.mark.parametrize("change", ["cycle", "missing child", "unknown feature", "short", "names"])
def test_a_tree_that_a_loader_would_follow_out_of_its_arrays_is_refused(change: str) -> None:
    assert inspect_trees(altered(change))["faults"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{}", b"[" * 5000, b"{L" + b"\x7f" * 8, b"[$D#L" + (2**60).to_bytes(8, "big"), b"not a model"]
)
def test_bytes_that_claim_more_than_they_have_are_refused(data: bytes) -> None:
    assert inspect_trees(data)["faults"]


def test_every_cut_of_a_model_is_refused_and_none_breaks_the_reader() -> None:
    whole = bytes(booster().save_raw("ubj"))
    assert not inspect_trees(whole)["faults"]
    for length in range(0, len(whole), 97):
        assert inspect_trees(whole[:length])["faults"]


def safetensors(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_plain_safetensors_file_is_described() -> None:
    header = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"a": "b"}}
    report = inspect_tensors(safetensors(header, bytes(24)))
    assert (report["faults"], report["columns"], report["operators"]) == ([], ["w"], ["F32"])


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ([{"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}], 8),
        ([{"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}], 8),
        ([{"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}], 8),
        ([{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}], 12),
        ([{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}] * 2, 8),
        ([{"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}], 8),
    ],
)
async def test_tensors_outside_of_the_file_or_over_each_other_are_refused(
    entries: list[dict[str, Any]], size: int
) -> None:
    data = safetensors({f"t{n}": entry for n, entry in enumerate(entries)}, bytes(size))
    with pytest.raises(UnsafeModel):
        await ModelInspector().inspect(stream(data), path="x.safetensors")
