"""Puts a service's enforcement together from its settings: what `app.py` of every service calls.

    kit = open_access(settings, service="registry", redis=redis)
    app = create_service_app(..., access=kit.access, verifier=kit.verifier, ...)
    background.add("access", partial(kit.run, background))    # keeps keys and policy fresh
    client = peer_client(kit.minter, target="monitor", url=settings.peers.monitor_url)

It reads ``<secrets_dir>/<service>.pem``, ``services.jwks.json`` and ``pepper``, and decides by the embedded engine,
or by the OPA server that ``CLAVE_OPA_URL`` names.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.asyncio import Redis

from clave_common.access.credentials import LocalVerifier
from clave_common.access.decision_log import DecisionLog
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.edge import EdgeProof
from clave_common.access.enforcement import Access
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.model import INSTALLATION_TENANT
from clave_common.access.oidc import OidcSettings, OidcVerifier
from clave_common.access.ratelimit import RateLimiter
from clave_common.access.refusals import Refusals
from clave_common.access.request_limits import RequestLimits
from clave_common.access.service_tokens import ServiceTokenMinter, ServiceTokenVerifier, public_keys
from clave_common.access.snapshot import Snapshot, SnapshotFile, SnapshotSource
from clave_common.access.snapshot_keeper import GatewaySource, SnapshotKeeper
from clave_common.access.verification import CredentialVerifier
from clave_common.audit_signatures import AuditSigner
from clave_common.background import Background
from clave_common.peers import peer_client
from clave_common.settings import PeerSettings, ServiceSettings

SNAPSHOT_FILE = "access-snapshot.json"
JWKS_FILE = "services.jwks.json"
PEPPER_FILE = "pepper"
OPA_SETTLES_S = 2.0
"""The gateway loads OPA within a second of a change; services hear of the change by themselves."""


@dataclass(frozen=True, slots=True)
class AccessKit:
    """One service's enforcement.

    Attributes:
        run: The loop that keeps keys and policy fresh; takes the service's `Background`.
        ready: Raises Unavailable while there is no snapshot to decide by (a readiness check).
        snapshot: The copy of keys and policy in force, None before the first one came.
        audit_signer: Signs the service's audit entries as its outbox lets them go.
    """

    access: Access
    verifier: CredentialVerifier
    minter: ServiceTokenMinter
    run: Callable[[Background], Awaitable[None]]
    ready: Callable[[], Awaitable[None]]
    snapshot: Callable[[], Snapshot | None]
    keeper: SnapshotKeeper
    engine: PolicyEngine
    decision_point: LocalDecisionPoint
    audit_signer: AuditSigner


def open_access(
    settings: ServiceSettings,
    *,
    service: str,
    redis: Redis | None,
    source: SnapshotSource | None = None,
    engine: PolicyEngine | None = None,
    one_tenant: bool = False,
) -> AccessKit:
    """Build a service's enforcement; nothing is fetched before `AccessKit.run`.

    Args:
        settings: The service's settings.
        service: Its name, the audience of tokens it accepts.
        redis: For shared rate limits, wake-ups and the decision log; each works on without it.
        source: Where snapshots come from; the gateway's API when absent.
        engine: What decides; chosen by the settings when absent.
        one_tenant: The service's data belong to the installation's own tenant; no other tenant's caller gets in.
    """
    secrets = settings.secrets_dir
    minter = ServiceTokenMinter.from_file(service, secrets / f"{service}.pem")
    keys = public_keys(secrets / JWKS_FILE)
    engine = engine or policy_engine(settings.peers)
    keeper = SnapshotKeeper(
        source or GatewaySource(peer_client(minter, target="gateway", url=settings.peers.gateway_url, timeout_s=3.0)),
        engine,
        file=SnapshotFile(settings.data_dir / SNAPSHOT_FILE, keys),
        keys=keys,
        redis=redis,
    )
    signer = AuditSigner.from_file(service, secrets / f"{service}.pem")
    log = DecisionLog(service, redis, signer)
    settle_s = 0.0 if isinstance(engine, EmbeddedEngine) else OPA_SETTLES_S
    limiter = RateLimiter(redis)
    refusals = _refusals(settings.peers, limiter)
    point = LocalDecisionPoint(
        engine, keeper.current, age_s=keeper.age_s, log=log, refusals=refusals, settle_s=settle_s
    )
    verifier = LocalVerifier(
        pepper=(secrets / PEPPER_FILE).read_bytes().strip(),
        snapshot=keeper.current,
        refresh=keeper.refresh_soon,
        service_tokens=ServiceTokenVerifier(service, keys),
        oidc=_oidc(settings.peers),
        edge=EdgeProof.from_folder(secrets),
        failures=limiter,
    )
    access = Access(
        point,
        limits=RequestLimits(limiter, data=lambda: _data_of(keeper.current())),
        refusals=refusals,
        snapshot=keeper.current,
        tenant=INSTALLATION_TENANT if one_tenant else None,
    )

    return AccessKit(
        access=access,
        verifier=verifier,
        minter=minter,
        run=partial(_run, keeper, log),
        ready=keeper.ready,
        snapshot=keeper.current,
        keeper=keeper,
        engine=engine,
        decision_point=point,
        audit_signer=signer,
    )


async def _run(keeper: SnapshotKeeper, log: DecisionLog, background: Background) -> None:
    loops = [asyncio.create_task(keeper.run(background)), asyncio.create_task(log.run(background))]
    try:
        await asyncio.gather(*loops)
    finally:
        for loop in loops:
            loop.cancel()


def _data_of(snapshot: Snapshot | None) -> Mapping[str, Any]:
    return {} if snapshot is None else snapshot.bundle.data


def _refusals(peers: PeerSettings, limiter: RateLimiter) -> Refusals | None:
    if peers.refusals_per_minute == 0:
        return None
    return Refusals(limiter, per_minute=peers.refusals_per_minute, burst=peers.refusals_burst)


def policy_engine(peers: PeerSettings) -> PolicyEngine:
    """Choose the engine: a real OPA server where one is configured, the embedded one otherwise."""
    if not peers.opa_url:
        return EmbeddedEngine()
    from clave_common.access.opa_engine import OpaEngine  # noqa: PLC0415 - its client costs 12 MB

    return OpaEngine(peers.opa_url)


def _oidc(peers: PeerSettings) -> OidcVerifier | None:
    if not (peers.oidc_issuer and peers.oidc_audience and peers.oidc_jwks_url):
        return None
    return OidcVerifier(
        OidcSettings(
            issuer=peers.oidc_issuer,
            audience=peers.oidc_audience,
            jwks_url=peers.oidc_jwks_url,
            subject_claim=peers.oidc_subject_claim,
            groups_claim=peers.oidc_groups_claim,
            application_claim=peers.oidc_application_claim,
            tenant_claim=peers.oidc_tenant_claim,
        )
    )
