"""What a crash, an outage, a late event or a changed definition must not break."""

import asyncio

import pytest
from clave_features.domain.errors import OnlineStoreAway

pytestmark = pytest.mark.integration
API = "/api/features/v1"


def repository(levels=("low", "high"), ttl_s=None):
    view = {
        "name": "load",
        "entity": "machine",
        "features": [
            {"name": "level", "dtype": "category", "levels": list(levels)},
            {"name": "watts", "dtype": "float32"},
        ],
    }
    if ttl_s:
        view["ttl_s"] = ttl_s
    return {
        "entities": [{"name": "machine", "join_keys": {"site": "string", "number": "int64"}}],
        "feature_views": [view],
        "feature_services": [{"name": "s", "features": ["load:watts", "load:level"]}],
    }


@pytest.fixture
async def store(feature_store):
    assert (await feature_store.put(f"{API}/repository", json=repository())).status_code == 200
    return feature_store


def row(day, watts, level="low", site="a", number=1):
    return {"site": site, "number": number, "event_ts": f"2026-10-{day:02}", "level": level, "watts": watts}


async def ingest(store, *rows):
    answer = await store.post(f"{API}/views/load/ingest", json=list(rows))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def read(store, site="a", number=1):
    body = {"feature_service": "s", "entities": {"site": [site], "number": [number]}}
    answer = await store.post(f"{API}/online/read", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["values"][0]


async def test_a_late_event_never_replaces_a_newer_one(store):
    await ingest(store, row(5, 5.5))
    late = await ingest(store, row(4, 4.5))
    assert late["accepted"] == 1
    assert late["online_written"] == 0
    assert await read(store) == [5.5, 0]
    await ingest(store, row(5, 6.5, "high"))
    assert await read(store) == [6.5, 1]


async def test_concurrent_batches_leave_the_newest_value(store):
    batches = [[row(day, float(day), number=number) for number in range(20)] for day in range(1, 13)]
    await asyncio.gather(*(ingest(store, *batch) for batch in reversed(batches)))
    for number in range(20):
        assert await read(store, number=number) == [12, 0]


async def test_the_same_table_sent_twice_at_once_is_one_batch(store):
    first, second = await asyncio.gather(ingest(store, row(1, 1.0)), ingest(store, row(1, 1.0)))
    assert sorted((first["duplicate"], second["duplicate"])) == [False, True]
    assert len((await store.get(f"{API}/views/load/batches")).json()["items"]) == 1


async def test_an_online_outage_keeps_the_history_and_heals(store, monkeypatch):
    healthy = store.parts.store.write

    async def away(*_args, **_named):
        raise OnlineStoreAway("away")

    monkeypatch.setattr(store.parts.store, "write", away)
    report = await ingest(store, row(3, 3.5))
    assert (report["accepted"], report["online_written"]) == (1, 0)
    monkeypatch.setattr(store.parts.store, "write", healthy)
    await store.parts.ingestion.follow_once()
    assert await read(store) == [3.5, 0]


async def test_a_crash_before_the_commit_is_finished_by_the_retry(store, monkeypatch):
    from clave_features.storage import batches

    healthy = batches.add_file

    async def crash(*_args):
        raise ConnectionResetError

    monkeypatch.setattr(batches, "add_file", crash)
    with pytest.raises(ConnectionResetError):
        await store.post(f"{API}/views/load/ingest", json=[row(3, 3.5)])
    monkeypatch.setattr(batches, "add_file", healthy)
    assert (await store.get(f"{API}/views/load/batches")).json()["items"] == []
    assert await read(store) == [None, None]
    assert (await ingest(store, row(3, 3.5)))["duplicate"] is False
    assert await read(store) == [3.5, 0]


async def test_online_values_are_rebuilt_from_the_history(store):
    await ingest(store, row(1, 1.5), row(2, 2.5, site="b"))
    await ingest(store, row(3, 3.5, "high"))
    await store.parts.redis.flushdb()
    assert await read(store) == [None, None]
    answer = await store.post(f"{API}/materialize", json={})
    assert answer.json() == {"written": {"load": 2}}
    assert await read(store) == [3.5, 1]
    assert await read(store, site="b") == [2.5, 0]
    assert (await store.post(f"{API}/materialize", json={"views": ["nope"]})).status_code == 404


async def test_a_changed_definition_repacks_what_is_online(store):
    await ingest(store, row(1, 1.5, "high"))
    answer = await store.put(f"{API}/repository", json=repository(levels=("high", "low")))
    assert [one["change"] for one in answer.json()["changes"]] == ["unchanged", "updated", "unchanged"]
    assert answer.json()["changes"][1]["version"] == 2
    await store.parts.ingestion.follow_once()
    assert await read(store) == [1.5, 0]


async def test_a_dry_run_changes_nothing(store):
    wished = repository(ttl_s=60)
    answer = await store.put(f"{API}/repository", params={"dry_run": "true"}, json=wished)
    assert answer.json()["dry_run"] is True
    assert [one["change"] for one in answer.json()["changes"]] == ["unchanged", "updated", "unchanged"]
    assert (await store.get(f"{API}/views/load")).json()["version"] == 1


async def test_keys_of_a_view_that_keeps_rows_cannot_change(store):
    await ingest(store, row(1, 1.5))
    wished = repository()
    wished["entities"][0]["join_keys"] = {"site": "string"}
    answer = await store.put(f"{API}/repository", json=wished)
    assert (answer.status_code, answer.json()["code"]) == (409, "definition_conflict")


async def test_a_second_process_sees_and_continues_everything(store):
    await ingest(store, row(1, 1.5))
    async with store.restarted() as other:
        assert await read(other) == [1.5, 0]
        assert (await ingest(other, row(1, 1.5)))["duplicate"] is True
        await ingest(other, row(2, 2.5))
    assert await read(store) == [2.5, 0]
