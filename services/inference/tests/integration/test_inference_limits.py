"""Limits of several processes at once on real Valkey, against what the buckets' arithmetic allows."""

import json
import subprocess
import sys

import pytest
from clave_testing.patience import PATIENCE_S

pytestmark = pytest.mark.integration
SPEND_S = 1.2
RATES = {
    "rows": (1500.0, 300.0),
    "rows-key": (2500.0, 400.0),
    "rows-model": (3000.0, 500.0),
    "rows-tenant": (2800.0, 450.0),
}
CALLERS = [("k1", "m1"), ("k1", "m2"), ("k2", "m1"), ("k1", "m1")]  # the first and the last share every bucket

SPENDER = """
import asyncio, json, sys, time
from clave_common.redis_client import connect_redis
from clave_inference.domain.limits import Bucket, RowBudget, Spend
from clave_inference.runtime.row_ledger import RowLedger
url, seconds, rates, key, model = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4], sys.argv[5]
names = {"rows": f"{key}:{model}", "rows-key": f"key:{key}", "rows-model": f"model:{model}", "rows-tenant": "tenant:t"}
budget = RowBudget(tuple(Bucket(names[name], *rates[name], name) for name in rates))
async def spend():
    redis = connect_redis(url)
    ledger = RowLedger(redis, processes=4)
    await redis.ping()
    print("ready", flush=True)
    sys.stdin.readline()
    granted, refused_by, began = 0, set(), time.time()
    while time.time() < began + seconds:
        outcome = budget.spend(1, time.monotonic())
        if outcome is Spend.GRANTED:
            granted += 1
        elif outcome is Spend.ASK:
            await ledger.draw(budget, 1)
        else:
            refused_by.add(budget.refused_by.name)
            await asyncio.sleep(0.002)
    print(json.dumps([granted, began, time.time(), sorted(refused_by)]))
    await redis.aclose()
asyncio.run(spend())
"""


def test_processes_together_keep_every_limit_and_leave_little_of_it(redis_url: str) -> None:
    arguments = [redis_url, str(SPEND_S), json.dumps(RATES)]
    spenders = [
        subprocess.Popen(
            [sys.executable, "-c", SPENDER, *arguments, key, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for key, model in CALLERS
    ]
    for spender in spenders:
        assert spender.stdout is not None
        assert spender.stdout.readline() == "ready\n"
    for spender in spenders:
        assert spender.stdin is not None
        spender.stdin.write("go\n")
        spender.stdin.flush()
    outcomes = [json.loads(spender.communicate(timeout=PATIENCE_S)[0].splitlines()[-1]) for spender in spenders]
    took_s = max(ended for _, _, ended, _ in outcomes) - min(began for _, began, _, _ in outcomes)
    bounds = {name: burst + per_second * took_s for name, (per_second, burst) in RATES.items()}
    spent: dict[tuple[str, str], int] = {}
    for (key, model), (granted, *_) in zip(CALLERS, outcomes, strict=True):
        for bucket in (("rows", f"{key}:{model}"), ("rows-key", key), ("rows-model", model), ("rows-tenant", "t")):
            spent[bucket] = spent.get(bucket, 0) + granted
    for (name, who), rows in spent.items():
        assert rows <= bounds[name], (name, who)
    assert spent["rows-tenant", "t"] >= 0.6 * bounds["rows-tenant"]
    assert {name for *_, names in outcomes for name in names} >= {"rows-tenant"}
