"""Keeps and explains decisions: runs one again from its log entry and says what would be needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from clave_common.access.decision_point import decision_from
from clave_common.access.enforcement import Access
from clave_common.access.engine import PolicyEngine
from clave_common.access.filters import visible_rows
from clave_common.access.model import Caller, Resource
from clave_common.clock import Clock
from clave_common.database import Database
from clave_common.errors import NotFound
from clave_common.logs import get_logger
from clave_common.streams import Entry
from clave_contracts.events import decision_stream
from sqlalchemy import ColumnElement

from clave_gateway.domain.explanations import remedies, rules_of
from clave_gateway.storage import decisions, identity
from clave_gateway.storage.decisions import DecisionRow
from clave_gateway.storage.tables import decisions as table

_KEPT = timedelta(days=14)
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DecisionSearch:
    """What to look for; absent fields do not narrow."""

    subject: str | None = None
    action: str | None = None
    allow: bool | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, the same question asked again, and what would be needed.

    Attributes:
        again_allow: Answer of the policy in force to the logged input.
        same: Whether it equals the logged answer.
        rules: By reason, the rule of the policy in force that did not hold and where it stands.
    """

    row: DecisionRow
    again_allow: bool
    again_reasons: list[str]
    again_policy_version: str
    same: bool
    remedies: dict[str, str]
    rules: dict[str, str]


class DecisionService:
    """Operations on the log of decisions."""

    def __init__(self, database: Database, access: Access, engine: PolicyEngine, clock: Clock) -> None:
        self._database = database
        self._access = access
        self._engine = engine
        self._clock = clock
        self._cleared_at = clock.now()

    async def keep(self, entries: Sequence[Entry]) -> None:
        """Take a batch of the stream of decisions (a `StreamConsumer` handler)."""
        rows = [row for row in map(decision_row, entries) if row is not None]
        used: dict[str, datetime] = {}
        for row in rows:
            key_id = row.input.get("context", {}).get("auth", {}).get("key_id")
            if isinstance(key_id, str):
                used[key_id] = max(row.at, used.get(key_id, row.at))
        reads = dict(
            read for read in map(self._read_of_record, entries) if read is not None
        )  # a replay holds some twice
        async with self._database.transaction() as tx:
            for entry_id, body in reads.items():
                tx.audit_signed(entry_id, body)
            if rows:
                await decisions.add_decisions(tx.session, rows)
                await identity.note_use(tx.session, used)
            if self._clock.now() - self._cleared_at > timedelta(hours=1):
                self._cleared_at = self._clock.now()
                await decisions.forget_decisions(tx.session, before=self._cleared_at - _KEPT)

    def _read_of_record(self, entry: Entry) -> tuple[str, str] | None:
        """Take the audit entry out of an allowed read that the policy wants recorded; changes record themselves.

        It passes through the outbox as its service signed it, and the log checks that.

        Returns:
            Its id and its JSON.
        """
        row = decision_row(entry)
        if row is None or not row.allow:
            return None
        read = orjson.loads(entry.body).get("read")
        known = self._access.policy_data().get("catalog", {}).get(row.action, {})
        if not isinstance(read, dict) or known.get("mutating") is not False or read.get("action") != row.action:
            return None
        return f"read_{row.id}", orjson.dumps(read).decode()

    async def recent(self, caller: Caller, wanted: DecisionSearch, *, limit: int) -> list[DecisionRow]:
        """List the decisions of the tenants that the caller may see, newest first."""
        clauses = await self._access.visible(caller, "audit:log.read")
        tenant = table.c.input["subject"]["properties"]["tenant"].astext
        conditions: list[ColumnElement[bool]] = [visible_rows(clauses, tenant=tenant, resource_id=table.c.resource)]
        if wanted.subject:
            conditions.append(table.c.subject == wanted.subject)
        if wanted.action:
            conditions.append(table.c.action == wanted.action)
        if wanted.allow is not None:
            conditions.append(table.c.allow.is_(wanted.allow))
        async with self._database.transaction() as tx:
            return await decisions.recent_decisions(tx.session, conditions, limit=limit)

    async def explain(self, caller: Caller, decision_id: str) -> Explanation:
        """Run a decision again and say what would be needed; everybody may ask about their own.

        Raises:
            NotFound: No such decision is kept, or it was another's and the caller may not read the log.
        """
        async with self._database.transaction() as tx:
            row = await decisions.find_decision(tx.session, decision_id)
        own = row is not None and row.subject == caller.subject_id
        action = "access:evaluate" if own else "audit:log.read"
        tenant = caller.tenant if own or row is None else row.input["subject"]["properties"]["tenant"]
        resource = Resource("decision", f"decisions/{decision_id}", {"tenant": tenant})
        if row is None or not (await self._access.check(caller, action, resource)).allow:
            await self._access.charge_refusal(caller)  # of a decision that is not kept too: the count tells no more
            raise NotFound(
                f"No decision {decision_id} is kept that you may see. Allows are sampled; denials reach the log "
                "within a second.",
                code="decision_not_found",
            )
        again = decision_from(await self._engine.decide(row.input), self._engine.name)
        return Explanation(
            row=row,
            again_allow=again.allow,
            again_reasons=list(again.reasons),
            again_policy_version=again.policy_version,
            same=again.allow == row.allow and list(again.reasons) == sorted(row.reasons),
            remedies=remedies(row.reasons),
            rules=rules_of(row.reasons, self._access.policy_modules()),
        )


def decision_row(entry: Entry) -> DecisionRow | None:
    """Read an entry of a stream of decisions; None when it is no decision, or another service's than the stream."""
    try:
        fields = storable(orjson.loads(entry.body))
        row = DecisionRow(
            id=str(fields["id"]),
            at=datetime.fromtimestamp(float(fields["time"]), UTC),
            service=str(fields["service"]),
            subject=str(fields["subject"]),
            action=str(fields["action"]),
            resource=str(fields["resource"]),
            allow=fields["allow"] is True,
            reasons=[str(reason) for reason in fields["reasons"]],
            policy_version=str(fields["policy_version"]),
            engine=str(fields["engine"]),
            input=dict(fields["input"]),
            input_digest=str(fields["input_digest"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError):
        _log.warning("decision_malformed", entry_id=entry.id)
        return None
    if decision_stream(row.service) != entry.stream:
        _log.error("decision_of_another_service", entry_id=entry.id, stream=entry.stream)
        return None
    return row


def storable(value: Any) -> Any:
    """Replace what Postgres's text cannot hold: NUL, which callers can put into the names that they ask about."""
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {storable(key): storable(each) for key, each in value.items()}
        case list():
            return [storable(each) for each in value]
    return value
