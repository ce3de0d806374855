"""The gateway's composition root."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING

from clave_common.access.wiring import JWKS_FILE, PEPPER_FILE, AccessKit, open_access
from clave_common.audit_signatures import RETIRED_KEYS_FILE, AuditVerifier
from clave_common.background import Background
from clave_common.clock import SystemClock
from clave_common.database import Database
from clave_common.outbox import OutboxRelay
from clave_common.redis_client import connect_redis
from clave_common.service_app import create_service_app
from clave_common.settings import ServiceSettings
from clave_common.streams import Handler, StreamConsumer
from clave_contracts.events import SERVICES, audit_stream, decision_stream
from fastapi import FastAPI
from pydantic_settings import SettingsConfigDict
from redis.asyncio import Redis

from clave_gateway import __version__
from clave_gateway.api.audit import audit_router
from clave_gateway.api.decisions import authzen_router, decisions_router
from clave_gateway.api.identity import bindings_router, keys_router
from clave_gateway.api.internal import snapshot_router
from clave_gateway.api.policies import lockdown_router, policies_router
from clave_gateway.api.principals import principals_router
from clave_gateway.policy_files import read_policy, shipped_policy_dir
from clave_gateway.runtime.sequencer import CHECKPOINT_LOOP, GROUP, Sequencer, Witness
from clave_gateway.services.audit import AuditService
from clave_gateway.services.bindings import BindingService
from clave_gateway.services.decisions import DecisionService
from clave_gateway.services.evaluation import EvaluationService
from clave_gateway.services.first_start import FirstStart
from clave_gateway.services.keys import KeyService
from clave_gateway.services.policies import PolicyService
from clave_gateway.services.principals import PrincipalService
from clave_gateway.services.snapshot import SnapshotService
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage.tables import metadata

if TYPE_CHECKING:
    from clave_gateway.runtime.opa_publisher import PublishingOpaEngine

SERVICE = "gateway"


class Settings(ServiceSettings):
    """The gateway's settings (``CLAVE_GATEWAY_*``).

    Attributes:
        admin_key_file: Where the first start writes the administrator's key; in the secrets folder when absent.
        policy_dir: Another policy than the shipped one, with ``clave/*.rego`` and ``data/*.json``.
        audit_origin: Name of the log in its checkpoints.
        opa_token_file: Holds the token with which this gateway may change the OPA server's policy and data.
    """

    model_config = SettingsConfigDict(env_prefix="CLAVE_GATEWAY_", extra="ignore")

    admin_key_file: Path | None = None
    policy_dir: Path | None = None
    audit_origin: str = "clave/audit"
    opa_token_file: Path | None = None


def create_app(settings: Settings) -> FastAPI:
    """Put the gateway together; nothing is opened before its lifespan."""
    return Gateway(settings).app()


class Gateway:
    """Everything the gateway holds while it runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._pepper = (settings.secrets_dir / PEPPER_FILE).read_bytes().strip()
        self._signer = GatewaySigner.from_file(settings.secrets_dir / f"{SERVICE}.pem")
        self._database = Database(
            settings.database_url.get_secret_value(),
            metadata,
            service=SERVICE,
            connections_max=settings.database_connections_max,
        )
        self._redis: Redis = connect_redis(settings.redis_url.get_secret_value())
        self._snapshots = SnapshotService(self._database, self._signer, self._clock)
        self._opa = opened_opa(settings.peers.opa_url, settings.opa_token_file) if settings.peers.opa_url else None
        self._kit: AccessKit = open_access(
            settings, service=SERVICE, redis=self._redis, source=self._snapshots, engine=self._opa
        )
        self._witness = Witness(settings.data_dir / "witness")
        self._sequencer = Sequencer(
            self._database,
            self._signer,
            self._witness,
            origin=settings.audit_origin,
            clock=self._clock,
            verifier=AuditVerifier.from_files(settings.secrets_dir / JWKS_FILE),
        )
        self._decisions = DecisionService(self._database, self._kit.access, self._kit.engine, self._clock)
        self._background = Background()

    def app(self) -> FastAPI:
        """Build the application."""
        kit, access = self._kit, self._kit.access
        bindings = BindingService(self._database, access, self._clock)
        keys = KeyService(self._database, access, bindings, pepper=self._pepper, clock=self._clock)
        policies = PolicyService(self._database, access, self._signer, snapshot=kit.snapshot, clock=self._clock)
        secrets = self._settings.secrets_dir
        recorded = AuditVerifier.from_files(secrets / JWKS_FILE, secrets / RETIRED_KEYS_FILE)
        audit = AuditService(self._database, access, self._signer, self._witness, self._sequencer, recorded)
        return create_service_app(
            service=SERVICE,
            version=__version__,
            description="Identity, policy decisions and the audit log.",
            routers=[
                keys_router(keys, self._database),
                bindings_router(bindings),
                principals_router(PrincipalService(self._database, access, self._clock), access),
                snapshot_router(self._snapshots),
                policies_router(policies),
                lockdown_router(policies),
                decisions_router(self._decisions),
                authzen_router(EvaluationService(self._database, access, kit.engine)),
                audit_router(audit),
            ],
            access=access,
            verifier=kit.verifier,
            checks={"postgres": self._database.ping, "redis": self._ping_redis, "policy": kit.ready},
            lifespan=self._lifespan,
            body_bytes_max=self._settings.body_bytes_max,
        )

    async def _ping_redis(self) -> None:
        await self._redis.ping()

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        shipped = read_policy(self._settings.policy_dir or shipped_policy_dir())
        first_start = FirstStart(
            self._database,
            self._signer,
            pepper=self._pepper,
            admin_key_file=self._settings.admin_key_file or self._settings.secrets_dir / "admin.key",
            clock=self._clock,
        )
        await first_start.run(shipped)
        self._add_loops()
        async with self._background:
            yield
        if self._opa is not None:
            await self._opa.close()
        await self._redis.aclose()
        await self._database.close()

    def _add_loops(self) -> None:
        background = self._background
        relay = OutboxRelay(self._database, self._redis, self._kit.audit_signer)
        background.add("outbox", partial(relay.run, background))
        background.add("access", partial(self._kit.run, background))
        background.add("sequencer", partial(self._consume, audit_stream, GROUP, self._sequencer.append))
        background.add("decisions", partial(self._consume, decision_stream, "decisions", self._decisions.keep))
        background.add(CHECKPOINT_LOOP, partial(self._sequencer.run_checkpoints, background))
        if self._opa is not None:
            background.add("opa", partial(keep_loaded, self._opa, background))

    async def _consume(self, stream_of: Callable[[str], str], group: str, handler: Handler) -> None:
        # What all services shared before each had its own: nothing in it is signed, and nobody else may remove it.
        await self._redis.unlink(stream_of(SERVICE).removesuffix(f".{SERVICE}"))
        streams = [stream_of(service) for service in SERVICES]
        consumer = StreamConsumer(self._redis, streams=streams, group=group, consumer=f"{SERVICE}-{gethostname()}")
        await consumer.run(handler, self._background, group)


def opened_opa(url: str, token_file: Path | None) -> "PublishingOpaEngine":
    """Connect to the OPA server that this gateway keeps loaded."""
    from clave_gateway.runtime.opa_publisher import PublishingOpaEngine  # noqa: PLC0415 - its client costs 12 MB

    return PublishingOpaEngine(url, token=token_file.read_text().strip() if token_file else None)


async def keep_loaded(engine: "PublishingOpaEngine", background: Background) -> None:
    """Watch the OPA server and load it again when needed."""
    from clave_gateway.runtime.opa_publisher import OpaPublisher  # noqa: PLC0415 - see above

    await OpaPublisher(engine).run(background)
