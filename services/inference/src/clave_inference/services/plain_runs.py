"""The shortest way of all: plain rows from the lane, answered a pass of the event loop at a time.

A request behind a remembered head (`Plan`), in a remembered form (`RowForm`), from a caller who is admitted and within
the lease at hand, for the only version that its endpoint sends traffic to, needs nothing of its own: the requests of
one pass are charged, computed, recorded and worded together. At one connection that is half of the interpreter's work,
at many it is most of what the extras cost.

Everything else (no admission yet, a lease to be drawn, a canary or a shadow, an id, a binary tensor, a run that failed,
a long queue) takes the ordinary way through `Predictions`, as if it had just arrived. Nothing is decided here that is
not decided there.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np
from clave_common.errors import ClaveError
from clave_common.logs import get_logger

from clave_inference.codecs import rest_forms
from clave_inference.codecs.rest_forms import RowForm
from clave_inference.domain.prediction_ids import PredictionIds
from clave_inference.runtime.batcher import Batcher, computed
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admission, Admissions, Credential
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.services.prediction_records import AnsweredRows
from clave_inference.services.serving import ServingTable, Target

_log = get_logger(__name__)
_BODY_BYTES_MAX: Final = 64 * 1024
_LEARNED_MAX: Final = 16
_HEADS_MAX: Final = 4_096
_BEGAN: Final = 4


class KnownHead:
    """What the requests behind one head ask for; kept by the serving table, and gone with it.

    Attributes:
        target: What answers them.
        form: None where the last body had none.
        learned: How often a form was looked for.
    """

    __slots__ = ("form", "learned", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.form: RowForm | None = None
        self.learned = 0


class Head(Protocol):
    """What the lane remembers of a request's head.

    Attributes:
        admission: The caller's leave when it was last looked up.
    """

    model: str
    version: str | None
    credential: Credential
    admission: Admission | None


class Asker(Protocol):
    """A connection with one request in flight."""

    @property
    def waits(self) -> bool:
        """Whether the request has no answer yet."""
        ...

    def answer_quickly(self, body: bytes, limit_headers: bytes, now: float) -> None:
        """Take the answer."""
        ...

    def ask(self, plan: Any, body: bytes, began: float) -> None:
        """Send the request the ordinary way."""
        ...


Arrival = tuple[Asker, Head, bytes, int, float]
"""A request: its connection, its remembered head, the bytes, where the body begins, monotonic seconds."""


class PlainRuns:
    """The plain rows of one process; see the module."""

    def __init__(
        self,
        *,
        table: Callable[[], ServingTable],
        admissions: Admissions,
        batcher: Batcher,
        log: PredictionLog,
        access_log: AccessLog,
        ids: PredictionIds,
    ) -> None:
        self._table = table
        self._admissions = admissions
        self._batcher = batcher
        self._log = log
        self._access_log = access_log
        self._ids = ids
        self._waiting: list[Arrival] = []

    @property
    def in_flight(self) -> int:
        """Requests that arrived in this pass."""
        return len(self._waiting)

    def take(self, asker: Asker, plan: Head, data: bytes, start: int) -> None:
        """Take a request; it is answered when everything that arrived in this pass of the loop is here."""
        waiting = self._waiting
        if not waiting:
            asyncio.get_running_loop().call_soon(self._run_all)
        waiting.append((asker, plan, data, start, time.monotonic()))

    def _run_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        most = self._batcher.rows_per_run_max
        if len(waiting) <= most:
            self._run(waiting)
            return
        for start in range(0, len(waiting), most):
            self._run(waiting[start : start + most])

    def _run(self, waiting: list[Arrival]) -> None:
        """Answer what can be answered together; the rest goes the ordinary way."""
        table, known = self._table(), self._admissions.known
        heads = table.known_heads
        target: Target | None = None
        ready: list[Arrival] = []
        rows: list[bytes] = []
        admitted: list[Admission] = []
        others: list[Arrival] = []
        for arrival in waiting:
            _, plan, data, start, began = arrival
            admission = plan.admission
            if admission is None or began >= admission.renew_at:
                admission = plan.admission = known(plan.credential, plan.model, plan.version, began)
            head = heads.get(plan)
            row = None
            if head is not None and head.form is not None and admission is not None:
                if target is None:
                    target = head.target
                if head.target is target:
                    row = head.form.row(data, start)
            if row is None or admission is None:
                others.append(arrival)
            else:
                ready.append(arrival)
                rows.append(row)
                admitted.append(admission)
        if target is not None and ready:
            others += self._left_over(target, ready, rows, admitted)
        for asker, plan, data, start, began in others:
            body = data[start:]
            self._learn(table, plan, body)
            asker.ask(plan, body, began)

    def _left_over(
        self, target: Target, ready: list[Arrival], rows: list[bytes], admitted: list[Admission]
    ) -> list[Arrival]:
        """Answer requests together; gives those that have to be answered otherwise."""
        try:
            return [] if self._answered(target, ready, rows, admitted) else ready
        except Exception:  # noqa: BLE001  entry point of a callback: whatever happens, callers get an answer
            _log.exception("plain_run_failed", endpoint=target.endpoint.name)
            return [arrival for arrival in ready if arrival[0].waits]

    def _answered(self, target: Target, ready: list[Arrival], rows: list[bytes], admitted: list[Admission]) -> bool:
        """Charge, compute, record and answer requests; False where one of these cannot be done, and so none was."""
        loaded, row, count = target.loaded, target.loaded.row, len(ready)
        if (
            row is None
            or not self._batcher.runs_at_once(loaded, count)
            or not self._charged(admitted, ready[0][_BEGAN])
        ):
            return False
        feed = np.frombuffer(b"".join(rows), row.dtype).reshape(count, -1)
        run = computed(loaded, loaded.output_names, (feed,), count)
        outputs = run.outputs
        if outputs is None or not row.gives(outputs, count):
            self._give_back(admitted)
            return False
        ended = time.monotonic()
        next_id = self._ids.next
        ids = [next_id() for _ in ready]
        answered = AnsweredRows(
            target=target,
            protocol="rest",
            rows=feed,
            outputs=outputs,
            ids=ids,
            principals=[admission.caller.subject_id for admission in admitted],
            traces=None,
            began=[began for _, _, _, _, began in ready],
            ended=ended,
        )
        self._log.add_rows(answered)  # first: an answer given is an answer on record
        render = target.template.render
        last: Admission | None = None
        headers = b""
        printed = target.template.rows(outputs)
        for (asker, _, _, _, _), admission, name, numbers in zip(ready, admitted, ids, printed, strict=True):
            if admission is not last:
                last, headers = admission, self._admissions.limit_headers(admission, ended)
            asker.answer_quickly(render(name, None, numbers), headers, ended)
        self._batcher.on_batch(count)
        if self._access_log.is_due(count):
            self._access_log.write_row(target, admitted[-1].caller.subject_id, ids[-1], ended - ready[-1][_BEGAN])
        return True

    def _charged(self, admitted: list[Admission], now: float) -> bool:
        """Charge every caller's rows to the lease at hand; all or nothing."""
        charge = self._admissions.charge_now
        first = admitted[0]
        paid: list[Admission] = []
        try:
            if admitted.count(first) == len(admitted):
                return charge(first, len(admitted), now)
            for admission, count in Counter(admitted).items():
                if not charge(admission, count, now):
                    break
                paid += [admission] * count
            else:
                return True
        except ClaveError:  # said to each caller on the ordinary way
            pass
        self._give_back(paid)
        return False

    @staticmethod
    def _give_back(admitted: list[Admission]) -> None:
        for admission in admitted:
            if admission.budget is not None:
                admission.budget.give_back(1)

    def _learn(self, table: ServingTable, plan: Head, body: bytes) -> None:
        """Find out whether requests behind a head can come this way next time."""
        if len(body) > _BODY_BYTES_MAX:
            return
        head = table.known_heads.get(plan)
        if head is None:
            target = self._only_target(table, plan)
            if target is None:
                return
            if len(table.known_heads) >= _HEADS_MAX:
                table.known_heads.clear()
            head = table.known_heads[plan] = KnownHead(target)
        row = head.target.loaded.row
        if row is None or head.learned >= _LEARNED_MAX:
            return
        if head.form is not None and head.form.row(body, 0) is not None:
            return  # it was not the form that sent it the ordinary way
        head.learned += 1
        head.form = rest_forms.learn(body, row)

    @staticmethod
    def _only_target(table: ServingTable, plan: Head) -> Target | None:
        try:
            return table.only_target(plan.model, plan.version)
        except ClaveError:  # said on the ordinary way
            return None
