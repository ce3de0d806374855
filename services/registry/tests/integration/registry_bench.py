"""The registry on real Postgres, with the real policy and its real files; only credentials are taken at their word."""

import hashlib
import shutil
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from clave_common.access import Access, Caller
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.engine import EmbeddedEngine
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.access.verification import Presented
from clave_common.blobstore import LocalBlobStore
from clave_common.clock import FixedClock
from clave_common.database import Database
from clave_common.migrations import migrate
from clave_common.service_app import create_service_app
from clave_gateway.policy_files import read_policy, shipped_policy_dir
from clave_registry.app import Settings, Wired, wire
from clave_registry.domain.rollout import Analysis, Verdict
from clave_registry.mlflow.errors import MlflowErrors
from clave_registry.runtime.model_inspector import ModelInspector
from clave_registry.services.collection import Collection, Retention
from clave_registry.services.lineage import HeldIn
from clave_registry.services.uploads import Uploads
from clave_registry.storage.mlflow.tables import metadata
from clave_testing.servers import new_database
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from onnx import TensorProto, helper
from prometheus_client import CollectorRegistry
from sqlalchemy import text

INSPECTOR = ModelInspector()
FAR_FUTURE = 4_000_000_000.0
API = "/api/registry/v1"
RIVAL = "user:ria"
"""Somebody of another tenant, with every right over models and holds."""


def policy_bundle() -> PolicyBundle:
    shipped = read_policy(shipped_policy_dir())
    data = dict(shipped.data)
    everywhere = {"tenant": "default", "namespaces": ["*"]}
    people = {
        "user:ana": [{"role": "data-scientist", **everywhere}],
        "user:eve": [{"role": "ml-engineer", **everywhere}],
        "user:bob": [{"role": "approver", **everywhere}],
        "user:cat": [{"role": "approver", **everywhere}],
        "user:col": [{"role": "compliance-officer", **everywhere}],
        "user:vic": [{"role": "viewer", **everywhere}],
        RIVAL: [
            {"role": role, "tenant": "rival", "namespaces": ["*"]} for role in ("ml-engineer", "compliance-officer")
        ],
    }
    data["bindings"] = {**data["bindings"], **people}
    return PolicyBundle(modules=shipped.modules, data=data)


class WordOfMouth:
    """Believes ``Bearer user:ana`` and ``Bearer service:trainer`` as they stand."""

    async def verify(self, presented: Presented) -> Caller | None:
        if presented.authorization is None:
            return None
        subject = presented.authorization.partition(" ")[2]
        kind: Any = subject.partition(":")[0]
        service = kind == "service"
        return Caller(
            subject_id=subject,
            subject_type=kind,
            tenant="*" if service else "rival" if subject == RIVAL else "default",
            method="internal_jwt" if service else "api_key",
            expires_at=FAR_FUTURE,
            source_ip="127.0.0.1",
            on_behalf_of=presented.on_behalf_of if service else None,
        )


class ScriptedAnalysis:
    """What the monitor would say."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = Verdict.PASS
        self.rows = 1000
        self.reasons: tuple[str, ...] = ("loss is no worse",)
        self.figures: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []

    async def analysis(self, **question: Any) -> tuple[Analysis, dict[str, Any]] | None:
        self.asked.append(question)
        if self.verdict is None:
            return None
        return Analysis(self.verdict, self.rows, self.reasons), {"verdict": self.verdict.value, **self.figures}


class ScriptedMembership:
    """What the feature service would say about who is in which training set."""

    def __init__(self) -> None:
        self.held: list[HeldIn] = []
        self.complete = True
        self.asked: list[Mapping[str, str | int]] = []

    async def training_sets_with(
        self, keys: Mapping[str, str | int], *, on_behalf_of: str
    ) -> tuple[list[HeldIn], bool]:
        assert on_behalf_of.startswith("user:")
        self.asked.append(keys)
        return self.held, self.complete


class Bench:
    """A registry under test and its handles."""

    def __init__(
        self,
        *,
        wired: Wired,
        database: Database,
        client: httpx.AsyncClient,
        source: ScriptedAnalysis,
        store: LocalBlobStore,
        blob_folder: Path,
        membership: ScriptedMembership,
        signing_key: bytes,
    ) -> None:
        self.wired = wired
        self.database = database
        self.client = client
        self.source = source
        self.store = store
        self.blob_folder = blob_folder
        self.membership = membership
        self.signing_key = signing_key

    def begin_anew(self) -> None:
        """Forget what the last test stored and scripted."""
        shutil.rmtree(self.blob_folder, ignore_errors=True)
        vars(self.source).update(vars(ScriptedAnalysis()))
        vars(self.membership).update(vars(ScriptedMembership()))

    async def call(
        self, who: str, method: str, path: str, body: Any = None, *, expect: int | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {who}", **options.pop("headers", {})}
        response = await self.client.request(method, path, json=body, headers=headers, **options)
        if expect is not None:
            assert response.status_code == expect, response.text
        return response

    async def upload(self, data: bytes, *, who: str = "user:ana") -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        await self.call(who, "PUT", f"{API}/blobs/{digest}", content=data, expect=200)
        return {"digest": digest, "size": len(data)}

    async def rows(self, query: str) -> list[Mapping[str, Any]]:
        async with self.database.transaction() as tx:
            return list((await tx.session.execute(text(query))).mappings())


@pytest.fixture(scope="module")
async def policy_access() -> Access:
    engine = EmbeddedEngine()
    bundle = policy_bundle()
    await engine.load(bundle)
    snapshot = Snapshot(revision=1, issued_at=0.0, keys={}, bundle=bundle)
    return Access(LocalDecisionPoint(engine, lambda: snapshot))


@pytest.fixture(scope="module")
def registry_url() -> str:
    """One migrated database per module; each test begins with it empty."""
    url = new_database("registry")
    migrate(url=url, package="clave_registry", metadata=metadata)
    return url


async def emptied(database: Database) -> None:
    tables = ", ".join(table.fullname for table in metadata.sorted_tables)
    async with database.transaction() as tx:
        await tx.session.execute(text(f"truncate {tables} restart identity cascade"))
        await tx.session.execute(
            text(
                "insert into registry.experiments (id, tenant, name, artifact_location, lifecycle_stage, creation_time,"
                " last_update_time) values (0, 'default', 'Default', 'mlflow-artifacts:/0', 'active', 0, 0)"
            )
        )


@pytest.fixture
async def bench(running: Bench) -> Bench:
    """The module's registry, as empty as on its first day."""
    await emptied(running.database)
    running.begin_anew()
    return running


@pytest.fixture(scope="module")
async def running(
    registry_url: str, tmp_path_factory: pytest.TempPathFactory, policy_access: Access
) -> AsyncIterator[Bench]:
    """Building an application of 130 routes takes longer than most tests: one serves a module."""
    url = registry_url
    tmp_path = tmp_path_factory.mktemp("registry")
    database = Database(url, metadata, service="registry", connections_max=20)
    keys = tmp_path / "keys"
    keys.mkdir()
    signer = ec.generate_private_key(ec.SECP256R1())
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (keys / "signer.pem").write_bytes(public)
    settings = Settings.model_validate(
        {
            "http_port": 47322,
            "database_url": url,
            "redis_url": "unix:///nowhere",
            "data_dir": tmp_path,
            "secrets_dir": tmp_path,
            "blob_url": f"file://{tmp_path}/blobs",
            "rollout_look_s": 0.2,
            "webhook_hosts": "127.0.0.1,localhost,*.example.org",
            "webhook_networks": "127.0.0.0/8",
            "signing_keys_dir": keys,
        }
    )
    source, membership = ScriptedAnalysis(), ScriptedMembership()
    store = LocalBlobStore(tmp_path / "blobs")
    wired = wire(
        settings,
        database=database,
        store=store,
        access=policy_access,
        source=source,
        membership=membership,
        webhook_key=b"under test",
        inspector=INSPECTOR,
    )
    app = create_service_app(
        service="registry",
        version="0",
        description="under test",
        routers=wired.routers,
        access=policy_access,
        verifier=WordOfMouth(),
        checks={},
        registry=CollectorRegistry(),
        streaming_prefixes=(f"{API}/blobs/", f"{API}/uploads/", "/api/2.0/mlflow-artifacts/"),
    )
    app.add_middleware(MlflowErrors)
    private = signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://registry") as client:
        yield Bench(
            wired=wired,
            database=database,
            client=client,
            source=source,
            store=store,
            blob_folder=tmp_path / "blobs",
            membership=membership,
            signing_key=private,
        )
    await database.close()


async def released(bench: Bench) -> None:
    """Endpoint ``churn`` on version 1 of two submitted ones."""
    for number in (1, 2):
        await register(bench)
        await bench.call("user:ana", "POST", f"{API}/models/churn/versions/{number}/submit", {}, expect=200)
    body = {"name": "churn", "model": "churn", "version": 1}
    await bench.call("user:eve", "POST", f"{API}/endpoints", body, expect=201)


def onnx_model(*, columns: int = 3, domain: str = "") -> bytes:
    """Serialise a linear scorer over `columns` features: input (n, columns), output ``score`` (n, 1)."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [columns, 1], [0.5] * columns)
    nodes = [helper.make_node("MatMul", ["input", "w"], ["logit"], domain=domain)]
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "scorer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return model


def version_request(artifacts: list[dict[str, Any]], *, passed: bool = True, **changes: Any) -> dict[str, Any]:
    """Describe a version as the trainer does."""
    verdict = "passed" if passed else "failed"
    return {
        "artifacts": artifacts,
        "signature": {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}],
            "columns": ["tenure", "monthly_charges", "contract"],
            "positive_output": "score:0",
        },
        "params": {"max_depth": 5, "algorithm": "XGBoost"},
        "lineage": {
            "run_id": "run_1",
            "datasets": [{"id": "ts_1", "name": "churn", "digest": "a" * 64, "rows": 5000}],
        },
        "evaluation": {
            "metrics": {"train": {"auc": 0.87, "accuracy": 0.81}, "test": {"auc": 0.83, "accuracy": 0.79}},
            "gates": [
                {
                    "gate": "auc",
                    "verdict": verdict,
                    "detail": "AUC on test",
                    "estimate": 0.83,
                    "low": 0.81,
                    "high": 0.85,
                    "limit": 0.8,
                    "n": 2000,
                }
            ],
            "passed": passed,
            "fairness": {"female": {"parity_ratio": 0.92, "low": 0.87, "high": 0.97, "n": 2000}},
            "rows": 2000,
        },
        "card": {"algorithm": "Gradient boosted trees", "limitations": ["Small <b>sample</b>"]},
        **changes,
    }


async def register(bench: Bench, *, model: str = "churn", columns: int = 3, **changes: Any) -> dict[str, Any]:
    """Create the model if need be, upload a graph and register a version of it."""
    await bench.call("user:ana", "POST", f"{API}/models", {"name": model})
    artifact = {"path": "model.onnx", **await bench.upload(onnx_model(columns=columns))}
    answer = await bench.call(
        "user:ana", "POST", f"{API}/models/{model}/versions", version_request([artifact], **changes), expect=201
    )
    version: dict[str, Any] = answer.json()
    return version


def collection(bench: Bench, *, days_later: float) -> Collection:
    """Give the collection of some days later: blobs are kept for 7 days, files of deleted versions for 30."""
    clock = FixedClock(datetime.now(UTC) + timedelta(days=days_later))
    retention = Retention(blobs_s=7 * 86_400, versions_s=30 * 86_400)
    uploads = Uploads(bench.database, bench.store, clock, size_max=1 << 30)
    return Collection(bench.database, bench.store, clock, retention=retention, uploads=uploads)


async def collected(bench: Bench, *, days_later: float) -> int:
    """Collect once, as the loop does; how many blobs went."""
    at_work = collection(bench, days_later=days_later)
    await at_work.end_links()
    return await at_work.collect()
