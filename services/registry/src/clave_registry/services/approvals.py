"""Operations that move a version through its stages: submit, approve, reject, archive.

What a namespace demands is asked of the policy; whether a voice counts and what follows from it is decided by
`domain.version`.
"""

from clave_common.access import Access, Caller
from clave_common.clock import Clock
from clave_common.database import Database, Transaction
from clave_common.errors import FailedPrecondition
from clave_contracts import registry as contract

from clave_registry.domain.card import empty_fields
from clave_registry.domain.version import (
    Approval,
    ApprovalRule,
    GateResult,
    Quorum,
    Stage,
    Standing,
    moved,
    require_independent,
    standing,
)
from clave_registry.services.governance import (
    announce,
    approval_rule,
    gates_of,
    record_change,
    require_revision,
    version_path,
    version_resource,
)
from clave_registry.services.versions import shown, version_of
from clave_registry.storage import endpoints, rollouts, versions
from clave_registry.storage.records import ModelRow, VersionRow

NAMESPACE_DEFAULT = "Production"
BY_POLICY = "policy"


class VersionInUse(FailedPrecondition):
    """The version answers for an endpoint or is on its way there."""

    code = "version_in_use"


class CardIncomplete(FailedPrecondition):
    """What only a person can write on the card is not there yet; nobody can have approved it."""

    code = "card_incomplete"


class Approvals:
    """Move versions through their stages."""

    def __init__(self, database: Database, access: Access, clock: Clock, *, quorum: Quorum) -> None:
        self._database = database
        self._access = access
        self._clock = clock
        self._quorum = quorum

    async def submit(
        self, caller: Caller, model: str, version: int, *, namespace: str, revision: int | None
    ) -> contract.Version:
        """Ask for approval; where the namespace needs no human and the gates passed, it comes at once.

        A version whose gates failed is rejected at once where the namespace demands them.
        """
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version, lock=True)
            require_revision(row.revision, revision)
            await self._access.require(
                caller, "registry:version.submit", version_resource(model_row, row, (), namespace=namespace)
            )
            stage = moved(Stage(row.status), Stage.SUBMITTED)
            rule = await self._rule(caller, model_row, row, namespace)
            row = await versions.change(
                tx,
                row,
                at=self._clock.now(),
                status=stage.value,
                submitted_for=namespace,
                approvals_needed=rule.people,
                contributors=sorted({*row.contributors, caller.acting_for}),
            )
            await self._note(tx, caller, model_row, row, action="submitted", detail=f"for {namespace}")
            row = await self._settle(tx, caller, model_row, row, rule)
            return (await shown(tx, model_row, [row]))[0]

    async def approve(
        self, caller: Caller, model: str, version: int, *, comment: str, namespace: str, revision: int | None
    ) -> contract.Version:
        """Count one person's approval; the version is approved once enough of them have spoken.

        Raises:
            CardIncomplete: The card lacks what the model's risk class asks for: there is nothing to approve yet.
        """
        async with self._database.transaction() as tx:
            model_row, row = await self._judged(
                tx, caller, model, version, verb="approve", namespace=namespace, revision=revision
            )
            moved(Stage(row.status), Stage.APPROVED)
            rule = await self._rule(caller, model_row, row, row.submitted_for or namespace)
            _require_card(model, row, rule)
            await self._speak(tx, caller, row, decision="approve", comment=comment)
            await self._note(tx, caller, model_row, row, action="approval", detail=comment)
            row = await self._settle(tx, caller, model_row, row, rule)
            return (await shown(tx, model_row, [row]))[0]

    async def reject(
        self, caller: Caller, model: str, version: int, *, comment: str, namespace: str, revision: int | None
    ) -> contract.Version:
        """Reject a submitted version; one voice is enough."""
        async with self._database.transaction() as tx:
            model_row, row = await self._judged(
                tx, caller, model, version, verb="reject", namespace=namespace, revision=revision
            )
            stage = moved(Stage(row.status), Stage.REJECTED)
            await self._speak(tx, caller, row, decision="reject", comment=comment)
            reason = f"rejected by {caller.subject_id}" + (f": {comment}" if comment else "")
            row = await self._move(tx, caller, model_row, row, stage, reason=reason)
            return (await shown(tx, model_row, [row]))[0]

    async def archive(
        self, caller: Caller, model: str, version: int, *, reason: str, revision: int | None
    ) -> contract.Version:
        """Take a version out of use.

        Raises:
            VersionInUse: It answers for an endpoint, or a rollout is bringing it there.
        """
        async with self._database.transaction() as tx:
            model_row, row = await version_of(tx, caller, model, version, lock=True)
            require_revision(row.revision, revision)
            stage = moved(Stage(row.status), Stage.ARCHIVED)
            await require_unused(tx, model_row, version)
            row = await self._move(tx, caller, model_row, row, stage, reason=reason or "archived")
            return (await shown(tx, model_row, [row]))[0]

    async def _judged(
        self,
        tx: Transaction,
        caller: Caller,
        model: str,
        version: int,
        *,
        verb: str,
        namespace: str,
        revision: int | None,
    ) -> tuple[ModelRow, VersionRow]:
        model_row, row = await version_of(tx, caller, model, version, lock=True)
        require_revision(row.revision, revision)
        spoken = await versions.approvals_of(tx, [(row.model_id, row.version)])
        resource = version_resource(model_row, row, spoken, namespace=row.submitted_for or namespace)
        moved(Stage(row.status), Stage.APPROVED if verb == "approve" else Stage.REJECTED)
        await self._access.require(caller, f"registry:version.{verb}", resource)
        require_independent(caller.subject_id, contributors=row.contributors)
        return model_row, row

    async def _rule(self, caller: Caller, model: ModelRow, row: VersionRow, namespace: str) -> ApprovalRule:
        return await approval_rule(self._access, caller, model, row, namespace=namespace, quorum=self._quorum)

    async def _speak(self, tx: Transaction, caller: Caller, row: VersionRow, *, decision: str, comment: str) -> None:
        now = self._clock.now()
        await versions.add_approval(tx, row, by=caller.subject_id, decision=decision, at=now, comment=comment)

    async def _settle(
        self, tx: Transaction, caller: Caller, model: ModelRow, row: VersionRow, rule: ApprovalRule
    ) -> VersionRow:
        gates = gates_of(row.evaluation)
        if rule.gates_required and gates is GateResult.FAILED:
            reason = f"evaluation gates failed: {_failed(row)}"
            return await self._move(tx, caller, model, row, Stage.REJECTED, reason=reason, by=BY_POLICY)
        spoken = await versions.approvals_of(tx, [(row.model_id, row.version)])
        found = standing(
            rule,
            approvals=[Approval(a.by, a.decision == "approve", a.at) for a in spoken],
            contributors=row.contributors,
            gates=gates,
            empty_card_fields=empty_fields(row.card),
            now=self._clock.now(),
        )
        if found.approved:
            by = ", ".join(found.counted) or BY_POLICY
            return await self._move(
                tx, caller, model, row, Stage.APPROVED, reason=f"approved by {by}", by=by, approved_by=by
            )
        waits = _waits_for(found)
        needed = len(found.counted) + found.missing
        return await versions.change(tx, row, at=self._clock.now(), status_reason=waits, approvals_needed=needed)

    async def _move(
        self,
        tx: Transaction,
        caller: Caller,
        model: ModelRow,
        row: VersionRow,
        stage: Stage,
        *,
        reason: str,
        by: str | None = None,
        approved_by: str | None = None,
    ) -> VersionRow:
        values = {"approved_by": approved_by} if approved_by else {}
        row = await versions.change(tx, row, at=self._clock.now(), status=stage.value, status_reason=reason, **values)
        await self._note(tx, caller, model, row, action=stage.value, detail=reason, by=by)
        return row

    async def _note(
        self,
        tx: Transaction,
        caller: Caller,
        model: ModelRow,
        row: VersionRow,
        *,
        action: str,
        detail: str,
        by: str | None = None,
    ) -> None:
        who = by or caller.acting_for
        path = version_path(model.name, row.version)
        await versions.remember(tx, row, at=self._clock.now(), by=who, action=action, detail=detail)
        await record_change(
            tx,
            caller,
            f"registry:version.{_VERBS.get(action, action)}",
            path,
            tenant=model.tenant,
            by=who,
            detail=detail,
        )
        await announce(
            tx,
            "ModelVersionStatusChanged",
            path,
            tenant=model.tenant,
            model=model.name,
            version=row.version,
            status=row.status,
            by=who,
            detail=detail,
        )


_VERBS = {
    "submitted": "submit",
    "approval": "approve",
    "approved": "approve",
    "rejected": "reject",
    "archived": "archive",
}


def _require_card(model: str, row: VersionRow, rule: ApprovalRule) -> None:
    missing = [field for field in empty_fields(row.card) if field in rule.card_fields]
    if missing:
        raise CardIncomplete(
            f"The card of '{model}' version {row.version} lacks {', '.join(missing)}. "
            f"Write it with 'clave card edit {model} {row.version}', then approve.",
            missing_fields=missing,
        )


def _failed(row: VersionRow) -> str:
    gates = (row.evaluation or {}).get("gates") or []
    failed = [f"{gate['gate']} ({gate['detail']})" for gate in gates if gate.get("verdict") == "failed"]
    return "; ".join(failed) or "the evaluation as a whole"


def _waits_for(found: Standing) -> str:
    waits = list(found.obstacles)
    if found.missing:
        waits.append(f"{found.missing} more independent approval{'s' if found.missing > 1 else ''}")
    return f"waits for: {'; '.join(waits)}"


async def require_unused(tx: Transaction, model: ModelRow, version: int) -> None:
    """Refuse to take a version away that answers for an endpoint, or is on its way there.

    Raises:
        VersionInUse: It does.
    """
    for endpoint in await endpoints.of_model(tx, model.id):
        running = await rollouts.find(tx, endpoint.rollout_id) if endpoint.rollout_id else None
        if version == endpoint.live_version or (running is not None and running.version == version):
            raise VersionInUse(
                f"Version {version} answers for the endpoint '{endpoint.name}', or is being rolled out there.",
                endpoint=endpoint.name,
            )
