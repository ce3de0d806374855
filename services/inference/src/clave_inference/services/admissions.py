"""Who may ask which model: authentication, the policy's decision and the rate limit, remembered for two seconds.

The first request of a caller to a model is verified and decided in full; what came of it is kept for as long as the
decision's obligations allow, under the hash of the credential (never the credential itself). Shortly before an
admission ends it is renewed beside the traffic, so a steady caller never waits for a decision.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from clave_common.access.model import Caller, Decision, Resource
from clave_common.access.verification import CredentialVerifier, Presented
from clave_common.errors import ClaveError, PermissionDenied, ResourceExhausted, Unauthenticated

from clave_inference.domain.limits import Bucket, RowBudget, Spend
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.services.serving import Governance, ServedEndpoint, ServingTable

PREDICT = "inference:predict"
_ADMISSIONS_MAX = 20_000
_RENEW_SHARE = 0.7
_TOLD_S = 0.05
_BURST_SHARE = 0.1  # of a minute's rows, as the policy gives for a model card's limit


@dataclass(frozen=True, slots=True)
class SharedLimits:
    """Limits beside the policy's own, which holds per key and model; 0 means none.

    Attributes:
        key_rows_per_minute: Rows of one key over all models.
        model_rows_per_minute: Rows of one endpoint over all keys.
        tenant_rows_per_minute: Rows of one tenant's callers over all models.
    """

    key_rows_per_minute: float = 0.0
    model_rows_per_minute: float = 0.0
    tenant_rows_per_minute: float = 0.0


class Enforcement(Protocol):
    """The part of `clave_common.access.Access` that admissions need."""

    async def check(self, caller: Caller, action: str, resource: Resource) -> Decision:
        """Decide, or raise Unavailable; the answer may be no."""
        ...

    async def refused(self, caller: Caller, action: str, resource: Resource, decision: Decision) -> PermissionDenied:
        """Charge a refusal and word it."""
        ...

    async def hold_back(self, caller: Caller) -> None:
        """Refuse a caller that the policy refused too much."""
        ...


class Credential:
    """What a request carries to prove who asks; doors make one per connection, not per request.

    Attributes:
        key: Hash of everything in it.
    """

    __slots__ = ("authorization", "key", "presented")

    def __init__(
        self,
        authorization: bytes | None,
        source_ip: str | None = None,
        on_behalf_of: str | None = None,
        *,
        claimed_ip: str | None = None,
        edge_proof: str | None = None,
    ) -> None:
        self.authorization = authorization
        self.presented = Presented(
            authorization=None if authorization is None else authorization.decode("latin-1"),
            source_ip=source_ip,
            on_behalf_of=on_behalf_of,
            claimed_ip=claimed_ip,
            edge_proof=edge_proof,
        )
        self.key = sha256(repr((authorization, source_ip, on_behalf_of, claimed_ip, edge_proof)).encode()).digest()


@dataclass(slots=True, eq=False)
class Admission:
    """A caller's leave to ask one model."""

    caller: Caller
    mask: tuple[str, ...]
    budget: RowBudget | None
    renew_at: float
    good_until: float
    renewing: bool = False


AdmissionKey = tuple[bytes, str, str | None]


class Admissions:
    """The admissions of one process.

    Args:
        verifier: Turns a credential into a caller.
        access: Asks the policy.
        ledger: Grants rows.
        table: What is served now.
        limits: Limits beside the policy's.
    """

    def __init__(
        self,
        *,
        verifier: CredentialVerifier,
        access: Enforcement,
        ledger: RowLedger,
        table: Callable[[], ServingTable],
        limits: SharedLimits = SharedLimits(),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._access = access
        self._ledger = ledger
        self._table = table
        self._limits = limits
        self._now = now
        self._admissions: dict[AdmissionKey, Admission] = {}
        self._budgets: dict[str, RowBudget] = {}
        self._renewals: set[asyncio.Task[None]] = set()

    def known(self, credential: Credential, model: str, version: str | None, now: float) -> Admission | None:
        """Find an admission that is still good, without waiting."""
        key = (credential.key, model, version)
        admission = self._admissions.get(key)
        if admission is None:
            return None
        if now >= admission.renew_at:
            if now >= admission.good_until:
                self._admissions.pop(key, None)
                return None
            if not admission.renewing:
                admission.renewing = True
                self._beside(self._renew(credential, model, version))
        return admission

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    async def _renew(self, credential: Credential, model: str, version: str | None) -> None:
        try:
            await self.admit(credential, model, version)
        except ClaveError:
            self._admissions.pop((credential.key, model, version), None)

    async def admit(self, credential: Credential, model: str, version: str | None) -> Admission:
        """Verify and decide in full.

        Raises:
            Unauthenticated: No credential, or a wrong one.
            PermissionDenied: The policy says no.
            ModelUnknown: There is no such model (said only to callers who are known).
            ResourceExhausted: The policy refused the caller too much before, whatever it asks for now.
        """
        caller = await self._caller(credential)
        try:
            endpoint, resource = self._asked_for(caller, model, version)
        except ClaveError:
            await self._access.hold_back(caller)  # which models there are is no more told than which one may be asked
            raise
        decision = await self._access.check(caller, PREDICT, resource)
        if decision.allow is not True:
            raise await self._access.refused(caller, PREDICT, resource, decision)
        now = self._now()
        life_s = _life_s(decision, caller)
        admission = Admission(
            caller=caller,
            mask=decision.mask,
            budget=self._budget(caller, endpoint, decision),
            renew_at=now + life_s * _RENEW_SHARE,
            good_until=now + life_s,
        )
        if life_s > 0:
            if len(self._admissions) >= _ADMISSIONS_MAX:
                self._admissions.clear()
            self._admissions[(credential.key, model, version)] = admission
        return admission

    def _asked_for(self, caller: Caller, model: str, version: str | None) -> tuple[ServedEndpoint, Resource]:
        table = self._table().seen_by(caller.tenant)
        endpoint = table.endpoint(model)
        loaded = table.pinned(endpoint, version) if version else table.live(endpoint)
        return endpoint, predict_resource(endpoint, version, table.governance[(loaded.model, loaded.version)])

    async def _caller(self, credential: Credential) -> Caller:
        caller = await self._verifier.verify(credential.presented)
        if caller is None:
            raise Unauthenticated(
                "Predictions need a credential: send 'Authorization: Bearer <api key>'. "
                "Make a key with 'clave keys create'."
            )
        return caller

    def _budget(self, caller: Caller, endpoint: ServedEndpoint, decision: Decision) -> RowBudget | None:
        limit = decision.rate_limit
        if limit is None or caller.subject_type == "service":  # the caller a service acts for was limited
            return None
        who = f"{caller.tenant}:{caller.key_id or caller.subject_id}"
        buckets = []
        if limit.per_minute > 0:  # a tier of 0 is no limit
            buckets.append(Bucket(f"{who}:{endpoint.name}", limit.per_minute / 60.0, max(1.0, limit.burst)))
        if self._limits.key_rows_per_minute:
            buckets.append(_shared(f"key:{who}", self._limits.key_rows_per_minute, "rows-key"))
        if self._limits.model_rows_per_minute:
            model = f"model:{endpoint.tenant}:{endpoint.name}"
            buckets.append(_shared(model, self._limits.model_rows_per_minute, "rows-model"))
        if self._limits.tenant_rows_per_minute:
            buckets.append(_shared(f"tenant:{caller.tenant}", self._limits.tenant_rows_per_minute, "rows-tenant"))
        if not buckets:
            return None
        wanted = tuple(buckets)
        budget = self._budgets.get(wanted[0].key)
        if budget is None or budget.buckets != wanted:
            if len(self._budgets) >= _ADMISSIONS_MAX:
                self._budgets.clear()
            budget = self._budgets[wanted[0].key] = RowBudget(wanted)
        return budget

    def limit_headers(self, admission: Admission, now: float) -> bytes:
        """Word what is left of the caller's budget as header lines; empty where nothing limits it.

        With leases the wording is kept for a moment: what other processes spend is not known more exactly anyway.
        """
        budget = admission.budget
        if budget is None:
            return b""
        if now >= budget.told_until:
            budget.told = limit_lines(budget, now)
            budget.told_until = now + _TOLD_S if budget.renew_below else now
        return budget.told

    def charge_now(self, admission: Admission, rows: int, now: float) -> bool:
        """Charge rows without waiting; False means that the store has to be asked.

        Raises:
            ResourceExhausted: The limit is used up.
        """
        budget = admission.budget
        if budget is None:
            return True
        outcome = budget.spend(rows, now)
        if outcome is Spend.REFUSED:
            raise rate_limited(budget, budget.refused_until - now)
        if outcome is Spend.ASK:
            return False
        if budget.wants_more(now):
            budget.asking = True
            self._beside(self._ledger.draw(budget, 1))
        return True

    async def charge(self, admission: Admission, rows: int) -> None:
        """Charge rows, asking the store where the lease at hand is too small.

        Raises:
            ResourceExhausted: The limit is used up.
        """
        budget = admission.budget
        while budget is not None and not self.charge_now(admission, rows, self._now()):
            await self._ledger.draw(budget, rows)

    def forget(self) -> None:
        """Drop every admission: keys or policy changed."""
        for admission in self._admissions.values():
            admission.renew_at = admission.good_until = 0.0  # whoever holds it has to look again
        self._admissions.clear()


def _life_s(decision: Decision, caller: Caller) -> float:
    """Say for how long a decision stands; one that must be on record each time stands for its own request alone."""
    if decision.audit == "full":
        return 0.0
    return min(decision.cache_ttl_s, max(0.0, caller.expires_at - time.time()))


def predict_resource(endpoint: ServedEndpoint, version: str | None, governance: Governance) -> Resource:
    """Describe what a prediction touches, for the policy."""
    path = f"endpoints/{endpoint.name}" if not version else f"models/{endpoint.model}/versions/{version}"
    return Resource(
        "endpoint" if not version else "model_version",
        path,
        {
            "tenant": endpoint.tenant,
            "namespace": endpoint.namespace,
            "status": governance.status,
            "contributors": list(governance.contributors),
            "features": [],  # none yet: stored ones are decided by the feature service, on the caller's behalf
            "card": {
                "rate_limit_per_minute": governance.rate_limit_per_minute,
                "allowed_namespaces": list(governance.allowed_namespaces),
            },
        },
    )


def _shared(key: str, per_minute: float, name: str) -> Bucket:
    return Bucket(key, per_minute / 60.0, max(1.0, per_minute * _BURST_SHARE), name)


def limit_lines(budget: RowBudget, now: float) -> bytes:
    """Write the ``RateLimit`` and ``RateLimit-Policy`` lines of a budget.

    Source: draft-ietf-httpapi-ratelimit-headers-10.
    """
    standing = budget.standing(now)
    policies = ", ".join(f'"{bucket.name}";q={round(bucket.per_second * 60)};w=60' for bucket in budget.buckets)
    return (
        f"ratelimit-policy: {policies}\r\n"
        f'ratelimit: "{standing.bucket.name}";r={standing.left};t={standing.full_in_s}\r\n'
    ).encode()


def rate_limited(budget: RowBudget, wait_s: float) -> ResourceExhausted:
    """Build the refusal with what a caller needs to behave."""
    bucket = budget.refused_by
    return ResourceExhausted(
        f"The limit of {bucket.per_second * 60:g} rows a minute is used up; try again in {max(wait_s, 0.01):.2f} s.",
        code="rate_limited",
        retry_after_s=max(wait_s, 0.01),
        limit=bucket.name,
        per_minute=bucket.per_second * 60,
        burst=bucket.burst,
    )
