"""Stands in for inference's peers on a loopback port: the gateway's snapshot, the registry's desired state and blobs,
the online store. The policy, its engine, keys, tokens and signatures are the real ones; only the peers' databases are
missing. Integration tests and benchmarks of the inference service run the real process against it.
"""

import asyncio
import hashlib
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import uvicorn
from clave_common.access.api_keys import ApiKey, new_api_key
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import KeyRecord, Snapshot, encode_snapshot
from clave_contracts.registry import Artifact, DesiredEndpoint, DesiredState, DesiredVersion, Route, Signature
from joserfc.jwk import OKPKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from clave_testing.patience import PATIENCE_S, wait_until

POLICIES = Path(__file__).parents[2] / "services/gateway/policies"
APP = "app:scoring"
_NOT_MODIFIED = 304


@dataclass
class InferencePeers:
    """The peers; `url` serves all of them."""

    secrets: Path
    key: ApiKey = field(default_factory=new_api_key)
    revision: int = 1
    blobs: dict[str, bytes] = field(default_factory=dict)
    desired: DesiredState = field(default_factory=lambda: DesiredState(revision="0", endpoints=[], versions=[]))
    observed: dict[str, Any] = field(default_factory=dict)
    features: dict[str, list[float | None]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    tier: dict[str, float] | None = None
    revoked: bool = False

    def add_version(
        self, number: int, files: dict[str, bytes], signature: Signature, *, rate_limit: float = 1_000_000
    ) -> DesiredVersion:
        """Store a version's files and describe it."""
        artifacts = []
        for path, data in files.items():
            digest = hashlib.sha256(data).hexdigest()
            self.blobs[digest] = data
            artifacts.append(Artifact(path=path, digest=digest, size=len(data)))
        return DesiredVersion(
            model="churn",
            version=number,
            manifest_digest="0" * 64,
            artifacts=artifacts,
            signature=signature,
            status="approved",
            tenant="default",
            contributors=["user:ada"],
            rate_limit_per_minute=rate_limit,
            allowed_namespaces=["Production"],
        )

    def want(self, versions: list[DesiredVersion], routes: list[tuple[int, str, float]]) -> None:
        """Change the desired state."""
        endpoint = DesiredEndpoint(
            name="churn",
            model="churn",
            namespace="Production",
            tenant="default",
            feature_service="churn_v1",
            routes=[Route(version=number, arm=arm, weight=weight) for number, arm, weight in routes],
        )
        revision = str(int(self.desired.revision) + 1)
        self.desired = DesiredState(revision=revision, endpoints=[endpoint], versions=versions)

    def revoke(self) -> None:
        """Withdraw the key."""
        self.revoked = True
        self.revision += 1

    def snapshot(self) -> bytes:
        """Sign the present keys and policy as the gateway does."""
        data: dict[str, Any] = {}
        for path in sorted((POLICIES / "data").glob("*.json")):
            data |= orjson.loads(path.read_bytes())
        data["bindings"][APP] = [{"role": "scoring-app", "tenant": "default", "namespaces": ["*"]}]
        modules = {path.name: path.read_text() for path in (POLICIES / "clave").glob("*.rego")}
        pepper = (self.secrets / "pepper").read_bytes().strip()
        record = KeyRecord(self.key.id, self.key.mac(pepper), APP, "default", (), ("**",), time.time() + 86_400)
        snapshot = Snapshot(
            self.revision, time.time(), {} if self.revoked else {self.key.id: record}, PolicyBundle(modules, data)
        )
        return encode_snapshot(snapshot, OKPKey.import_key((self.secrets / "gateway.pem").read_bytes()))

    async def _snapshot(self, request: Request) -> Response:
        etag = f'"{self.revision}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=_NOT_MODIFIED)
        return Response(self.snapshot(), headers={"etag": etag}, media_type="application/json")

    async def _desired(self, request: Request) -> Response:
        etag = f'"{self.desired.revision}"'
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=_NOT_MODIFIED)
        return Response(self.desired.model_dump_json(), headers={"etag": etag}, media_type="application/json")

    async def _blob(self, request: Request) -> Response:
        return Response(self.blobs[request.path_params["digest"]], media_type="application/octet-stream")

    async def _observed(self, request: Request) -> Response:
        self.observed[request.path_params["instance"]] = orjson.loads(await request.body())
        return Response(status_code=204)

    async def _online(self, request: Request) -> Response:
        keys = orjson.loads(await request.body())["entities"]["customer_id"]
        missing: list[float | None] = [None] * len(self.columns)
        document = {
            "columns": self.columns,
            "views": ["customers"],
            "values": [self.features.get(str(key), missing) for key in keys],
            "statuses": [["PRESENT" if str(key) in self.features else "NOT_FOUND"] for key in keys],
            "event_times": [[None] for _ in keys],
        }
        return Response(orjson.dumps(document), media_type="application/json")

    def app(self) -> Starlette:
        """Everything on one port; service tokens are not checked here."""
        return Starlette(
            routes=[
                HttpRoute("/api/gateway/v1/snapshot", self._snapshot),
                HttpRoute("/api/registry/v1/desired", self._desired),
                HttpRoute("/api/registry/v1/blobs/{digest}", self._blob),
                HttpRoute("/api/registry/v1/observed/{instance}", self._observed, methods=["PUT"]),
                HttpRoute("/api/features/v1/online/read", self._online, methods=["POST"]),
            ]
        )


class RunningPeers:
    """The peers, served from a thread until the context ends."""

    def __init__(self, peers: InferencePeers, *, port: int = 0) -> None:
        config = uvicorn.Config(
            peers.app(), host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, what="the peers' server")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)

    @property
    def port(self) -> int:
        """The port they listen on."""
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where they are."""
        return f"http://127.0.0.1:{self.port}"


def environment(
    peers_url: str, *, secrets: Path, data: Path, redis_url: str, http_port: int, grpc_port: int
) -> dict[str, str]:
    """The variables of an inference process that talks to these peers."""
    services = ("GATEWAY", "REGISTRY", "FEATURES", "INFERENCE", "MONITOR", "TRAINER")
    return {
        "CLAVE_INFERENCE_HTTP_PORT": str(http_port),
        "CLAVE_INFERENCE_GRPC_PORT": str(grpc_port),
        "CLAVE_INFERENCE_REDIS_URL": redis_url,
        "CLAVE_INFERENCE_DATA_DIR": str(data),
        "CLAVE_INFERENCE_SECRETS_DIR": str(secrets),
        **{f"CLAVE_{name}_URL": peers_url for name in services},
    }
