"""A small real model, and the whole prediction path around it with fakes only for peers."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnx
import pytest
import uvicorn
from clave_common.access import Access
from clave_common.access.model import Caller, Decision, RateLimit, Resource
from clave_common.access.verification import Presented
from clave_common.errors import PermissionDenied, Unauthenticated
from clave_common.service_app import create_service_app
from clave_contracts.prediction_batches import documents
from clave_contracts.registry import (
    Artifact,
    DesiredEndpoint,
    DesiredState,
    DesiredVersion,
    ObservedState,
    Route,
    Signature,
    TensorSpec,
)
from clave_inference.api import protocol_routes
from clave_inference.hot_route import HotRoute
from clave_inference.lane import lane_for
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.batcher import Batcher
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.runtime.shadow_runner import ShadowRunner
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admissions
from clave_inference.services.deploy import Deployment
from clave_inference.services.describe import Describe
from clave_inference.services.explain import Explanations
from clave_inference.services.explainer import Explainer
from clave_inference.services.feature_requests import FeatureRows
from clave_inference.services.predict import Predictions, PredictLimits
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.storage.artifact_cache import ArtifactCache
from clave_inference.storage.journal import Journal
from clave_inference.storage.spool import Spool
from clave_testing.patience import PATIENCE_S, wait_until
from fastapi import FastAPI
from onnx import TensorProto, helper

COLUMNS = 4
GOOD_KEY = "Bearer good"
DIGITS = 64


def linear_model(weight: float = 1.0) -> bytes:
    """`probabilities` = two columns of a weighted sum through a sigmoid, `label` = its rounding; NaN counts as 0."""
    nodes = [
        helper.make_node("IsNaN", ["input"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "input"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["margin"]),
        helper.make_node("Sigmoid", ["margin"], ["score"]),
        helper.make_node("Sub", ["one", "score"], ["complement"]),
        helper.make_node("Concat", ["complement", "score"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    weights = np.full((COLUMNS, 1), weight, np.float32)
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, COLUMNS])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, [COLUMNS, 1], weights.ravel().tolist()),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def contract_signature() -> Signature:
    return Signature(
        inputs=[TensorSpec(name="input", datatype="FP32", shape=[-1, COLUMNS])],
        outputs=[
            TensorSpec(name="label", datatype="INT64", shape=[-1]),
            TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2]),
        ],
        columns=["a", "b", "c", "d"],
        positive_output="probabilities:1",
    )


@dataclass
class FakeRegistry:
    """A registry that holds what a test says."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    state: DesiredState = field(default_factory=lambda: DesiredState(revision="0", endpoints=[], versions=[]))
    reports: list[ObservedState] = field(default_factory=list)
    reads: int = 0

    def version(self, number: int, data: bytes, *, status: str = "approved") -> DesiredVersion:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return DesiredVersion(
            model="churn",
            version=number,
            manifest_digest="0" * DIGITS,
            artifacts=[Artifact(path="model.onnx", digest=digest, size=len(data))],
            signature=contract_signature(),
            status=status,
            tenant="default",
            rate_limit_per_minute=1000.0,
        )

    def want(self, versions: list[DesiredVersion], routes: list[tuple[int, str, float]]) -> None:
        self.state = DesiredState(
            revision=str(int(self.state.revision) + 1),
            endpoints=[
                DesiredEndpoint(
                    name="churn",
                    model="churn",
                    namespace="Production",
                    tenant="default",
                    feature_service="churn_v1",
                    routes=[Route(version=number, arm=arm, weight=weight) for number, arm, weight in routes],
                )
            ],
            versions=versions,
        )

    async def desired(self, etag: str | None) -> tuple[str, DesiredState] | None:
        self.reads += 1
        return None if etag == self.state.revision else (self.state.revision, self.state)

    async def blob(self, digest: str) -> AsyncIterator[bytes]:
        yield self.blobs[digest]

    async def report(self, _instance: str, state: ObservedState) -> None:
        self.reports.append(state)


class FakeVerifier:
    """Knows one key."""

    calls = 0

    async def verify(self, presented: Presented) -> Caller | None:
        self.calls += 1
        if presented.authorization is None:
            return None
        if presented.authorization != GOOD_KEY:
            raise Unauthenticated("The credential is wrong.", code="invalid_credential")
        return Caller("app:web", "app", "default", "api_key", time.time() + 3600, key_id="k1")


class FakePoint:
    """A decision point that allows or refuses as a test says, with the limit that it says."""

    def __init__(self) -> None:
        self.limit: RateLimit | None = None
        self.allow = True
        self.audit: Literal["full", "sampled"] = "sampled"
        self.calls: list[tuple[str, Resource]] = []

    async def visible(self, caller: Caller, action: str) -> list[Mapping[str, Any]]:
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(
        self, _caller: Caller, action: str, resource: Resource, _context: Mapping[str, object]
    ) -> Decision:
        self.calls.append((action, resource))
        reasons = () if self.allow else ("no_grant",)
        return Decision(
            self.allow, reasons, "1", "dec_1", "fake", rate_limit=self.limit, audit=self.audit, cache_ttl_s=2.0
        )


@dataclass
class FakeStream:
    """A stream in memory, that can be away."""

    entries: list[bytes] = field(default_factory=list)
    away: bool = False

    async def add(self, _entry_id: str, body: bytes) -> None:
        if self.away:
            raise ConnectionError("away")
        self.entries.append(body)

    async def has_room(self) -> bool:
        return True

    def records(self) -> list[dict]:
        return [record for body in self.entries for record in documents(body)]


class FakeFeatures:
    """Answers every entity with its number in every column; column b is for churn prevention alone."""

    async def read(self, entities, _endpoint, signature, *, caller, rows_max, terms, trace=None):
        numbers = entities["customer_id"]
        values = np.repeat(np.array(numbers, np.float32)[:, None], len(signature.feature_names), axis=1)
        withheld = ("b",) if terms.purpose not in {None, "churn-prevention"} else ()
        if withheld and not terms.masks:
            raise PermissionDenied("Features: no.", code="permission_denied")
        values[:, [name in withheld for name in signature.feature_names]] = np.nan
        return FeatureRows(values, {"customers": ["PRESENT"] * len(numbers)}, entities, withheld)


@dataclass
class Bench:
    """The prediction path of one process."""

    registry: FakeRegistry
    deployment: Deployment
    predictions: Predictions
    admissions: Admissions
    point: FakePoint
    verifier: FakeVerifier
    stream: FakeStream
    log: PredictionLog
    batcher: Batcher
    metrics: PredictionMetrics
    describe: Describe
    app: FastAPI


def accept_all(_path: Path) -> None:
    """Stand in for the check in a process of its own, which has tests of its own."""


def make_bench(folder: Path, **changes: object) -> Bench:
    registry = FakeRegistry()
    first = registry.version(1, linear_model(1.0))
    registry.want([first], [(1, "live", 1.0)])
    cache = ArtifactCache(folder)
    deployment = Deployment(registry=registry, cache=cache, instance="test", check=accept_all)
    point, verifier, stream, metrics = FakePoint(), FakeVerifier(), FakeStream(), PredictionMetrics()
    access = Access(point)
    batcher = Batcher(
        rows_per_run_max=int(changes.get("rows_per_run_max", 128)),
        queued_rows_max=int(changes.get("queued_rows_max", 1000)),
        inline_us_max=4000.0,
        executor=ThreadPoolExecutor(1),
        on_batch=metrics.batches.add,
    )
    log = PredictionLog(
        stream=stream,
        spool=Spool(folder / "spool.log", bytes_max=1 << 20),
        journal=Journal(folder / "journal"),
        metrics=metrics,
        flush_after_s=0.0,
        buffered_max=10_000,
    )
    admissions = Admissions(verifier=verifier, access=access, ledger=RowLedger(None), table=lambda: deployment.table)
    explainer = Explainer(
        deployment=deployment, cache=cache, executor=ThreadPoolExecutor(1), rows_max=100, waiting_rows_max=200
    )
    shadows = ShadowRunner(rows_per_run_max=64, queued_rows_max=100, executor=ThreadPoolExecutor(1))
    predictions = Predictions(
        table=lambda: deployment.table,
        admissions=admissions,
        batcher=batcher,
        log=log,
        metrics=metrics,
        features=FakeFeatures(),
        explainer=explainer,
        shadows=shadows,
        access_log=AccessLog(every=1),
        limits=PredictLimits(rows_max=256),
    )
    describe = Describe(lambda: deployment.table, metrics)
    explanations = Explanations(
        deployment=deployment, explainer=explainer, admissions=admissions, features=FakeFeatures(), rows_max=256
    )
    app = create_service_app(
        service="inference",
        version="0",
        description="",
        routers=[protocol_routes(describe, explanations)],
        access=access,
        verifier=verifier,
        checks={},
    )
    app.add_middleware(HotRoute, predictions=lambda: predictions, body_bytes_max=1 << 20)
    return Bench(
        registry, deployment, predictions, admissions, point, verifier, stream, log, batcher, metrics, describe, app
    )


class RunningServer:
    """uvicorn in a thread of its own, on a free port, with one of the two roads to the hot route."""

    def __init__(self, bench: Bench, *, lane: bool) -> None:
        config = uvicorn.Config(
            bench.app,
            host="127.0.0.1",
            port=0,
            loop="uvloop",
            http=lane_for(bench.predictions) if lane else "httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
        self.bench = bench
        self.server = uvicorn.Server(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            await self.bench.deployment.step()
            await self.server.serve()

        import uvloop

        uvloop.run(main())

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.server.started, what="uvicorn's start")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(PATIENCE_S)

    model = staticmethod(linear_model)

    @property
    def port(self) -> int:
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on_loop(self, work: Callable[[], object]) -> object:
        """Run something in the server's loop and wait for it."""

        async def run() -> object:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture(params=["lane", "asgi"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningServer]:
    """The service over HTTP, once by uvicorn's lane and once by plain ASGI."""
    with RunningServer(make_bench(tmp_path), lane=request.param == "lane") as running:
        yield running


@pytest.fixture(scope="module", params=["lane", "asgi"])
def standing_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The same for every test of a module: for what must change nothing."""
    with RunningServer(make_bench(tmp_path_factory.mktemp("bench")), lane=request.param == "lane") as running:
        yield running


@pytest.fixture(scope="session")
def onnx_module() -> object:
    return onnx


@pytest.fixture
def models() -> Callable[[float], bytes]:
    """Makes the bytes of a linear model of some weight."""
    return linear_model
