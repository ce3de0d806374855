"""A whole trainer for tests: its API in this process, workers as processes, real Postgres and Valkey."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from clave_common.access import Access, Caller, Decision
from clave_common.access.credentials import LocalVerifier
from clave_common.database import Database
from clave_common.migrations import migrate_async
from clave_common.redis_client import connect_redis
from clave_contracts.trainer import PipelineSpec, Run
from clave_testing.patience import LONG_S, PATIENCE_S
from clave_trainer.app import create_app
from clave_trainer.settings import TrainerSettings
from clave_trainer.storage.tables import METADATA
from trainer_peers import Peers, PeerServer

SPEC = PipelineSpec(
    name="churn",
    model="churn",
    endpoint="churn",
    feature_service="churn",
    label_view="outcomes",
    label="churned",
    entity_key="customer_id",
    protected=["customer:female"],
    params={"rounds": 60, "early_stopping_rounds": 15},
    gates={"auc_loss_max": 0.05},
)


class AllowAll:
    async def visible(self, caller, action):
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller, action, resource, context):
        return Decision(allow=True, reasons=(), decision_id="dec_test", policy_version="r0", engine="test")


class OneCaller:
    async def verify(self, presented):
        return Caller("user:ada", "user", "default", "api_key", 4e9)


class Kit:
    """Enforcement that allows everything; policy has its own tests."""

    access = Access(AllowAll())
    verifier: LocalVerifier = OneCaller()
    audit_signer = None

    async def run(self, background) -> None:
        await asyncio.Event().wait()

    async def ready(self) -> None:
        return


class Bench:
    """The trainer under test."""

    def __init__(self, settings: TrainerSettings, peers: Peers, client: httpx.AsyncClient, database: Database):
        self.settings = settings
        self.peers = peers
        self.http = client
        self.database = database
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            [sys.executable, "-m", "clave_trainer", "worker"],
            env={**os.environ, **self.environment(), **environment},
            stdout=(self.settings.data_dir / f"worker-{len(self.workers)}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self.workers.append(worker)
        return worker

    def environment(self) -> dict[str, str]:
        s = self.settings
        return {
            "CLAVE_TRAINER_HTTP_PORT": "1",
            "CLAVE_TRAINER_DATABASE_URL": s.database_url.get_secret_value(),
            "CLAVE_TRAINER_REDIS_URL": s.redis_url.get_secret_value(),
            "CLAVE_TRAINER_DATA_DIR": str(s.data_dir),
            "CLAVE_TRAINER_SECRETS_DIR": str(s.secrets_dir),
            "CLAVE_TRAINER_BLOB_URL": s.blob_url,
            "CLAVE_TRAINER_LEASE_S": str(s.lease_s),
            "CLAVE_TRAINER_THREADS": "1",
            **{
                f"CLAVE_{name.upper()}_URL": getattr(s.peers, f"{name}_url")
                for name in ("registry", "features", "monitor")
            },
        }

    async def start_run(self, **body: Any) -> Run:
        await self.put_pipeline(SPEC)
        answer = await self.http.post("/api/trainer/v1/pipelines/churn/runs", json=body)
        assert answer.status_code == 201, answer.text
        return Run.model_validate_json(answer.content)

    async def put_pipeline(self, spec: PipelineSpec) -> None:
        content = spec.model_dump_json()
        answer = await self.http.put(f"/api/trainer/v1/pipelines/{spec.name}", content=content)
        assert answer.status_code == 200, answer.text

    async def run(self, run_id: str) -> Run:
        answer = await self.http.get(f"/api/trainer/v1/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        return Run.model_validate_json(answer.content)

    async def until(self, run_id: str, condition: Callable[[Run], bool], *, what: str, seconds: float = LONG_S) -> Run:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            run = await self.run(run_id)
            if condition(run):
                return run
            await asyncio.sleep(0.05)
        steps = [(s.name, s.state, s.attempt, s.message) for s in run.steps if s.state != "pending"]
        logs = "".join(path.read_text()[-1500:] for path in self.settings.data_dir.glob("worker-*.log"))
        raise TimeoutError(f"{what} did not happen within {seconds:g} s: {run.status} {run.reasons} {steps}\n{logs}")

    async def ended(self, run_id: str) -> Run:
        return await self.until(run_id, lambda run: run.finished_at is not None, what="the run's end")

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                for child in psutil.Process(worker.pid).children(recursive=True):
                    child.kill()
                worker.kill()
            worker.wait(PATIENCE_S)


def step(run: Run, name: str) -> Any:
    return next(each for each in run.steps if each.name == name)


@asynccontextmanager
async def bench_of(database_url: str, redis_url: str, secrets: Path, folder: Path) -> AsyncIterator[Bench]:
    await migrate_async(url=database_url, package="clave_trainer", metadata=METADATA)
    peers = Peers()
    with PeerServer(peers) as server:
        urls = {f"{name}_url": server.url for name in ("registry", "features", "monitor")}
        settings = TrainerSettings(
            http_port=1,
            database_url=database_url,
            redis_url=redis_url,
            data_dir=folder / "data",
            secrets_dir=secrets,
            blob_url=f"file://{folder}/blobs",
            lease_s=3.0,
            peers=urls,
        )
        settings.data_dir.mkdir()
        database = Database(database_url, METADATA, service="trainer")
        app = create_app(settings, Kit(), database, connect_redis(redis_url))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://trainer") as client:
                bench = Bench(settings, peers, client, database)
                try:
                    yield bench
                finally:
                    bench.stop()
