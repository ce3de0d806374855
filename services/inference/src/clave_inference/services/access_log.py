"""The access log: one structured line for one request in so many, answered or refused.

Every answer is in the prediction log and every request in the metrics; this log is for people who look for an example.
Lines carry identifiers, never inputs or outputs.
"""

from collections.abc import Sequence
from typing import Any

from clave_common.logs import get_logger

from clave_inference.services.call import Call

_log = get_logger(__name__)


class AccessLog:
    """Samples requests.

    Args:
        every: One answer in so many has a line, and one refusal in so many; 0 = none.
    """

    def __init__(self, *, every: int) -> None:
        self._every = every
        self._answered = self._refused = 0

    def answered(self, calls: Sequence[Call], ended: float) -> None:
        """Count answers that ended at a monotonic second; the last one of them may get the line."""
        if not self._every:
            return
        self._answered += len(calls)
        if self._answered >= self._every:
            self._answered = 0
            self._write(calls[-1], "ok", ended)

    def refused(self, call: Call, code: str, ended: float) -> None:
        """Count a refusal."""
        if not self._every:
            return
        self._refused += 1
        if self._refused >= self._every or self._refused == 1:  # the first one since a line: faults are seen at once
            self._write(call, code, ended)
        if self._refused >= self._every:
            self._refused = 0

    @staticmethod
    def _write(call: Call, code: str, ended: float) -> None:
        facts: dict[str, Any] = {
            "protocol": call.protocol,
            "model": call.model[:200],
            "code": code,
            "latency_ms": round((ended - call.began) * 1e3, 3),
        }
        admission, target = getattr(call, "admission", None), getattr(call, "target", None)
        if admission is not None:
            facts["principal"] = admission.caller.subject_id
        if target is not None:
            facts |= {"endpoint": target.endpoint.name, "version": target.loaded.version, "arm": target.arm}
            facts["prediction_id"] = getattr(call, "prediction_id", None)
        if call.trace is not None:
            facts["trace_id"] = call.trace.trace_id
        _log.info("request", **facts)
