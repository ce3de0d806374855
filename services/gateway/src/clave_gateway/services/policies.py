"""Uploads, plans, activates and rolls back policies; declares lockdown.

A policy goes into force in steps: upload (it must compile), plan (the decision matrix and a replay of recent real
decisions, with every difference listed), activate (by the plan's rules, and by another person than its author where
the policy in force demands four eyes). The switch is one row; services follow within two seconds.
"""

import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from clave_common.access.decision_point import decision_from
from clave_common.access.enforcement import Access
from clave_common.access.engine import EmbeddedEngine, PolicyEngine
from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import Aborted, ClaveError, FailedPrecondition, InvalidArgument, NotFound

from clave_gateway.domain.policy_text import fault_of
from clave_gateway.policy_cases import engine_with, read_cases, run_cases
from clave_gateway.policy_files import shipped_policy_dir
from clave_gateway.policy_fuzz import fuzz
from clave_gateway.services.changes import record_audit, record_change
from clave_gateway.services.delegation import PLATFORM
from clave_gateway.services.snapshot import data_in_force
from clave_gateway.signing import GatewaySigner
from clave_gateway.storage import identity, policies
from clave_gateway.storage.decisions import recent_decisions
from clave_gateway.storage.policies import BundleRow
from clave_gateway.storage.state import read_state

UPLOADED = "uploaded"
_REPLAY_DECISIONS_MAX = 500
_FUZZ_INPUTS = 500
_DATA_REQUIRED = frozenset({"catalog", "roles", "namespaces", "auth_methods", "admin_networks"})


class PolicyService:
    """Operations on policies."""

    def __init__(
        self,
        database: Database,
        access: Access,
        signer: GatewaySigner,
        *,
        snapshot: Callable[[], Snapshot | None],
        clock: Clock,
    ) -> None:
        self._database = database
        self._access = access
        self._signer = signer
        self._snapshot = snapshot
        self._clock = clock

    async def list_policies(self, *, limit: int) -> tuple[int | None, list[BundleRow]]:
        """List bundles, newest first, and which is in force."""
        async with self._database.transaction() as tx:
            state = await read_state(tx.session)
            return state.active_bundle, await policies.list_bundles(tx.session, limit=limit)

    async def read(self, version: int) -> BundleRow:
        """Read one bundle.

        Raises:
            NotFound: There is no such version.
        """
        async with self._database.transaction() as tx:
            return _found(await policies.find_bundle(tx.session, version), version)

    async def upload(
        self, caller: Caller, *, modules: dict[str, str] | None, data: dict[str, Any] | None, note: str
    ) -> BundleRow:
        """Keep a candidate; what is left out is taken from the policy in force.

        Raises:
            PermissionDenied: The caller may not write policies.
            InvalidArgument: It does not compile, reaches beyond the policy, or its data lack a part.
        """
        decision = await self._access.require(
            caller, "policy:bundle.write", Resource("bundle", "policies/new", {"tenant": PLATFORM})
        )
        active = await self._active()
        bundle = PolicyBundle(modules=modules or active.modules, data=data or active.data)
        missing = sorted(_DATA_REQUIRED - set(bundle.data))
        if missing:
            raise InvalidArgument(f"The data lack {', '.join(missing)}.", field="data", code="policy_data_incomplete")
        if fault := fault_of(bundle.modules):
            raise InvalidArgument(fault, field="modules", code="policy_invalid")
        EmbeddedEngine().use(bundle)
        digest = bundle.digest()
        async with self._database.transaction() as tx:
            version = await policies.add_bundle(
                tx.session,
                digest=digest,
                modules=dict(bundle.modules),
                data=dict(bundle.data),
                origin=UPLOADED,
                note=note,
                signature=self._signer.sign_text(digest),
                created_by=caller.subject_id,
                created_at=self._clock.now(),
            )
            await record_audit(
                tx,
                self._clock,
                caller=caller,
                action="policy:bundle.write",
                resource=f"policies/{version}",
                decision=decision,
                details={"digest": digest, "note": note},
            )
        return await self.read(version)

    async def _active(self) -> BundleRow:
        async with self._database.transaction() as tx:
            state = await read_state(tx.session)
            return _found(await policies.find_bundle(tx.session, state.active_bundle or 0), state.active_bundle or 0)

    async def plan(self, caller: Caller, version: int) -> dict[str, Any]:
        """Run the decision matrix and replay recent decisions on a candidate; keep and return what differs.

        Raises:
            NotFound: There is no such version.
            PermissionDenied: The caller may not write policies.
        """
        resource = Resource("bundle", f"policies/{version}", {"tenant": PLATFORM})
        decision = await self._access.require(caller, "policy:bundle.write", resource)
        candidate = await self.read(version)
        against = (await self._active()).version
        tried = await _tried(candidate)
        replayed, differences = await self._replay(candidate)
        plan = {
            "planned_at": self._clock.now().isoformat(),
            "against": against,
            **tried,
            "replayed": replayed,
            "differences": differences,
        }
        async with self._database.transaction() as tx:
            await policies.keep_plan(tx.session, version, plan)
            await record_audit(
                tx,
                self._clock,
                caller=caller,
                action="policy:bundle.write",
                resource=resource.id,
                decision=decision,
                details={"change": "plan", "ready": tried["ready"], "differences": len(differences)},
            )
        return plan

    async def _replay(self, candidate: BundleRow) -> tuple[int, list[dict[str, Any]]]:
        async with self._database.transaction() as tx:
            state = await read_state(tx.session)
            data = data_in_force(
                candidate,
                state,
                await identity.all_bindings(tx.session),
                await identity.disabled_principals(tx.session),
            )
            rows = await recent_decisions(tx.session, [], limit=_REPLAY_DECISIONS_MAX)
        engine = EmbeddedEngine()
        engine.use(PolicyBundle(modules=candidate.modules, data=data))
        differences: list[dict[str, Any]] = []
        for row in rows:
            found = await _again(engine, row.input)
            if found != {"allow": row.allow, "reasons": sorted(row.reasons)}:
                differences.append(
                    {
                        "decision_id": row.id,
                        "subject": row.subject,
                        "action": row.action,
                        "resource": row.resource,
                        "was": {"allow": row.allow, "reasons": row.reasons},
                        "becomes": found,
                    }
                )
        differences.sort(key=lambda one: one["becomes"]["allow"] is not True)  # what would open stands first
        return len(rows), differences

    async def activate(self, caller: Caller, version: int, *, accept_differences: int = 0) -> BundleRow:
        """Put a planned candidate in force.

        Args:
            caller: Who activates.
            version: The candidate.
            accept_differences: Number of decisions that come out differently, as read in the plan.

        Raises:
            NotFound: There is no such version.
            FailedPrecondition: It was not planned, or against another policy, or its plan failed or shows differences
                that were not accepted, or its signature is not the gateway's.
            PermissionDenied: The caller may not activate, or wrote it and four eyes are demanded.
        """
        candidate = await self.read(version)
        decision = await self._access.require(
            caller,
            "policy:bundle.activate",
            Resource(
                "bundle",
                f"policies/{version}",
                {"tenant": PLATFORM, "contributors": [candidate.created_by]},
            ),
        )
        active = (await self._active()).version
        _require_plan(candidate, against=active, accepted=accept_differences)
        return await self._put_in_force(
            caller, candidate, "policy:bundle.activate", decision, replaces=active, previous=active
        )

    async def rollback(self, caller: Caller) -> BundleRow:
        """Put the policy back in force that was before, once: what was taken back returns only by activation.

        Raises:
            FailedPrecondition: There is none, or it was put back already.
            PermissionDenied: The caller may not.
        """
        decision = await self._access.require(
            caller, "policy:bundle.rollback", Resource("bundle", "policies", {"tenant": PLATFORM})
        )
        async with self._database.transaction() as tx:
            state = await read_state(tx.session)
        if state.previous_bundle is None:
            raise FailedPrecondition(
                "No policy was in force before this one, or it was put back already; activate another instead.",
                code="policy_without_predecessor",
            )
        return await self._put_in_force(
            caller,
            await self.read(state.previous_bundle),
            "policy:bundle.rollback",
            decision,
            replaces=state.active_bundle,
            previous=None,
        )

    async def _put_in_force(
        self,
        caller: Caller,
        bundle: BundleRow,
        action: str,
        decision: Decision,
        *,
        replaces: int | None,
        previous: int | None,
    ) -> BundleRow:
        """Switch from the policy that was judged to be in force (`replaces`); `previous` is where rollback leads."""
        if not self._signer.verifies_text(bundle.signature, bundle.digest):
            raise FailedPrecondition(
                f"The signature of policy {bundle.version} is not the gateway's.", code="policy_unsigned"
            )
        if PolicyBundle(modules=bundle.modules, data=bundle.data).digest() != bundle.digest:
            raise FailedPrecondition(f"Policy {bundle.version} was altered after it was signed.", code="policy_altered")
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if (await read_state(tx.session, lock=True)).active_bundle != replaces:
                raise Aborted("Another policy came into force meanwhile; look again.", code="policy_changed_meanwhile")
            await policies.note_activation(tx.session, bundle.version, by=caller.subject_id, at=now)
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action=action,
                resource=f"policies/{bundle.version}",
                decision=decision,
                details={"digest": bundle.digest, "replaced": replaces},
                active_bundle=bundle.version,
                previous_bundle=previous,
            )
        return await self.read(bundle.version)

    async def set_lockdown(self, caller: Caller, *, on: bool, reason: str) -> bool:
        """Declare or end lockdown.

        Raises:
            PermissionDenied: The caller may not.
        """
        decision = await self._access.require(
            caller, "admin:lockdown.set", Resource("lockdown", "lockdown", {"tenant": PLATFORM})
        )
        async with self._database.transaction() as tx:
            await record_change(
                tx,
                self._clock,
                caller=caller,
                action="admin:lockdown.set",
                resource="lockdown",
                decision=decision,
                details={"on": on, "reason": reason},
                lockdown=on,
                lockdown_reason=reason,
            )
        return on


async def _tried(candidate: BundleRow) -> dict[str, Any]:
    """Run matrix and fuzz on the embedded engine, and on a real OPA beside it where the program is at hand."""
    cases = read_cases(shipped_policy_dir() / "cases" / "decisions.json")
    bundle = PolicyBundle(modules=candidate.modules, data=cases.data)
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine_with(bundle, "embedded"))]
        if shutil.which("opa") is not None:
            engines.append(await stack.enter_async_context(engine_with(bundle, "opa")))
        reports = [await run_cases(engine, cases.cases) for engine in engines]
        fuzzed = await fuzz(engines, cases.cases, inputs=_FUZZ_INPUTS)
    return {
        "engines": fuzzed.engines,
        "cases": reports[0].cases,
        "failed_cases": sorted({failure.id for report in reports for failure in report.failures}),
        "fuzzed": fuzzed.asked,
        "failed_fuzz": fuzzed.failures,
        "ready": fuzzed.passed and all(report.passed for report in reports),
    }


def _require_plan(candidate: BundleRow, *, against: int, accepted: int) -> None:
    again = f"run 'clave policy plan {candidate.version}'"
    plan = candidate.plan
    if plan is None or not plan.get("ready"):
        raise FailedPrecondition(
            f"Policy {candidate.version} has no plan that passed; {again} first.", code="policy_not_planned"
        )
    if plan.get("against") != against:
        raise FailedPrecondition(
            f"The plan compares with policy {plan.get('against')}, and {against} is in force; {again} again.",
            code="policy_plan_stale",
        )
    if len(plan["differences"]) != accepted:
        raise FailedPrecondition(
            f"{len(plan['differences'])} recent decisions would come out differently. Read them in the plan, then "
            f"activate with --accept-differences {len(plan['differences'])}.",
            code="policy_differences_not_accepted",
            differences=len(plan["differences"]),
        )


async def _again(engine: PolicyEngine, question: dict[str, Any]) -> dict[str, Any]:
    try:
        decision = decision_from(await engine.decide(question), engine.name)
    except ClaveError as error:
        return {"allow": False, "reasons": [error.code]}
    return {"allow": decision.allow, "reasons": list(decision.reasons)}


def _found(bundle: BundleRow | None, version: int) -> BundleRow:
    if bundle is None:
        raise NotFound(f"There is no policy {version}.", code="policy_not_found")
    return bundle
