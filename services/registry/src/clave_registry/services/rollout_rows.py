"""Writes a rollout's next state and everything that follows from it, inside the caller's transaction.

Shared by whoever moves a rollout: the operator's operations and the controller.
"""

from datetime import datetime
from typing import Any

from clave_common.database import Transaction

from clave_registry.converters import shown_state, to_plan, to_state, weight_of
from clave_registry.domain import rollout as rules
from clave_registry.services.governance import announce
from clave_registry.storage import endpoints, rollouts
from clave_registry.storage.records import EndpointRow, RolloutRow


async def running_rollout(tx: Transaction, row: EndpointRow, *, lock: bool = False) -> RolloutRow | None:
    """Find the rollout that is changing an endpoint now."""
    found = await rollouts.find(tx, row.rollout_id, lock=lock) if row.rollout_id else None
    return found if found is not None and found.finished_at is None else None


async def put_live(
    tx: Transaction,
    row: EndpointRow,
    version: int,
    *,
    at: datetime,
    by: str,
    reason: str,
    rollout_id: str | None = None,
) -> EndpointRow:
    """Make a version answer for an endpoint and keep the one before warm."""
    previous = row.live_version if row.live_version != version else row.previous_version
    changed = await endpoints.change(
        tx, row.name, at=at, live_version=version, previous_version=previous, rollout_id=None
    )
    if row.live_version != version:
        await endpoints.assign(tx, row, version, at=at, by=by, reason=reason, rollout_id=rollout_id)
    return changed


async def announce_desired(tx: Transaction, row: EndpointRow, *, why: str) -> None:
    """Tell inference that there is something new to load or to route."""
    await announce(tx, "DesiredStateChanged", f"endpoints/{row.name}", tenant=row.tenant, endpoint=row.name, why=why)


async def settle(
    tx: Transaction,
    endpoint: EndpointRow,
    row: RolloutRow,
    state: rules.Rollout,
    *,
    at: datetime,
    by: str,
    analysis: dict[str, Any] | None = None,
) -> EndpointRow:
    """Store a rollout's next state; where it differs, record it, announce it, and change the endpoint.

    Args:
        tx: The operation's transaction, which holds the locks of both rows (the endpoint's first).
        endpoint: The endpoint's row.
        row: The rollout's row as it was.
        state: The next state.
        at: When it moved, aware UTC.
        by: Who or what moved it.
        analysis: The figures behind it.

    Returns:
        The endpoint's row afterwards.
    """
    before = to_state(row)
    finished_at = at if state.phase.ended else None
    await rollouts.change(
        tx,
        row.id,
        phase=state.phase.value,
        step=state.step,
        since=state.since,
        wake_at=state.wake_at,
        paused_at=state.paused_at,
        outcome=state.reason,
        finished_at=finished_at,
    )
    if _place(before) == _place(state):
        return endpoint
    await _record(tx, endpoint, row, state, at=at, by=by, analysis=analysis)
    changed = await _follow(tx, endpoint, row, state, at=at, by=by)
    await announce_desired(tx, changed, why=f"rollout {row.id} is {state.phase}")
    return changed


def _place(state: rules.Rollout) -> tuple[rules.Phase, int, bool]:
    return state.phase, state.step, state.paused_at is not None


async def _follow(
    tx: Transaction, endpoint: EndpointRow, row: RolloutRow, state: rules.Rollout, *, at: datetime, by: str
) -> EndpointRow:
    if state.phase is rules.Phase.PROMOTED:
        reason = f"promoted: {row.reason or state.reason}"
        return await put_live(tx, endpoint, row.version, at=at, by=by, reason=reason, rollout_id=row.id)
    rollout_id = None if state.phase.ended else row.id
    return await endpoints.change(tx, endpoint.name, at=at, rollout_id=rollout_id)


async def _record(
    tx: Transaction,
    endpoint: EndpointRow,
    row: RolloutRow,
    state: rules.Rollout,
    *,
    at: datetime,
    by: str,
    analysis: dict[str, Any] | None,
) -> None:
    plan = to_plan(row.plan, look_interval_s=rules.LOOK_INTERVAL_S_MIN)
    shown = shown_state(state.phase.value, paused=state.paused_at is not None)
    step = state.step if state.phase is rules.Phase.CANARY else None
    weight = weight_of(state, plan)
    await rollouts.remember(
        tx,
        {
            "rollout_id": row.id,
            "at": at,
            "state": shown,
            "step": step,
            "weight": weight,
            "detail": state.reason,
            "by": by,
            "analysis": analysis,
        },
    )
    await announce(
        tx,
        "RolloutChanged",
        f"rollouts/{row.id}",
        tenant=endpoint.tenant,
        rollout_id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        version=row.version,
        from_version=row.from_version,
        state=shown,
        step=step,
        weight=weight,
        reason=state.reason,
        by=by,
    )
