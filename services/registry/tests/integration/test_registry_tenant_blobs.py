"""A blob is reached by the tenants that sent it: to all others it is nowhere, and it stays until the last lets go."""

import hashlib
import random

import httpx
import psycopg
import pytest
from clave_common.migrations import drift, migrate
from clave_registry.storage.mlflow.tables import metadata
from clave_testing.servers import new_database
from registry_bench import API, RIVAL, Bench, collected, collection, onnx_model, register, version_request

pytestmark = pytest.mark.integration
M = "/api/2.0/mlflow"
F = "/api/2.0/mlflow-artifacts/artifacts"
SECRET = b"the first tenant's own bytes"
OWNERS = {"default": "user:eve", "rival": RIVAL}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def without(answer: httpx.Response, *texts: str) -> tuple[int, str, list[str]]:
    """Status, body and header names of an answer, without what names the digest or the request."""
    body = answer.text
    for text in (*texts, answer.headers.get("x-request-id", "-"), answer.headers.get("traceparent", "-")):
        body = body.replace(text, "*")
    return answer.status_code, body, sorted(answer.headers)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("HEAD", {}),
        ("GET", {"range": "bytes=0-3"}),
        ("GET", {"if-none-match": f'"{sha256(SECRET)}"'}),
    ],
)
async def test_a_digest_of_others_reads_like_one_that_is_nowhere(
    bench: Bench, method: str, headers: dict[str, str]
) -> None:
    await bench.upload(SECRET)
    digests = [sha256(SECRET), "0" * 64]
    answers = [await bench.call(RIVAL, method, f"{API}/blobs/{each}", headers=headers) for each in digests]
    assert without(answers[0], *digests) == without(answers[1], *digests)
    assert answers[0].status_code == 404
    await bench.call("user:vic", method, f"{API}/blobs/{digests[0]}", headers=headers)


async def test_no_version_is_made_of_a_digest_of_others(bench: Bench) -> None:
    graph = await bench.upload(onnx_model())
    await bench.call(RIVAL, "POST", f"{API}/models", {"name": "copy"}, expect=201)
    answers = [
        await bench.call(
            RIVAL,
            "POST",
            f"{API}/models/copy/versions",
            version_request([{"path": "model.onnx", **graph, "digest": digest}]),
        )
        for digest in (graph["digest"], "0" * 64)
    ]
    assert without(answers[0]) == without(answers[1])
    assert (answers[0].status_code, answers[0].json()["code"]) == (422, "blobs_missing")
    await bench.upload(onnx_model(), who=RIVAL)
    body = version_request([{"path": "model.onnx", **graph}])
    await bench.call(RIVAL, "POST", f"{API}/models/copy/versions", body, expect=201)


async def test_an_upload_of_what_others_sent_is_taken_and_verified_like_a_new_one(bench: Bench) -> None:
    await bench.upload(SECRET)
    digests = [sha256(SECRET), sha256(b"new to all")]
    wrong = [await bench.call(RIVAL, "PUT", f"{API}/blobs/{each}", content=b"guessed") for each in digests]
    assert without(wrong[0], *digests) == without(wrong[1], *digests)
    assert wrong[0].json()["code"] == "digest_mismatch"
    await bench.call(RIVAL, "GET", f"{API}/blobs/{digests[0]}", expect=404)
    right = [await bench.call(RIVAL, "PUT", f"{API}/blobs/{sha256(d)}", content=d) for d in (SECRET, b"new to all")]
    assert right[0].status_code == right[1].status_code == 200
    assert sorted(right[0].headers) == sorted(right[1].headers)
    assert (await bench.call(RIVAL, "GET", f"{API}/blobs/{digests[0]}", expect=200)).content == SECRET
    written = await bench.rows(
        "select 1 from registry.outbox where convert_from(body, 'UTF8')::jsonb ->> 'tenant' = 'rival' "
        "and convert_from(body, 'UTF8')::jsonb ->> 'action' = 'registry:blob.write'"
    )
    assert len(written) == 2, "the audit log knows both alike"


async def test_parts_of_what_others_sent_are_all_asked_for(bench: Bench) -> None:
    await bench.upload(SECRET)
    digest = sha256(SECRET)
    begun = await bench.call(RIVAL, "POST", f"{API}/uploads", {"digest": digest, "parts": 1}, expect=201)
    path = f"{API}/uploads/{begun.json()['id']}"
    early = await bench.call(RIVAL, "POST", f"{path}/finish", {})
    assert early.json()["code"] == "parts_missing"
    await bench.call(RIVAL, "PUT", f"{path}/parts/1", content=b"guessed", expect=200)
    assert (await bench.call(RIVAL, "POST", f"{path}/finish", {})).json()["code"] == "digest_mismatch"
    await bench.call(RIVAL, "GET", f"{API}/blobs/{digest}", expect=404)
    await bench.call(RIVAL, "PUT", f"{path}/parts/1", content=SECRET, expect=200)
    await bench.call(RIVAL, "POST", f"{path}/finish", {}, expect=200)
    await bench.call(RIVAL, "GET", f"{API}/blobs/{digest}", expect=200)


async def test_artifacts_of_runs_link_their_own_tenant_alone(bench: Bench) -> None:
    await bench.call("user:eve", "PUT", f"{F}/0/r/artifacts/x", content=SECRET, expect=200)
    await bench.call("user:vic", "GET", f"{API}/blobs/{sha256(SECRET)}", expect=200)
    await bench.call(RIVAL, "GET", f"{API}/blobs/{sha256(SECRET)}", expect=404)
    answers = [await bench.call(RIVAL, "GET", f"{F}/0/{run}/artifacts/x") for run in ("r", "s")]
    assert without(answers[0], "0/r/") == without(answers[1], "0/s/")
    await bench.call(RIVAL, "PUT", f"{F}/1/r/artifacts/y", content=SECRET, expect=200)
    await bench.call(RIVAL, "GET", f"{API}/blobs/{sha256(SECRET)}", expect=200)


async def test_services_reach_what_any_tenant_sent_and_link_what_they_register(bench: Bench) -> None:
    graph = await bench.upload(onnx_model(), who=RIVAL)
    for service in ("service:inference", "service:trainer"):
        await bench.call(service, "GET", f"{API}/blobs/{graph['digest']}", expect=200)
    await bench.call("user:eve", "GET", f"{API}/blobs/{graph['digest']}", expect=404)
    await bench.call("user:ana", "POST", f"{API}/models", {"name": "churn"}, expect=201)
    body = version_request([{"path": "model.onnx", **graph}])
    await bench.call("service:trainer", "POST", f"{API}/models/churn/versions", body, expect=201)
    await bench.call("user:eve", "GET", f"{API}/blobs/{graph['digest']}", expect=200)


async def test_a_tenant_that_deleted_its_version_lets_go_while_another_keeps_the_same_files(bench: Bench) -> None:
    version = await register(bench)
    graph = version["artifacts"][0]["digest"]
    await bench.upload(onnx_model(), who=RIVAL)
    await bench.call(RIVAL, "POST", f"{API}/models", {"name": "churn"}, expect=201)
    same = version_request([{key: version["artifacts"][0][key] for key in ("path", "digest", "size")}])
    await bench.call(RIVAL, "POST", f"{API}/models/churn/versions", same, expect=201)
    gone = {"name": "churn", "version": "1"}
    await bench.call("user:eve", "DELETE", f"{M}/model-versions/delete", gone, expect=200)
    assert await collection(bench, days_later=29).end_links() == 0, "deleted, and within its retention"
    assert await collection(bench, days_later=31).forget_manifests() == 0, "the rival's version names it"
    assert await collected(bench, days_later=31) == 0
    await bench.call("user:eve", "GET", f"{API}/blobs/{graph}", expect=404)
    await bench.call(RIVAL, "GET", f"{API}/blobs/{graph}", expect=200)
    await bench.call(RIVAL, "DELETE", f"{M}/model-versions/delete", gone, expect=200)
    assert await collection(bench, days_later=31).forget_manifests() == 1
    assert await collected(bench, days_later=31) == 1
    assert await bench.store.size(graph) is None


async def test_what_another_tenant_calls_the_same_files_does_not_show(bench: Bench) -> None:
    graph = {"path": "model.onnx", **await bench.upload(onnx_model())}
    await bench.upload(onnx_model(), who=RIVAL)
    for who, kind in (("user:ana", "application/onnx"), (RIVAL, "application/octet-stream"), (RIVAL, "image/x-mine")):
        await bench.call(who, "POST", f"{API}/models", {"name": "churn"})
        body = version_request([{**graph, "media_type": kind}])
        made = (await bench.call(who, "POST", f"{API}/models/churn/versions", body, expect=201)).json()
        assert made["artifacts"][0]["media_type"] == kind
    copied = {"name": "churn", "source": "models:/churn/1"}
    copy = await bench.call("user:eve", "POST", f"{M}/model-versions/create", copied, expect=200)
    number = copy.json()["model_version"]["version"]
    shown = (await bench.call("user:eve", "GET", f"{API}/models/churn/versions/{number}", expect=200)).json()
    assert shown["artifacts"][0]["media_type"] == "application/onnx"


async def test_a_hold_keeps_what_its_own_tenant_sent_and_nothing_of_others(bench: Bench) -> None:
    await bench.upload(SECRET)
    hold = f"{API}/blobs/{sha256(SECRET)}/hold"
    await bench.call(RIVAL, "PUT", hold, {"reason": "a guess"}, expect=204)
    assert await collected(bench, days_later=8) == 1
    await bench.upload(SECRET, who=RIVAL)
    assert await collected(bench, days_later=8) == 0, "the hold was there before the bytes"
    await bench.call(RIVAL, "POST", f"{hold}/lift", {"reason": "closed"}, expect=204)
    assert await collected(bench, days_later=8) == 1


class Imagined:
    """What two tenants should be able to read, in a dozen lines."""

    def __init__(self) -> None:
        self.linked: set[tuple[str, bytes]] = set()
        self.artifacts: dict[tuple[str, str], bytes] = {}
        self.held: set[tuple[str, bytes]] = set()

    def collect(self) -> None:
        named = {(tenant, data) for (tenant, _), data in self.artifacts.items()} | self.held
        self.linked &= named

    @property
    def stored(self) -> set[bytes]:
        return {data for _, data in self.linked}


async def step(bench: Bench, imagined: Imagined, dice: random.Random, contents: list[bytes]) -> None:
    tenant, data = dice.choice(sorted(OWNERS)), dice.choice(contents)
    who, path = OWNERS[tenant], f"{F}/0/{tenant}/artifacts/{dice.randrange(2)}"
    blob = f"{API}/blobs/{sha256(data)}"
    match dice.choice(("upload", "artifact", "delete", "hold", "lift", "collect")):
        case "upload":
            await bench.upload(data, who=who)
            imagined.linked.add((tenant, data))
        case "artifact":
            await bench.call(who, "PUT", path, content=data, expect=200)
            imagined.linked.add((tenant, data))
            imagined.artifacts[tenant, path] = data
        case "delete":
            await bench.call(who, "DELETE", path, {}, expect=200)
            imagined.artifacts.pop((tenant, path), None)
        case "hold" | "lift" as what:
            holder = RIVAL if tenant == "rival" else "user:col"
            method, ending = ("PUT", "/hold") if what == "hold" else ("POST", "/hold/lift")
            expected = 204 if ((tenant, data) in imagined.held) == (what == "lift") else 404 if what == "lift" else 409
            await bench.call(holder, method, blob + ending, {"reason": "case"}, expect=expected)
            (imagined.held.add if what == "hold" else imagined.held.discard)((tenant, data))
        case _:
            await collected(bench, days_later=8)
            imagined.collect()


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_two_tenants_do_each_reads_its_own_and_nothing_is_lost_or_left(bench: Bench, seed: int) -> None:
    dice, imagined, contents = random.Random(seed), Imagined(), [b"one", b"two", b"three"]
    for _ in range(50):
        await step(bench, imagined, dice, contents)
    for tenant, who in OWNERS.items():
        for data in contents:
            answer = await bench.call(who, "GET", f"{API}/blobs/{sha256(data)}")
            assert (answer.status_code == 200) == ((tenant, data) in imagined.linked), (tenant, data)
    await collected(bench, days_later=8)
    imagined.collect()
    assert {data for data in contents if await bench.store.size(sha256(data)) is not None} == imagined.stored
    assert len(await bench.rows("select 1 from registry.blob_links")) == len(imagined.linked)


_BEFORE = """
drop table registry.blob_links;
drop index registry.ix_versions_manifest;
alter table registry.versions drop column evaluated_by, drop column media_types;
alter table registry.manifest_entries add column media_type text not null;
alter table registry.blobs add column held boolean not null default false;
update registry.alembic_version set version_num = '0102';
"""
_SOME_DATA = """
insert into registry.models (id, tenant, name, created_by, created_at, updated_at) values
    ('m1', 'a', 'm', 'x', now(), now()), ('m2', 'b', 'm', 'x', now(), now());
insert into registry.versions (model_id, version, status, manifest_digest, signature, params, lineage, card, tags,
    description, contributors, created_by, created_at, updated_at)
select id, 1, 'draft', 'shared', '{}', '{}', '{}', '{}', '{}', '', '[]', 'x', now(), now() from registry.models;
insert into registry.manifest_entries values ('shared', 'model.onnx', 'of versions', 1, 'application/onnx');
insert into registry.artifacts (tenant, path, digest, size) values ('a', 'p', 'of a run', 1);
insert into registry.uploads (id, tenant, parts, created_by, created_at, finished_digest, finished_size)
    values ('u', 'b', 1, 'x', now(), 'in parts', 1);
insert into registry.holds (tenant, digest, reason, by, at) values
    ('b', 'held', 'r', 'x', now()), ('b', 'of a run', 'a guess', 'x', now());
insert into registry.blobs (digest, size, created_at, used_at)
select d, 1, now(), now() from unnest(array['of versions', 'of a run', 'in parts', 'held', 'named by nobody']) d;
"""


def test_an_existing_registry_links_what_each_tenant_names_by_now() -> None:
    url = new_database("registry")
    migrate(url=url, package="clave_registry", metadata=metadata)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_BEFORE)
        connection.execute(_SOME_DATA)
        migrate(url=url, package="clave_registry", metadata=metadata)
        found = connection.execute("select tenant, digest from registry.blob_links order by 2, 1").fetchall()
        kinds = connection.execute("select media_types from registry.versions").fetchall()
    assert found == [("b", "held"), ("b", "in parts"), ("a", "of a run"), ("a", "of versions"), ("b", "of versions")]
    assert kinds == [({"model.onnx": "application/onnx"},)] * 2
    assert drift(url=url, metadata=metadata) == []
