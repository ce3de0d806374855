"""The three services that a run asks, in memory, behind a real HTTP door: their contracts, none of their rules."""

import asyncio
import hashlib
import io
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from clave_testing.patience import PATIENCE_S
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

START = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = ("customer__tenure", "customer__charges", "customer__plan")


def table(rows: int, *, seed: int = 1, shift: float = 0.0, first: int = 0, start: datetime = START) -> pa.Table:
    """Customers whose churn depends on three features; `shift` turns the sign of one of them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    plan = rng.integers(0, 3, rows).astype(np.float32)
    margin = (1 - 2 * shift) * 1.6 * x[:, 0] + 0.9 * x[:, 1] + 0.5 * (plan - 1)
    label = rng.random(rows) < 1 / (1 + np.exp(-margin))
    x[rng.random(rows) < 0.03, 1] = np.nan
    return pa.table(
        {
            "customer_id": [f"C{first + row:06d}" for row in range(rows)],
            "event_ts": pa.array([start + timedelta(minutes=row) for row in range(rows)], pa.timestamp("us", tz="UTC")),
            "churned": label.astype(np.float32),
            FEATURES[0]: x[:, 0],
            FEATURES[1]: pa.array(x[:, 1], from_pandas=True),
            FEATURES[2]: plan,
            "customer__female": rng.integers(0, 2, rows).astype(np.float32),
        }
    )


class Peers:
    """What the services hold; tests read and change it."""

    def __init__(self) -> None:
        self.table = table(1500)
        self.blobs: dict[str, bytes] = {}
        self.versions: list[dict[str, Any]] = []
        self.version_keys: dict[str, int] = {}
        self.endpoint: dict[str, Any] | None = None
        self.rollouts: dict[str, dict[str, Any]] = {}
        self.labelled: list[dict[str, Any]] = []
        self.ingested: dict[str, bytes] = {}
        self.approvals_needed = 0
        self.promote_at_once = True
        self.damage_blobs = False
        self.away = False
        self.callers: list[tuple[str, str | None]] = []

    def app(self) -> Starlette:
        """Build the application of all three services."""
        routes = [
            Route("/api/monitor/v1/endpoints/{endpoint}/labelled", self.get_labelled),
            Route("/api/features/v1/views/{view}/ingest", self.ingest, methods=["POST"]),
            Route("/api/features/v1/training-sets", self.make_training_set, methods=["POST"]),
            Route("/api/features/v1/training-sets/{id}/data", self.training_set_data),
            Route("/api/registry/v1/blobs/{digest}", self.blob, methods=["GET", "HEAD", "PUT"]),
            Route("/api/registry/v1/models", self.create_model, methods=["POST"]),
            Route("/api/registry/v1/models/{model}/versions", self.create_version, methods=["POST"]),
            Route("/api/registry/v1/models/{model}/versions/{version:int}", self.get_version),
            Route("/api/registry/v1/models/{model}/versions/{version:int}/submit", self.submit, methods=["POST"]),
            Route("/api/registry/v1/endpoints", self.create_endpoint, methods=["POST"]),
            Route("/api/registry/v1/endpoints/{endpoint}", self.get_endpoint),
            Route("/api/registry/v1/endpoints/{endpoint}/rollouts", self.create_rollout, methods=["POST"]),
            Route("/api/registry/v1/rollouts/{rollout}", self.get_rollout),
        ]
        return Starlette(routes=routes)

    def _seen(self, request: Request) -> Response | None:
        self.callers.append((request.url.path, request.headers.get("x-clave-on-behalf-of")))
        if self.away:
            return JSONResponse({"code": "unavailable", "detail": "away"}, 503)
        return None

    async def get_labelled(self, request: Request) -> Response:
        if refusal := self._seen(request):
            return refusal
        if not self.labelled:
            return JSONResponse({"code": "endpoint_not_found", "detail": "no such endpoint"}, 404)
        after = request.query_params.get("after")
        rows = [row for row in self.labelled if after is None or row["labelled_at"] > after]
        return JSONResponse({"rows": rows})

    async def ingest(self, request: Request) -> Response:
        self._seen(request)
        self.ingested[request.headers["idempotency-key"]] = await request.body()
        return JSONResponse({"batch_id": "b1", "view": "v", "rows": 1, "accepted": 1, "quarantined": 0})

    async def make_training_set(self, request: Request) -> Response:
        if refusal := self._seen(request):
            return refusal
        asked = await request.json()
        content = self._parquet()
        columns = [
            {"name": "customer_id", "role": "entity", "dtype": "string"},
            {"name": "event_ts", "role": "timestamp", "dtype": "timestamp"},
            {"name": "churned", "role": "label", "dtype": "float32"},
            *({"name": name, "role": "feature", "dtype": "float32", "view": "customer"} for name in FEATURES[:2]),
            {
                "name": FEATURES[2],
                "role": "feature",
                "dtype": "category",
                "view": "customer",
                "levels": ["a", "b", "c"],
            },
            {"name": "customer__female", "role": "extra", "dtype": "float32", "view": "customer"},
        ]
        digest = hashlib.sha256(content).hexdigest()
        return JSONResponse(
            {
                "id": f"ts_{digest[:8]}",
                "name": asked["name"],
                "digest": digest,
                "manifest_digest": digest,
                "rows": self.table.num_rows,
                "columns": columns,
                "feature_service": asked["feature_service"],
                "feature_views": {"customer": 1},
                "label_view": asked["label_view"],
                "as_of": "2026-06-01T00:00:00Z",
                "created_at": "2026-06-01T00:00:00Z",
            }
        )

    def _parquet(self) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer)
        return buffer.getvalue()

    async def training_set_data(self, request: Request) -> Response:
        self._seen(request)
        return Response(self._parquet()[: 100 if self.damage_blobs else None])

    async def blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if request.method == "PUT":
            content = await request.body()
            assert hashlib.sha256(content).hexdigest() == digest
            self.blobs[digest] = content
            return Response(status_code=201)
        if digest not in self.blobs:
            return JSONResponse({"code": "blob_not_found", "detail": "no"}, 404)
        return StreamingResponse(iter([self.blobs[digest]]))

    async def create_model(self, request: Request) -> Response:
        self._seen(request)
        asked = await request.json()
        return JSONResponse({"name": asked["name"], "created_at": START.isoformat(), "created_by": "t"}, 201)

    async def create_version(self, request: Request) -> Response:
        self._seen(request)
        asked, key = await request.json(), request.headers["idempotency-key"]
        if key not in self.version_keys:
            assert all(each["digest"] in self.blobs for each in asked["artifacts"])
            self.version_keys[key] = len(self.versions) + 1
            self.versions.append(
                {
                    **asked,
                    "model": request.path_params["model"],
                    "version": len(self.versions) + 1,
                    "status": "draft",
                    "manifest_digest": "0" * 64,
                    "approvals_needed": self.approvals_needed,
                    "created_at": START.isoformat(),
                    "created_by": "service:trainer",
                }
            )
        return JSONResponse(self.versions[self.version_keys[key] - 1], 201)

    async def get_version(self, request: Request) -> Response:
        return JSONResponse(self.versions[request.path_params["version"] - 1])

    async def submit(self, request: Request) -> Response:
        version = self.versions[request.path_params["version"] - 1]
        version["status"] = "submitted" if self.approvals_needed else "approved"
        return JSONResponse(version)

    async def create_endpoint(self, request: Request) -> Response:
        asked = await request.json()
        self.endpoint = {**asked, "live_version": asked["version"], "created_at": START.isoformat()}
        return JSONResponse(self.endpoint, 201)

    async def get_endpoint(self, request: Request) -> Response:
        if self.endpoint is None:
            return JSONResponse({"code": "endpoint_not_found", "detail": "no"}, 404)
        return JSONResponse(self.endpoint)

    async def create_rollout(self, request: Request) -> Response:
        asked, key = await request.json(), request.headers["idempotency-key"]
        rollout = {
            "id": f"rol_{hashlib.sha256(key.encode()).hexdigest()[:8]}",
            "endpoint": "churn",
            "model": "churn",
            "version": asked["version"],
            "state": "canary",
            "weight": 0.1,
            "plan": asked["plan"],
            "created_at": START.isoformat(),
            "created_by": "t",
        }
        return JSONResponse(self.rollouts.setdefault(rollout["id"], rollout), 201)

    async def get_rollout(self, request: Request) -> Response:
        rollout = self.rollouts[request.path_params["rollout"]]
        if self.promote_at_once and rollout["state"] == "canary":
            rollout["state"] = "promoted"
            assert self.endpoint is not None
            self.endpoint["live_version"] = rollout["version"]
        return JSONResponse(rollout)


class PeerServer:
    """Serves the peers on loopback in a thread."""

    def __init__(self, peers: Peers) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(peers.app(), log_level="warning", lifespan="off", ws="none", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._socket])), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        self._socket.close()
