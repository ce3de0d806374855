"""Operations on endpoints: create, describe, look back, go back.

An endpoint's live version changes in exactly three ways: it is created with one, a rollout promotes one, or an
operator goes back to the one before. Each is written to the endpoint's history with who and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from clave_common.access import Access, Caller, Resource
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import AlreadyExists, FailedPrecondition, NotFound
from clave_common.pages import decode_token, encode_token
from clave_contracts import registry as contract

from clave_registry.converters import OBSERVED_FRESH, to_approval, to_endpoint, to_plan, to_state
from clave_registry.domain import rollout as rules
from clave_registry.domain.manifest import PICKLE_SUFFIXES
from clave_registry.domain.names import checked_name
from clave_registry.domain.traffic import Route, routes
from clave_registry.domain.version import Approval
from clave_registry.services.governance import (
    record_change,
    require_revision,
    tenant_of,
    version_resource,
)
from clave_registry.services.models import model_named
from clave_registry.services.rollout_rows import announce_desired, put_live, running_rollout, settle
from clave_registry.services.signatures import ReleaseRules, signature_verified
from clave_registry.services.versions import no_version
from clave_registry.storage import endpoints, versions
from clave_registry.storage.records import ApprovalRow, AssignmentRow, EndpointRow, ModelRow, RolloutRow, VersionRow

SERVED_ARTIFACT = "model.onnx"


class NotDeployable(FailedPrecondition):
    """The version has no graph that inference could load, or holds files that may run code."""

    code = "not_deployable"


class NothingBefore(FailedPrecondition):
    """The endpoint has no earlier version to go back to."""

    code = "no_previous_version"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that policy lets answer for an endpoint."""

    model: ModelRow
    version: VersionRow


def no_endpoint(name: str) -> NotFound:
    """Build the refusal for an endpoint that is not there."""
    return NotFound(f"There is no endpoint '{name}'.", code="endpoint_not_found", endpoint=name)


async def endpoint_named(tx: Transaction, caller: Caller, name: str, *, lock: bool = False) -> EndpointRow:
    """Find an endpoint of the caller's tenant.

    Raises:
        NotFound: There is none of that name.
    """
    row = await endpoints.find(tx, name, lock=lock)
    if row is None or row.tenant != tenant_of(caller):
        raise no_endpoint(name)
    return row


def routes_of(row: EndpointRow, running: RolloutRow | None) -> tuple[Route, ...]:
    """Derive an endpoint's routes from its rows."""
    if running is None:
        return routes(row.live_version, None, None, None)
    plan = to_plan(running.plan, look_interval_s=rules.LOOK_INTERVAL_S_MIN)
    return routes(row.live_version, running.version, to_state(running), plan)


async def deployable(
    tx: Transaction,
    access: Access,
    caller: Caller,
    *,
    model: ModelRow,
    number: int,
    namespace: str,
    endpoint: str,
    action: str,
    release: ReleaseRules,
    now: datetime,
) -> Deployment:
    """Let a version towards traffic, or say why not.

    Raises:
        NotFound: There is no such version.
        NotDeployable: It cannot be loaded safely.
        PermissionDenied: Policy forbids it (status, approvals, gates, window, card, role).
        ApprovalsMissing: The risk class asks for more people whose approval is fresh.
    """
    row = await versions.find(tx, model.id, number, lock=True)
    if row is None:
        raise no_version(model.name, number)
    entries = await versions.entries_of(tx, [row.manifest_digest])
    paths = [entry.path for entry in entries]
    unsafe = [path for path in paths if path.lower().endswith(PICKLE_SUFFIXES)]
    if SERVED_ARTIFACT not in paths or unsafe or not row.signature.get("inputs"):
        lacks = "no known signature" if SERVED_ARTIFACT in paths else f"no {SERVED_ARTIFACT}"
        why = f"holds {', '.join(unsafe)}" if unsafe else f"has {lacks}"
        raise NotDeployable(f"Version {number} {why} and cannot be served.", version=number, unsafe=unsafe)
    resource = await release_resource(tx, model, row, namespace=namespace, endpoint=endpoint, release=release, now=now)
    await access.require(caller, action, resource)
    spoken = await versions.approvals_of(tx, [(row.model_id, row.version)])
    release.quorum.require(
        model.risk_class,
        namespace=namespace,
        approvals=[Approval(a.by, a.decision == "approve", a.at) for a in spoken],
        contributors=row.contributors,
        now=now,
    )
    return Deployment(model, row)


async def release_resource(
    tx: Transaction,
    model: ModelRow,
    row: VersionRow,
    *,
    namespace: str,
    endpoint: str,
    release: ReleaseRules,
    now: datetime,
) -> Resource:
    """Describe a version that is to answer for an endpoint to the policy: fresh approvals, valid signature."""
    spoken = await versions.approvals_of(tx, [(row.model_id, row.version)])
    words = release.quorum.fresh([Approval(a.by, a.decision == "approve", a.at) for a in spoken], now=now)
    kept = {(word.by, word.at) for word in words}
    fresh = [a for a in spoken if (a.by, a.at) in kept]
    signed = await signature_verified(tx, release.trusted, row)
    extra = {"endpoint": endpoint, "signature_verified": signed}
    return version_resource(model, row, fresh, namespace=namespace, extra=extra)


def endpoint_resource(row: EndpointRow) -> Resource:
    """Describe an endpoint to the policy."""
    return Resource("deployment", f"endpoints/{row.name}", {"tenant": row.tenant, "namespace": row.namespace})


class Endpoints:
    """Create and describe endpoints, and go back to the version before."""

    def __init__(self, database: Database, access: Access, clock: Clock, *, release: ReleaseRules) -> None:
        self._database = database
        self._access = access
        self._clock = clock
        self._release = release

    async def create(self, caller: Caller, request: contract.EndpointCreate) -> contract.Endpoint:
        """Create an endpoint; a version given answers at once.

        Raises:
            AlreadyExists: The name is taken.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            model = await model_named(tx, caller, request.model)
            row = await endpoints.add(
                tx,
                {
                    "name": checked_name(request.name, noun="endpoint"),
                    "tenant": model.tenant,
                    "model_id": model.id,
                    "model": model.name,
                    "namespace": request.namespace,
                    "feature_service": request.feature_service,
                    "description": request.description,
                    "created_by": caller.acting_for,
                    "created_at": now,
                    "updated_at": now,
                },
            )
            if row is None:
                raise AlreadyExists(f"An endpoint named '{request.name}' exists already.", endpoint=request.name)
            row = await self._first_version(tx, caller, row, model, request.version)
            await record_change(
                tx,
                caller,
                "inference:deployment.create",
                f"endpoints/{row.name}",
                tenant=row.tenant,
                model=model.name,
                version=request.version,
                namespace=request.namespace,
            )
            await announce_desired(tx, row, why="created")
            return await self._shown(tx, row)

    async def _first_version(
        self, tx: Transaction, caller: Caller, row: EndpointRow, model: ModelRow, version: int | None
    ) -> EndpointRow:
        if version is None:
            # An empty endpoint deploys nothing but takes a name in a namespace. Going back is no measure of that right:
            # whoever watches may, and lockdown lets them.
            await self._access.require(caller, "inference:model.manage", endpoint_resource(row))
            return row
        await deployable(
            tx,
            self._access,
            caller,
            model=model,
            number=version,
            namespace=row.namespace,
            endpoint=row.name,
            action="inference:deployment.create",
            release=self._release,
            now=self._clock.now(),
        )
        return await put_live(
            tx, row, version, at=self._clock.now(), by=caller.acting_for, reason="first version of the endpoint"
        )

    async def require_read(self, caller: Caller, name: str) -> None:
        """Insist that the caller may read an endpoint.

        Raises:
            NotFound: There is none of that name.
            PermissionDenied: Policy forbids it.
        """
        async with self._database.transaction() as tx:
            row = await endpoint_named(tx, caller, name)
        await self._access.require(caller, "inference:deployment.read", endpoint_resource(row))

    async def get(self, caller: Caller, name: str) -> contract.Endpoint:
        """Describe an endpoint with its routes and what inference reports."""
        async with self._database.transaction() as tx:
            return await self._shown(tx, await endpoint_named(tx, caller, name))

    async def list_page(self, caller: Caller, *, size: int, token: str | None) -> tuple[list[contract.Endpoint], str]:
        """List endpoints by name."""
        query = f"endpoints:{tenant_of(caller)}"
        after = str(decode_token(token, query=query, kinds=(str,))[0]) if token else None
        async with self._database.transaction() as tx:
            rows = await endpoints.page(tx, tenant=tenant_of(caller), after=after, limit=size + 1, caller=caller)
            page = [await self._shown(tx, row) for row in rows[:size]]
        return page, encode_token([rows[size - 1].name], query=query) if len(rows) > size else ""

    async def history(
        self, caller: Caller, name: str, *, at: datetime | None, size: int, token: str | None
    ) -> tuple[list[contract.HistoryEntry], str]:
        """Say which version answered when (or at one time), approved by whom, made from what."""
        query = f"history:{tenant_of(caller)}:{name}:{at}"
        before = int(decode_token(token, query=query, kinds=(int,))[0]) if token else None
        async with self._database.transaction() as tx:
            row = await endpoint_named(tx, caller, name)
            spans = await endpoints.assignments(tx, name, at=at, before=before, limit=size + 1)
            kept = spans[:size]
            keys = [(span.model_id, span.version) for span in kept]
            found = {(v.model_id, v.version): v for v in await versions.several(tx, keys)}
            spoken = await versions.approvals_of(tx, keys)
        entries = [_entry(row, span, found[span.model_id, span.version], spoken) for span in kept]
        return entries, encode_token([spans[size - 1].seq], query=query) if len(spans) > size else ""

    async def roll_back(self, caller: Caller, name: str, *, reason: str, revision: int | None) -> contract.Endpoint:
        """End a running rollout, or go back to the version before where none runs.

        Raises:
            NothingBefore: There is no earlier version.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await endpoint_named(tx, caller, name, lock=True)
            require_revision(row.revision, revision)
            await self._access.require(caller, "inference:deployment.rollback", endpoint_resource(row))
            running = await running_rollout(tx, row, lock=True)
            if running is not None:
                state = rules.roll_back(to_state(running), now=now, reason=reason)
                row = await settle(tx, row, running, state, at=now, by=caller.acting_for)
            elif row.previous_version is None:
                raise NothingBefore(f"'{name}' has no earlier version to go back to.", endpoint=name)
            else:
                row = await put_live(
                    tx, row, row.previous_version, at=now, by=caller.acting_for, reason=f"rolled back: {reason}"
                )
            await record_change(
                tx,
                caller,
                "inference:deployment.rollback",
                f"endpoints/{name}",
                tenant=row.tenant,
                live_version=row.live_version,
                reason=reason,
            )
            await announce_desired(tx, row, why="rolled back")
            return await self._shown(tx, row)

    async def report(self, instance: str, report: contract.ObservedState) -> None:
        """Keep what an inference process has loaded."""
        checked_name(instance, noun="instance")
        async with self._database.transaction() as tx:
            await endpoints.report(
                tx,
                instance,
                at=self._clock.now(),
                revision=report.revision,
                versions=[version.model_dump() for version in report.versions],
            )

    async def _shown(self, tx: Transaction, row: EndpointRow) -> contract.Endpoint:
        running = await running_rollout(tx, row)
        reports = await endpoints.reports(tx, since=self._clock.now() - OBSERVED_FRESH)
        return to_endpoint(row, routes_of(row, running), reports)


def _entry(
    endpoint: EndpointRow, span: AssignmentRow, row: VersionRow, spoken: Sequence[ApprovalRow]
) -> contract.HistoryEntry:
    words = [a for a in spoken if (a.model_id, a.version) == (row.model_id, row.version)]
    people = [a.by for a in words if a.decision == "approve"]
    return contract.HistoryEntry.model_validate(
        {
            "endpoint": endpoint.name,
            "model": endpoint.model,
            "version": span.version,
            "since": span.since,
            "until": span.until,
            "by": span.by,
            "reason": span.reason,
            "rollout_id": span.rollout_id,
            "approved_by": people or ([row.approved_by] if row.approved_by else []),
            "approvals": [to_approval(a) for a in words],
            "manifest_digest": row.manifest_digest,
            "datasets": row.lineage.get("datasets") or [],
            "run_id": row.lineage.get("run_id"),
            "code_version": row.lineage.get("code_version"),
            "environment_digest": row.lineage.get("environment_digest"),
            "gates": (row.evaluation or {}).get("gates") or [],
        }
    )
