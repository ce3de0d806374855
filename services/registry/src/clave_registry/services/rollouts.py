"""Operations on rollouts: start one, hold it, let it go on, end it, and take the step that is due.

`domain.rollout` decides; here its decisions meet rows, policy and the monitor's analysis. `advance` is what the
controller calls; it is safe to call twice, by two controllers, or after a crash in the middle.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

from clave_common.access import Access, Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import FailedPrecondition, NotFound, Unavailable
from clave_common.ids import new_id
from clave_common.pages import decode_token, encode_token
from clave_contracts import registry as contract

from clave_registry.converters import to_plan, to_rollout, to_state, to_thresholds
from clave_registry.domain import rollout as rules
from clave_registry.domain.thresholds import judged
from clave_registry.services.endpoints import deployable, endpoint_named, endpoint_resource, release_resource
from clave_registry.services.governance import record_change, tenant_of
from clave_registry.services.models import model_named
from clave_registry.services.rollout_rows import running_rollout, settle
from clave_registry.services.signatures import ReleaseRules
from clave_registry.storage import endpoints, models, rollouts, versions
from clave_registry.storage.records import EndpointRow, RolloutRow

CONTROLLER = "service:registry"
RELEASE_OBJECTIONS = frozenset(
    {
        "artifact_not_signed",
        "card_forbids_namespace",
        "evaluation_gate_not_passed",
        "evaluator_not_accepted",
        "insufficient_approvals",
        "outside_change_window",
        "status_not_allowed",
    }
)
_QUESTION_S = 60.0


class RolloutRunning(FailedPrecondition):
    """The endpoint is being changed by another rollout."""

    code = "rollout_running"


class AlreadyLive(FailedPrecondition):
    """The version answers for the endpoint already."""

    code = "already_live"


class AnalysisSource(Protocol):
    """Where the verdict on a challenger comes from."""

    async def analysis(
        self, *, endpoint: str, challenger: int, champion: int | None, since: datetime
    ) -> tuple[rules.Analysis, dict[str, Any]] | None:
        """Compare two versions since a time; None when there is no answer now."""
        ...


class Rollouts:
    """Start and steer rollouts."""

    def __init__(
        self,
        database: Database,
        access: Access,
        clock: Clock,
        *,
        source: AnalysisSource,
        look_interval_s: float,
        release: ReleaseRules,
    ) -> None:
        self._database = database
        self._access = access
        self._clock = clock
        self._source = source
        self._look_interval_s = look_interval_s
        self._release = release

    async def create(self, caller: Caller, endpoint: str, request: contract.RolloutCreate) -> contract.Rollout:
        """Start moving a version towards live traffic; on an endpoint without a version it goes live at once.

        Raises:
            RolloutRunning: One rollout per endpoint.
            AlreadyLive: There is nothing to do.
            PermissionDenied: Policy refuses the version (status, approvals, gates, window, card).
        """
        now = self._clock.now()
        raw = request.plan.model_dump(mode="json")
        plan = to_plan(raw, look_interval_s=self._look_interval_s)
        async with self._database.transaction() as tx:
            row = await endpoint_named(tx, caller, endpoint, lock=True)
            await self._require_free(tx, row, request.version)
            model = await model_named(tx, caller, row.model)
            await deployable(
                tx,
                self._access,
                caller,
                model=model,
                number=request.version,
                namespace=row.namespace,
                endpoint=row.name,
                action="inference:deployment.update",
                release=self._release,
                now=now,
            )
            rollout = await rollouts.add(
                tx,
                {
                    "id": new_id("rol"),
                    "endpoint": endpoint,
                    "model_id": row.model_id,
                    "model": row.model,
                    "version": request.version,
                    "from_version": row.live_version,
                    "phase": rules.Phase.PENDING.value,
                    "step": 0,
                    "since": now,
                    "wake_at": now,
                    "plan": raw,
                    "reason": request.reason,
                    "outcome": "created",
                    "created_by": caller.acting_for,
                    "created_at": now,
                },
            )
            await record_change(
                tx,
                caller,
                "inference:deployment.update",
                f"endpoints/{endpoint}",
                tenant=row.tenant,
                rollout_id=rollout.id,
                version=request.version,
                reason=request.reason,
            )
            await settle(tx, row, rollout, _started(row, plan, now), at=now, by=caller.acting_for)
            return await self._shown(tx, rollout.id)

    async def _require_free(self, tx: Transaction, row: EndpointRow, version: int) -> None:
        running = await running_rollout(tx, row)
        if running is not None:
            raise RolloutRunning(
                f"'{row.name}' is being changed by the rollout {running.id}; wait for its end or abort it.",
                rollout_id=running.id,
            )
        if row.live_version == version:
            raise AlreadyLive(f"Version {version} answers for '{row.name}' already.", version=version)

    async def get(self, caller: Caller, rollout_id: str) -> contract.Rollout:
        """Describe a rollout with its history."""
        async with self._database.transaction() as tx:
            await self._owned(tx, caller, rollout_id)
            return await self._shown(tx, rollout_id)

    async def list_page(
        self, caller: Caller, endpoint: str, *, size: int, token: str | None
    ) -> tuple[list[contract.Rollout], str]:
        """List an endpoint's rollouts, newest first."""
        query = f"rollouts:{tenant_of(caller)}:{endpoint}"
        before = datetime.fromisoformat(decode_token(token, query=query, kinds=(datetime,))[0]) if token else None
        async with self._database.transaction() as tx:
            await endpoint_named(tx, caller, endpoint)
            rows = await rollouts.of_endpoint(tx, endpoint, before=before, limit=size + 1)
            events = await rollouts.events_of(tx, [row.id for row in rows[:size]])
        more = len(rows) > size
        following = encode_token([rows[size - 1].created_at.isoformat()], query=query) if more else ""
        return [to_rollout(row, events) for row in rows[:size]], following

    async def pause(self, caller: Caller, rollout_id: str, *, reason: str) -> contract.Rollout:
        """Hold a rollout where it is; the guard stays on."""
        return await self._steer(
            caller, rollout_id, "pause", reason, lambda state, now: rules.pause(state, now=now, reason=reason)
        )

    async def resume(self, caller: Caller, rollout_id: str, *, reason: str) -> contract.Rollout:
        """Let a paused rollout go on."""
        return await self._steer(caller, rollout_id, "resume", reason, lambda state, now: rules.resume(state, now=now))

    async def abort(self, caller: Caller, rollout_id: str, *, reason: str) -> contract.Rollout:
        """End a rollout and give all traffic back to the champion."""
        return await self._steer(
            caller, rollout_id, "abort", reason, lambda state, now: rules.abort(state, now=now, reason=reason)
        )

    async def _steer(
        self,
        caller: Caller,
        rollout_id: str,
        verb: str,
        reason: str,
        move: Callable[[rules.Rollout, datetime], rules.Rollout],
    ) -> contract.Rollout:
        async with self._database.transaction() as tx:
            endpoint, row = await self._owned(tx, caller, rollout_id, lock=True)
            action = f"inference:rollout.{verb}"
            await self._access.require(caller, action, endpoint_resource(endpoint))
            now = self._clock.now()
            await settle(tx, endpoint, row, move(to_state(row), now), at=now, by=caller.acting_for)
            await record_change(
                tx,
                caller,
                action,
                f"rollouts/{rollout_id}",
                tenant=endpoint.tenant,
                reason=reason,
            )
            return await self._shown(tx, rollout_id)

    async def due(self, *, limit: int) -> list[str]:
        """List the rollouts whose time to wake has come."""
        async with self._database.transaction() as tx:
            return await rollouts.due(tx, now=self._clock.now(), limit=limit)

    async def advance(self, rollout_id: str) -> rules.Phase | None:
        """Take the step that is due.

        The analysis is asked outside of any transaction; if the rollout moved meanwhile, the answer is dropped.

        Returns:
            The phase afterwards; None when there was nothing to do.
        """
        async with self._database.transaction() as tx:
            seen = await rollouts.find(tx, rollout_id)
        if seen is None or seen.finished_at is not None:
            return None
        answer = await self._ask(seen)
        async with self._database.transaction() as tx:
            endpoint = await endpoints.find(tx, seen.endpoint, lock=True)
            row = await rollouts.find(tx, rollout_id, lock=True)
            if endpoint is None or row is None or row.finished_at is not None:
                return None
            same = (row.phase, row.step, row.since) == (seen.phase, seen.step, seen.since)
            analysis, figures = answer if answer is not None and same else (None, None)
            plan = to_plan(row.plan, look_interval_s=self._look_interval_s)
            now = self._clock.now()
            if analysis is not None and figures is not None:
                analysis = judged(analysis, figures, to_thresholds(row.plan))
            state = rules.advance(to_state(row), plan, now=now, analysis=analysis)
            if state.phase is rules.Phase.PROMOTED:
                objections = await self._objections(tx, endpoint, row, now=now)
                state = rules.advance(to_state(row), plan, now=now, analysis=analysis, objections=objections)
            await settle(tx, endpoint, row, state, at=now, by=CONTROLLER, analysis=figures)
            return state.phase

    async def _objections(
        self, tx: Transaction, endpoint: EndpointRow, row: RolloutRow, *, now: datetime
    ) -> tuple[str, ...]:
        """Ask policy again, now that the version would go live; roles are no objection, the controller has none."""
        model = await models.by_name(tx, endpoint.tenant, row.model)
        version = await versions.find(tx, row.model_id, row.version)
        if model is None or version is None:
            return ("version_gone",)
        resource = await release_resource(
            tx, model, version, namespace=endpoint.namespace, endpoint=endpoint.name, release=self._release, now=now
        )
        caller = Caller(
            subject_id=CONTROLLER,
            subject_type="service",
            tenant="*",
            method="internal_jwt",
            expires_at=now.timestamp() + _QUESTION_S,
        )
        try:
            decision = await self._access.check(caller, "inference:deployment.update", resource)
        except Unavailable:
            return ("policy_unavailable",)
        return tuple(reason for reason in decision.reasons if reason in RELEASE_OBJECTIONS)

    async def _ask(self, row: RolloutRow) -> tuple[rules.Analysis, dict[str, Any]] | None:
        if row.phase == rules.Phase.PENDING:
            return None
        return await self._source.analysis(
            endpoint=row.endpoint, challenger=row.version, champion=row.from_version, since=row.since
        )

    async def _owned(
        self, tx: Transaction, caller: Caller, rollout_id: str, *, lock: bool = False
    ) -> tuple[EndpointRow, RolloutRow]:
        row = await rollouts.find(tx, rollout_id)
        if row is None:
            raise NotFound(f"There is no rollout '{rollout_id}'.", code="rollout_not_found")
        endpoint = await endpoint_named(tx, caller, row.endpoint, lock=lock)
        locked = await rollouts.find(tx, rollout_id, lock=lock)
        return endpoint, locked or row

    async def _shown(self, tx: Transaction, rollout_id: str) -> contract.Rollout:
        rows = await rollouts.several(tx, [rollout_id])
        return to_rollout(rows[0], await rollouts.events_of(tx, [rollout_id]))


def _started(row: EndpointRow, plan: rules.Plan, now: datetime) -> rules.Rollout:
    if row.live_version is None:
        return rules.Rollout(
            rules.Phase.PROMOTED, step=0, since=now, wake_at=None, reason="first version of the endpoint"
        )
    return rules.advance(rules.begin(now), plan, now=now, analysis=None)
