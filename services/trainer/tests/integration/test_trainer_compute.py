"""The computing process: its results, its refusals, its end."""

import asyncio
import json
import os
import sys

import psutil
import pyarrow.parquet as pq
import pytest
from clave_trainer.runtime.compute_process import (
    ComputationDied,
    ComputationFailed,
    Workroom,
    clear_rooms_of_the_dead,
    compute,
)
from trainer_peers import FEATURES, table

COLUMNS = [
    {"name": "customer_id", "role": "entity"},
    {"name": "event_ts", "role": "timestamp"},
    {"name": "churned", "role": "label"},
    *({"name": name, "role": "feature"} for name in FEATURES),
    {"name": "customer__female", "role": "extra", "view": "customer"},
]
PARAMS = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "rounds": 20,
    "early_stopping_rounds": 0,
    "threshold_rule": "f1",
    "threshold": 0.5,
    "false_negative_cost": 1.0,
    "max_depth": 3,
    "seed": 7,
}
REQUEST = {
    "columns": COLUMNS,
    "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    "salt": "churn",
    "params": PARAMS,
}


async def run(folder, step, **more):
    said: list[tuple[float, str]] = []

    async def report(share, message):
        said.append((share, message))

    result = await compute(folder, {**REQUEST, "step": step, **more}, threads=1, report=report)
    return result, said


@pytest.fixture
def room(tmp_path):
    with Workroom(tmp_path, os.getpid()) as folder:
        pq.write_table(table(1200), folder / "training_set.parquet")
        yield folder


async def trained(room, seed, name):
    result, said = await run(room, "train", params={**PARAMS, "seed": seed, "subsample": 0.5})
    for ending in ("ubj", "json"):
        (room / "out" / f"model.{ending}").rename(room / f"{name}.{ending}")
    return result["facts"], said


async def test_training_is_reproducible_and_tells_its_progress(room):
    facts, said = await trained(room, 7, "first")
    await trained(room, 7, "second")
    await trained(room, 8, "other")
    assert (room / "first.ubj").read_bytes() == (room / "second.ubj").read_bytes()
    assert (room / "first.ubj").read_bytes() != (room / "other.ubj").read_bytes()
    assert facts["rounds"] == 20
    assert sum(facts["importance"].values()) == pytest.approx(1)
    assert said[-1] == (1.0, f"round 20, validation log loss {facts['validation_log_loss']:.4f}")


async def test_a_model_that_fails_parity_is_refused_with_the_figures(room):
    facts, _ = await trained(room, 7, "model")
    await trained(room, 8, "other")
    (room / "model.json").write_bytes((room / "other.json").read_bytes())
    exported, _ = await run(
        room, "export", threshold=facts["threshold"], features=facts["features"], metadata={"run": "r"}
    )
    assert exported["facts"]["bytes"] > 1000
    (room / "out" / "model.onnx").rename(room / "model.onnx")
    result, _ = await run(room, "parity", threshold=facts["threshold"])
    assert not result["facts"]["holds"]
    (reason,) = result["refused"]
    assert reason.startswith("parity: the exported graph differs from the booster by ")


async def test_a_malformed_training_set_is_refused_by_name(room):
    (room / "training_set.parquet").write_bytes(b"no parquet")
    with pytest.raises(ComputationFailed, match="no readable Parquet file") as caught:
        await run(room, "validate")
    assert caught.value.code == "training_set_malformed"
    pq.write_table(table(300).drop_columns(["churned"]), room / "training_set.parquet")
    with pytest.raises(ComputationFailed, match="'churned' is announced and missing"):
        await run(room, "validate")


async def test_a_computation_that_is_killed_says_so(room):
    async def kill(_share, _message):
        for child in psutil.Process().children():
            if str(room) in child.cmdline():
                child.kill()

    request = {**REQUEST, "step": "train", "params": {**PARAMS, "rounds": 20_000}}
    with pytest.raises(ComputationDied, match="ended with -9"):
        await compute(room, request, threads=1, report=kill)


async def test_a_computation_ends_with_its_worker(room):
    (room / "request.json").write_text(
        json.dumps({**REQUEST, "step": "train", "params": {**PARAMS, "rounds": 20_000, "eta": 0.001}})
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "clave_trainer.runtime.compute",
        str(room),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert b"learning from" in await process.stdout.readline()
    process.stdin.close()
    drain = asyncio.create_task(process.stdout.read())
    assert await asyncio.wait_for(process.wait(), 20) == 75
    await drain
    assert not (room / "result.json").exists()


async def test_rooms_of_dead_workers_are_cleared(tmp_path):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass")
    await process.wait()
    (tmp_path / f"{process.pid}-abc" / "out").mkdir(parents=True)
    (tmp_path / f"{os.getpid()}-abc").mkdir()
    assert clear_rooms_of_the_dead(tmp_path) == 1
    assert [room.name for room in tmp_path.iterdir()] == [f"{os.getpid()}-abc"]
