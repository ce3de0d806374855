"""Between the registry's records and domain objects and the contracts that callers see."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from clave_contracts import registry as contract

from clave_registry.domain import rollout as rules
from clave_registry.domain.manifest import MEDIA_TYPE_DEFAULT, may_run_code
from clave_registry.domain.thresholds import Thresholds
from clave_registry.domain.traffic import Route
from clave_registry.storage.records import (
    AliasRow,
    ApprovalRow,
    EndpointRow,
    EntryRow,
    ModelRow,
    ObservedRow,
    RolloutEventRow,
    RolloutRow,
    VersionRow,
)


def to_model(row: ModelRow, aliases: Sequence[AliasRow]) -> contract.Model:
    """Show a registered model."""
    return contract.Model(
        name=row.name,
        description=row.description,
        tags=row.tags,
        tenant=row.tenant,
        risk_class=row.risk_class,
        latest_version=row.next_version - 1 or None,
        aliases={alias.alias: alias.version for alias in aliases if alias.model_id == row.id},
        created_at=row.created_at,
        created_by=row.created_by,
    )


def to_artifacts(row: VersionRow, entries: Sequence[EntryRow]) -> list[contract.Artifact]:
    """Show a version's manifest, its files called what its registration called them."""
    return [
        contract.Artifact(
            path=e.path, digest=e.digest, size=e.size, media_type=row.media_types.get(e.path, MEDIA_TYPE_DEFAULT)
        )
        for e in entries
    ]


def to_approval(row: ApprovalRow) -> contract.Approval:
    """Show one person's word."""
    return contract.Approval.model_validate(
        {"by": row.by, "decision": row.decision, "at": row.at, "comment": row.comment}
    )


def to_version(
    model: ModelRow,
    row: VersionRow,
    *,
    entries: Sequence[EntryRow],
    approvals: Sequence[ApprovalRow],
    aliases: Sequence[AliasRow],
) -> contract.Version:
    """Show a version with everything that belongs to it."""
    own = [entry for entry in entries if entry.manifest_digest == row.manifest_digest]
    return contract.Version.model_validate(
        {
            "model": model.name,
            "version": row.version,
            "status": row.status,
            "manifest_digest": row.manifest_digest,
            "artifacts": to_artifacts(row, own),
            "unsafe_paths": [entry.path for entry in own if may_run_code(entry.path)],
            "signature": row.signature,
            "params": row.params,
            "lineage": row.lineage,
            "evaluation": row.evaluation,
            "evaluated_by": row.evaluated_by,
            "card": row.card,
            "tags": row.tags,
            "description": row.description,
            "aliases": [a.alias for a in aliases if (a.model_id, a.version) == (row.model_id, row.version)],
            "contributors": row.contributors,
            "approvals": [to_approval(a) for a in approvals if a.version == row.version],
            "approvals_needed": row.approvals_needed,
            "approved_by": row.approved_by,
            "status_reason": row.status_reason,
            "tenant": model.tenant,
            "created_at": row.created_at,
            "created_by": row.created_by,
        }
    )


def to_plan(raw: Mapping[str, Any], *, look_interval_s: float) -> rules.Plan:
    """Read a stored or received plan as the domain knows it."""
    return rules.Plan(
        steps=tuple(
            rules.Step(weight=step["weight"], bake_s=step["bake_s"], rows_min=step["rows_min"]) for step in raw["steps"]
        ),
        shadow_s=raw["shadow_s"],
        step_s_max=raw["step_s_max"],
        look_interval_s=look_interval_s,
    )


def to_thresholds(raw: Mapping[str, Any]) -> Thresholds:
    """Read a stored plan's limits; none where it sets none."""
    return Thresholds(**(raw.get("thresholds") or {}))


def to_state(row: RolloutRow) -> rules.Rollout:
    """Read a rollout's row as the domain knows it."""
    return rules.Rollout(
        phase=rules.Phase(row.phase),
        step=row.step,
        since=row.since,
        wake_at=row.wake_at,
        paused_at=row.paused_at,
        reason=row.reason,
    )


def shown_state(phase: str, *, paused: bool) -> contract.RolloutState:
    """Name a rollout's state as callers see it: a paused one is ``paused`` wherever it stands."""
    shown: contract.RolloutState = "paused" if paused else rules.Phase(phase).value
    return shown


def weight_of(state: rules.Rollout, plan: rules.Plan) -> float:
    """Tell the share of traffic that the challenger gets."""
    if state.phase is rules.Phase.PROMOTED:
        return 1.0
    step = rules.current_step(state, plan)
    return step.weight if step and state.phase is rules.Phase.CANARY else 0.0


def to_rollout(row: RolloutRow, events: Sequence[RolloutEventRow]) -> contract.Rollout:
    """Show a rollout and its history."""
    plan = to_plan(row.plan, look_interval_s=rules.LOOK_INTERVAL_S_MIN)
    state = to_state(row)
    return contract.Rollout(
        id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        version=row.version,
        from_version=row.from_version,
        state=shown_state(row.phase, paused=row.paused_at is not None),
        step=row.step if state.phase is rules.Phase.CANARY else None,
        weight=weight_of(state, plan),
        plan=contract.RolloutPlan.model_validate(row.plan),
        reason=row.reason,
        outcome=row.outcome,
        events=[_to_event(event) for event in events if event.rollout_id == row.id],
        created_at=row.created_at,
        created_by=row.created_by,
        finished_at=row.finished_at,
    )


def _to_event(row: RolloutEventRow) -> contract.RolloutEvent:
    return contract.RolloutEvent.model_validate(
        {
            "at": row.at,
            "state": row.state,
            "step": row.step,
            "weight": row.weight,
            "detail": row.detail,
            "by": row.by,
            "analysis": row.analysis,
        }
    )


def to_routes(routes: Sequence[Route]) -> list[contract.Route]:
    """Show an endpoint's routes."""
    return [contract.Route(version=r.version, arm=r.arm.value, weight=r.weight) for r in routes]


def to_endpoint(row: EndpointRow, routes: Sequence[Route], reports: Sequence[ObservedRow]) -> contract.Endpoint:
    """Show an endpoint's desired state beside what inference reports of its versions."""
    wanted = {route.version for route in routes}
    observed = [
        {"instance": report.instance, "reported_at": report.at.isoformat(), **loaded}
        for report in reports
        for loaded in report.versions
        if loaded.get("model") == row.model
    ]
    ready = [
        {v["version"] for v in report.versions if v.get("model") == row.model and v.get("state") == "ready"}
        for report in reports
    ]
    return contract.Endpoint.model_validate(
        {
            "name": row.name,
            "model": row.model,
            "namespace": row.namespace,
            "tenant": row.tenant,
            "feature_service": row.feature_service,
            "live_version": row.live_version,
            "previous_version": row.previous_version,
            "routes": to_routes(routes),
            "rollout_id": row.rollout_id,
            "observed": observed,
            "in_sync": bool(ready) and all(wanted <= loaded for loaded in ready),
            "etag": etag(row.revision),
            "created_at": row.created_at,
            "description": row.description,
        }
    )


def etag(revision: int) -> str:
    """Write a revision as an entity tag."""
    return f'"{revision}"'


OBSERVED_FRESH = timedelta(seconds=60)
"""A report older than this says nothing about what its process does now."""
