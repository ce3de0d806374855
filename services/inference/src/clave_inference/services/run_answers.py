"""Answers the ordinary requests of a run together: recorded first, then answered one after the other, then counted.

Requests of a run share version and outputs; here they are answered in groups that share the door's language too. What
is not ordinary (several rows, binary tensors, explanations) ends one request at a time, in `Call.finish`.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from clave_inference.runtime.batcher import Run, deliver_each
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admission, Admissions
from clave_inference.services.call import Array, Arrays, Call, Reply
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.services.prediction_records import AnsweredRows

_Row = TypeVar("_Row")


class Template(Protocol[_Row]):
    """Writes answers in the door's language."""

    def rows(self, outputs: Arrays, /) -> Iterable[_Row]:
        """Encode the outputs of every row of a run."""
        ...

    def render(self, prediction_id: str, request_id: str | None, row: _Row, /) -> bytes:
        """Write one answer."""
        ...


class RunAnswers:
    """Takes what comes out of the batcher.

    Args:
        admissions: Know what is left of a caller's limit.
        log: Keeps every answer; it has it before the caller has.
        access_log: Samples them.
    """

    def __init__(self, *, admissions: Admissions, log: PredictionLog, access_log: AccessLog) -> None:
        self._admissions = admissions
        self._log = log
        self._access_log = access_log

    def deliver(self, calls: list[Call], run: Run) -> None:
        """End the calls of a run that went well."""
        outputs = run.outputs or []
        first = calls[0]
        row, target = first.runnable.row, first.target
        if row is None or not _are_ordinary(calls) or not row.gives(outputs, len(calls)):
            deliver_each(calls, run)
            return
        ended, rows = time.monotonic(), run.feeds[0]
        messages = [call.protocol == "grpc" for call in calls]
        if True not in messages:
            self._answer(calls, rows, outputs, ended, target.template)
        elif False not in messages:
            self._answer(calls, rows, outputs, ended, target.message_template)
        else:
            for over_grpc in (True, False):
                at = [place for place, found in enumerate(messages) if found is over_grpc]
                part, given = [calls[place] for place in at], [output[at] for output in outputs]
                if over_grpc:
                    self._answer(part, rows[at], given, ended, target.message_template)
                else:
                    self._answer(part, rows[at], given, ended, target.template)
        self._access_log.answered(calls, ended)

    def _answer(
        self,
        calls: Sequence[Call],
        rows: Array,
        outputs: Arrays,
        ended: float,
        template: Template[_Row],
    ) -> None:
        traces = [None if call.trace is None else call.trace.trace_id for call in calls]
        answered = AnsweredRows(
            target=calls[0].target,
            protocol=calls[0].protocol,
            rows=rows,
            outputs=outputs,
            ids=[call.prediction_id for call in calls],
            principals=[call.admission.caller.subject_id for call in calls],
            traces=traces if any(traces) else None,
            began=[call.began for call in calls],
            ended=ended,
        )
        self._log.add_rows(answered)  # first: an answer given is an answer on record
        admission: Admission | None = None
        headers = b""
        render = template.render
        for call, row in zip(calls, template.rows(outputs), strict=True):
            if call.admission is not admission:
                admission = call.admission
                headers = self._admissions.limit_headers(admission, ended)
            body = render(call.prediction_id, call.request_id, row)
            quick = call.quick
            if quick is None:
                call.answered(Reply(body, limit_headers=headers))
            else:
                quick(body, headers, ended)


def _are_ordinary(calls: list[Call]) -> bool:
    """Whether all are of one plain row and for one target."""
    target = calls[0].target
    for call in calls:  # noqa: SIM110  a generator costs 1 us
        if call.values is None or call.target is not target:
            return False
    return True
