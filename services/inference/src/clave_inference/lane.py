"""uvicorn's HTTP protocol with a lane for infer requests: from the parser to `Predictions` without an ASGI task.

The lane takes complete, ordinary requests only: POST to an infer route, HTTP/1.1 kept alive, announced length within
`LANE_BYTES_MAX`, nothing else in flight on the connection. Everything unusual (chunked or large or compressed bodies,
Expect, upgrades, pipelining behind a request in flight, a client that does not read its answers) goes uvicorn's
ordinary way to `hot_route`, which hands it to the same operation.

Clients that keep a connection send the same head again and again, byte for byte. What the parser made of a head is
remembered (`Plan`); a request that arrives in one piece behind a head seen before skips the parser, which may be done
because the parser stands between two messages and a head's meaning depends on its bytes alone.

A request in the lane stands in uvicorn's books as a cycle of its own, so pipelining, keep-alive, graceful shutdown and
disconnects work as uvicorn does them. The names used of uvicorn's class are private; `require_known_uvicorn` refuses to
start on a release that this file was not checked against.
"""

import asyncio
import select
import time
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from clave_inference.hot_route import credential_from, grpc_deadline
from clave_inference.http_answers import BRIDGE_PATH, JSON, PROTOBUF, infer_target, rendered, rendered_for_bridge
from clave_inference.lane_plan import Plan, may_come_again, plan_key, timeout_in
from clave_inference.services.admissions import Credential
from clave_inference.services.call import Call, Reply
from clave_inference.services.plain_runs import PlainRuns
from clave_inference.services.predict import Predictions

LANE_BYTES_MAX: Final = 256 * 1024
LINGER_S: Final = 0.5
_TIMER_STEP_S: Final = 0.01
KNOWN_UVICORN: Final = "0.54."
_TARGETS_MAX: Final = 1_000
_TARGET_BYTES_MAX: Final = 1_024
_PLANS_MAX: Final = 4_096
_PLAN_BYTES_MAX: Final = 2_048
_HEAD_END: Final = b"\r\n\r\n"
_ONE_OF_A_KIND: Final = frozenset({b"traceparent"})
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"})
_SINGLE: Final = frozenset({b"authorization", b"inference-header-content-length", b"content-length"})
_OK: Final = b"HTTP/1.1 200 OK\r\n%bcontent-type: %b\r\n%bcontent-length: %d\r\n\r\n%b"


class UnknownUvicorn(Exception):
    """The installed uvicorn is not the one that the lane was written for."""


def require_known_uvicorn() -> None:
    """Check that uvicorn is the release that the lane knows.

    Raises:
        UnknownUvicorn: It is another one.
    """
    if not uvicorn.__version__.startswith(KNOWN_UVICORN):
        raise UnknownUvicorn(f"the fast lane knows uvicorn {KNOWN_UVICORN}x, installed is {uvicorn.__version__}")


class _LaneCycle:
    """The request in the lane, as uvicorn's protocol sees requests; one per connection, used again and again."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, message_event: asyncio.Event) -> None:
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False
        self.message_event = message_event


class Lane(HttpToolsProtocol):
    """See the module; made by `lane_for`."""

    predictions: Predictions
    plain: PlainRuns
    targets: dict[bytes, tuple[str, str | None]]
    plans: dict[tuple[str, bytes], Plan]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._filling = False
        self._between = True
        self._arrived: bytes | None = None
        self._parts: list[bytes] = []
        self._headers_found: dict[bytes, bytes] = {}
        self._target: tuple[str, str | None] = ("", None)
        self._ending = False
        self._bridged = False
        self._presented: tuple[bytes | None, ...] = ()
        self._credential = Credential(None)
        self._lane_cycle: Any = _LaneCycle(asyncio.Event())
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._default_bytes = b""
        self._whence = ""
        self._answered_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Take a connection."""
        super().connection_made(transport)
        self._whence = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        """Take bytes: a whole request behind a known head at once, everything else through the parser."""
        self._arrived = None
        cycle = self.cycle
        if self._between and (cycle is None or cycle.response_complete):
            end = data.find(_HEAD_END) + 4
            plan = self._plan_of(data[:end])
            if plan is None:
                self._arrived = data
            elif len(data) - end == plan.length and not self._ending and not self.flow.write_paused:
                self.cycle = cycle = self._lane_cycle
                cycle.response_complete = False
                if plan.plain:
                    self.plain.take(self, plan, data, end)
                else:
                    self.ask(plan, data[end:], time.monotonic(), timeout_in(data[:end]) if plan.bridged else None)
                return
        super().data_received(data)

    def _plan_of(self, head: bytes) -> Plan | None:
        plan = self.plans.get((self._whence, head))
        if plan is None and (key := plan_key(head)) is not head:
            plan = self.plans.get((self._whence, key))
        return plan

    def on_message_begin(self) -> None:
        """Begin a request; the ordinary way's own preparations wait until it is chosen."""
        self._between = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def _begin_ordinarily(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)

    def on_headers_complete(self) -> None:
        """Choose the lane or the ordinary way."""
        if self._takes():
            self._filling = True
            self._parts = []
            self.cycle = cycle = self._lane_cycle
            cycle.response_complete = False
        else:
            self._begin_ordinarily()
            super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def _takes(self) -> bool:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return False
        target = self._infer_target(self.url)
        parser = self.parser
        if (
            target is None
            or parser.get_method() != b"POST"
            or self.flow.write_paused
            or parser.should_upgrade()
            or not parser.should_keep_alive()
            or parser.get_http_version() != "1.1"
        ):
            return False
        found: dict[bytes, bytes] = {}
        for name, value in self.headers:
            if name in _UNUSUAL or (name in found and name in _SINGLE):
                return False
            found[name] = value
        length = found.get(b"content-length", b"")
        if not length.isdigit() or len(length) > 7 or int(length) > LANE_BYTES_MAX:  # noqa: PLR2004
            return False
        self._headers_found, self._target = found, target
        return True

    def _infer_target(self, url: bytes) -> tuple[str, str | None] | None:
        known = self.targets.get(url)
        if known is not None:
            return known
        target = ("", None) if url == BRIDGE_PATH else infer_target(url)
        if target is not None and len(url) <= _TARGET_BYTES_MAX:
            if len(self.targets) >= _TARGETS_MAX:
                self.targets.clear()
            self.targets[url] = target
        return target

    def shutdown(self) -> None:
        """Let a client that just sent its next request have its answer before an idle connection closes.

        uvicorn closes idle connections at once; a request already on its way would be lost with it.
        """
        self._ending = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_S, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            return
        if _has_unread_bytes(self.transport):
            self.loop.call_soon(self._close_if_idle)  # a request arrived: the loop reads it first
        else:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        if self._filling:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Hand the complete request on."""
        self._between = True
        if not self._filling:
            super().on_message_complete()
            return
        self._filling = False
        parts, self._parts = self._parts, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        found = self._headers_found
        plan = Plan(self._target, self._credential_of(found), found, length=len(body), bridged=self.url == BRIDGE_PATH)
        self._remember(plan, body)
        self.ask(plan, body, time.monotonic(), found.get(b"grpc-timeout"))

    def _remember(self, plan: Plan, body: bytes) -> None:
        """Keep a plan if its head arrived alone with its body, and may come again."""
        data = self._arrived
        if data is None or not body or self._ending or not _ONE_OF_A_KIND.isdisjoint(self._headers_found):
            return
        end = data.find(_HEAD_END) + 4
        key = plan_key(data[:end])
        if not may_come_again(key, self._headers_found):
            return
        if len(data) - end == len(body) and end <= _PLAN_BYTES_MAX:
            if len(self.plans) >= _PLANS_MAX:
                self.plans.clear()
            self.plans[(self._whence, key)] = plan

    def ask(self, plan: Plan, body: bytes, began: float, timeout: bytes | None = None) -> None:
        """Send the request in the lane to the operation; `timeout` is a gRPC call's, as its header says it."""
        self._bridged = plan.bridged
        call = Call(
            "rest",
            plan.model,
            plan.version,
            plan.credential,
            began=began,
            body=body,
            header_length=plan.header_length,
            routing_key=plan.routing_key,
            trace=plan.trace,
        )
        if plan.bridged:
            call.protocol = "grpc"
            call.deadline = grpc_deadline(timeout)
        if self._lane_cycle.keep_alive:
            call.quick = self.answer_quickly
        self.predictions.predict(call, self._answer)

    def _credential_of(self, found: dict[bytes, bytes]) -> Credential:
        """Give the connection's credential; clients that keep a connection mostly send the same one."""
        presented = (
            found.get(b"authorization"),
            found.get(b"x-envoy-external-address"),
            found.get(b"x-clave-edge"),
            found.get(b"x-clave-on-behalf-of"),
        )
        if presented != self._presented:
            self._presented = presented
            self._credential = credential_from(found, self.client[0] if self.client else None)
        return self._credential

    def _answer(self, reply: Reply) -> None:
        """Send the answer to the one request in the lane."""
        cycle = self._lane_cycle
        if reply.error is None and reply.json_length is None and cycle.keep_alive:
            self.answer_quickly(reply.body, reply.limit_headers, time.monotonic())
            return
        cycle.response_complete = True
        if not cycle.disconnected and not self.transport.is_closing():
            self._answer_in_full(reply, keep_alive=cycle.keep_alive)
            self.on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether the request in the lane has no answer yet."""
        return not self._lane_cycle.response_complete

    def answer_quickly(self, body: bytes, limit_headers: bytes, now: float) -> None:
        """Send an ordinary answer on a connection that is kept."""
        cycle, transport = self._lane_cycle, self.transport
        if not cycle.keep_alive:  # the process began to end while the request was in flight
            self._answer(Reply(body, limit_headers=limit_headers))
            return
        cycle.response_complete = True
        if cycle.disconnected or transport.is_closing():
            return
        state = self.server_state
        if state.default_headers is not self._default_headers:
            self._note_defaults()
        kind = PROTOBUF if self._bridged else JSON
        transport.write(_OK % (self._default_bytes, kind, limit_headers, len(body), body))
        self._answered_at = now  # as the loop's clock tells it
        if self.timeout_keep_alive_task is None or self.pipeline or self.flow.read_paused:
            self.on_response_complete()
        else:
            state.total_requests += 1  # the timer runs on: it looks when the last answer was

    def _answer_in_full(self, reply: Reply, *, keep_alive: bool) -> None:
        status, headers, body = rendered_for_bridge(reply) if self._bridged else rendered(reply)
        content = [STATUS_LINE[status], self._defaults()]
        for name, value in headers:
            content += (name, b": ", value, b"\r\n")
        if not keep_alive:
            content.append(b"connection: close\r\n")
        content += (b"content-length: %d\r\n\r\n" % len(body), body)
        self.transport.write(b"".join(content))
        if not keep_alive:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for as long as it may; look again later if not."""
        self.timeout_keep_alive_task = None
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            return  # the answer sets the timer again
        left_s = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if cycle is self._lane_cycle and left_s > _TIMER_STEP_S:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _defaults(self) -> bytes:
        if self.server_state.default_headers is not self._default_headers:
            self._note_defaults()
        return self._default_bytes

    def _note_defaults(self) -> None:
        self._default_headers = headers = self.server_state.default_headers
        self._default_bytes = b"".join(b"%b: %b\r\n" % header for header in headers)


def _has_unread_bytes(transport: asyncio.Transport) -> bool:
    """Whether the kernel holds bytes of the peer that nobody read; closing would reset the connection."""
    peer = transport.get_extra_info("socket")
    if transport.is_closing() or peer is None:
        return False
    poll = select.poll()
    poll.register(peer.fileno(), select.POLLIN | select.POLLRDHUP)
    events = poll.poll(0)
    return bool(events) and not events[0][1] & (select.POLLRDHUP | select.POLLHUP | select.POLLERR)


def lane_for(predictions: Predictions) -> type[Lane]:
    """Make the protocol class of a process."""
    require_known_uvicorn()
    return type(
        "ServiceLane", (Lane,), {"predictions": predictions, "plain": predictions.plain, "targets": {}, "plans": {}}
    )
