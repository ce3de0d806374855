"""The access log: one structured line for one request in so many, answered or refused.

Every answer is in the prediction log and every request in the metrics; this log is for people who look for an example.
Lines carry identifiers, never inputs or outputs.
"""

from collections.abc import Sequence
from typing import Any

from clave_common.logs import get_logger

from clave_inference.services.call import Call
from clave_inference.services.serving import Target

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
        if self.is_due(len(calls)):
            self._write(calls[-1], "ok", ended)

    def is_due(self, count: int) -> bool:
        """Count answers; whether one of them gets a line."""
        if not self._every:
            return False
        self._answered += count
        if self._answered < self._every:
            return False
        self._answered = 0
        return True

    @staticmethod
    def write_row(target: Target, principal: str, prediction_id: str, latency_s: float) -> None:
        """Write the line of an answered plain row."""
        _log.info(
            "request",
            protocol="rest",
            model=target.endpoint.name,
            code="ok",
            latency_ms=round(latency_s * 1e3, 3),
            principal=principal,
            endpoint=target.endpoint.name,
            version=target.loaded.version,
            arm=target.arm,
            prediction_id=prediction_id,
        )

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
