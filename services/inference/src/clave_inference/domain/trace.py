"""W3C trace context: where a request stands in somebody's trace.

Source: W3C Trace Context, Level 1, https://www.w3.org/TR/trace-context/#traceparent-header
"""

import os
import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Trace:
    """A caller's trace.

    Attributes:
        trace_id: 32 hex digits.
        flags: 2 hex digits; the last bit says that the caller records the trace.
        state: The caller's ``tracestate``, passed on untouched.
    """

    trace_id: str
    flags: str
    state: str | None = None

    def headers(self) -> dict[str, str]:
        """Give the headers for a call to somebody else: the same trace, a span of our own."""
        headers = {"traceparent": f"00-{self.trace_id}-{os.urandom(8).hex()}-{self.flags}"}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def trace_of(parent: bytes | str | None, state: bytes | str | None = None) -> Trace | None:
    """Read ``traceparent``; None where there is none or it breaks the standard, which then starts no trace here."""
    if not parent:
        return None
    text = parent.decode("latin-1") if isinstance(parent, bytes) else parent
    found = _TRACEPARENT.match(text)
    if found is None or (len(text) > found.end() and (text.startswith("00") or text[found.end()] != "-")):
        return None
    kept = state.decode("latin-1") if isinstance(state, bytes) else state
    return Trace(found[1], found[3], kept[:512] if kept else None)
