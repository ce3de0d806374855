"""What every governed operation of the registry does the same way.

Builds the resource that policy judges, asks policy what a namespace demands of a release, and writes the audit entry
beside the change.
"""

from collections.abc import Sequence
from typing import Any

from clave_common.access import Access, Caller, Resource
from clave_common.attribution import attributed
from clave_common.database import Transaction
from clave_common.errors import Aborted
from clave_contracts.events import AuditEntry, Event, EventType

from clave_registry.domain.card import REQUIRED_BY_RISK
from clave_registry.domain.version import ApprovalRule, GateResult, Quorum, Stage, gate_result
from clave_registry.storage.records import ApprovalRow, ModelRow, VersionRow

SERVICE = "registry"
TENANT_DEFAULT = "default"
PEOPLE_MAX = 9
_ANY_TENANT = "*"
_PERSON = "user:"
_PROMOTE = "registry:stage.promote"


def tenant_of(caller: Caller) -> str:
    """Name the tenant in which a caller works; services work in the default one."""
    return TENANT_DEFAULT if caller.tenant == _ANY_TENANT else caller.tenant


def reach_of(caller: Caller) -> str | None:
    """Name the tenant whose blobs a caller reaches; None for services, which act for all tenants."""
    return None if caller.tenant == _ANY_TENANT else caller.tenant


def gates_of(evaluation: dict[str, Any] | None) -> GateResult:
    """Sum up a version's evaluation as it was registered."""
    if evaluation is None:
        return GateResult.MISSING
    verdicts = [str(gate.get("verdict")) for gate in evaluation.get("gates") or []]
    return gate_result(passed=bool(evaluation.get("passed")), verdicts=verdicts)


def version_path(model: str, version: int) -> str:
    """Name a version canonically."""
    return f"models/{model}/versions/{version}"


def version_resource(
    model: ModelRow,
    version: VersionRow,
    approvals: Sequence[ApprovalRow],
    *,
    namespace: str,
    extra: dict[str, Any] | None = None,
) -> Resource:
    """Describe a version to the policy."""
    properties = {
        "tenant": model.tenant,
        "namespace": namespace,
        "status": version.status,
        "contributors": list(version.contributors),
        "approvals": [{"by": approval.by, "decision": approval.decision} for approval in approvals],
        "signature_verified": False,
        "evaluation_gate": settled_gate(version).value,
        "evaluated_by": version.evaluated_by,
        "card": {
            "allowed_namespaces": list(version.card.get("allowed_namespaces") or []),
            "rate_limit_per_minute": version.card.get("rate_limit_per_minute"),
        },
        "risk_class": model.risk_class,
        **(extra or {}),
    }
    return Resource("model_version", version_path(model.name, version.version), properties)


def settled_gate(version: VersionRow) -> GateResult:
    """Sum up the gates, counting the approval of people as the judgement of those that asked for a person.

    An environment that asks for nobody approves by itself; that is nobody's judgement.
    """
    gates = gates_of(version.evaluation)
    is_judged = version.status == Stage.APPROVED and (version.approved_by or "").startswith(_PERSON)
    if gates is GateResult.REVIEW and is_judged:
        return GateResult.PASSED
    return gates


async def approval_rule(
    access: Access, caller: Caller, model: ModelRow, version: VersionRow, *, namespace: str, quorum: Quorum
) -> ApprovalRule:
    """Learn from policy what a release into a namespace needs.

    The policy is asked about the version as if it were approved already, with ever more independent people behind it,
    until it no longer misses any; what it says beside that (windows, roles) is no condition of an approval.
    """

    async def reasons(people: int, gates: GateResult) -> tuple[str, ...]:
        imagined = [{"by": f"user:approver-{number}", "decision": "approve"} for number in range(people)]
        resource = version_resource(
            model,
            version,
            (),
            namespace=namespace,
            extra={"status": Stage.APPROVED.value, "approvals": imagined, "evaluation_gate": gates.value},
        )
        return (await access.check(caller, _PROMOTE, resource)).reasons

    people = 0
    while people < PEOPLE_MAX and "insufficient_approvals" in await reasons(people, GateResult.PASSED):
        people += 1
    gates_required = "evaluation_gate_not_passed" in await reasons(people, GateResult.FAILED)
    return ApprovalRule(
        people=max(people, quorum.needed(model.risk_class, namespace=namespace)),
        valid_for_s=quorum.valid_for_s,
        gates_required=gates_required,
        card_fields=REQUIRED_BY_RISK.get(model.risk_class, ()),
    )


def change_entry(caller: Caller, action: str, resource: str, *, tenant: str, **details: Any) -> AuditEntry:
    """Write down who changed what."""
    return attributed(
        AuditEntry(
            service=SERVICE,
            actor=caller.subject_id,
            on_behalf_of=caller.on_behalf_of,
            tenant=tenant,
            action=action,
            resource=resource,
            details=details,
        )
    )


def news(kind: EventType, subject: str, *, tenant: str, **data: Any) -> Event:
    """Write down what happened."""
    return Event(type=kind, source=SERVICE, subject=subject, tenant=tenant, data=data)


async def record_change(
    tx: Transaction, caller: Caller, action: str, resource: str, *, tenant: str, **details: Any
) -> None:
    """Write the audit entry of a change, in the transaction of the change."""
    await tx.audit(change_entry(caller, action, resource, tenant=tenant, **details))


async def announce(tx: Transaction, kind: EventType, subject: str, *, tenant: str, **data: Any) -> None:
    """Write an event, in the transaction of the change."""
    await tx.emit(news(kind, subject, tenant=tenant, **data))


def require_revision(found: int, expected: int | None) -> None:
    """Refuse a change that was made looking at an older state.

    Raises:
        Aborted: `expected` was given and is not the revision found.
    """
    if expected is not None and expected != found:
        raise Aborted(
            "Somebody changed this meanwhile; read it again and send the new ETag as If-Match.",
            code="stale_if_match",
            current_revision=found,
        )
