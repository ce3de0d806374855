"""The infer routes as an ASGI callable in front of FastAPI: correct on any server, and the lane's way out.

It reads the body within its limit, decodes compressed bodies within the same limit, and hands the call to
`Predictions`, the one operation under every door.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from typing import Final

from clave_common.errors import ClaveError, InvalidArgument
from clave_common.status import PROTOCOL_INVALID_STATUS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clave_inference.domain.errors import BodyTooLarge, InvalidInferRequest
from clave_inference.domain.trace import trace_of
from clave_inference.http_answers import (
    BRIDGE_PATH,
    JSON,
    Headers,
    infer_target,
    rendered,
    rendered_error,
    rendered_for_bridge,
)
from clave_inference.services.admissions import Credential
from clave_inference.services.call import Call, Reply
from clave_inference.services.predict import Predictions

_WINDOW_BITS: Final = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
_METHOD_NOT_ALLOWED: Final = 405
_UNSUPPORTED_MEDIA_TYPE: Final = 415
_UNPROCESSABLE: Final = 422
_GRPC_TIMEOUT_LENGTH_MAX: Final = 9  # eight digits and a unit, says gRPC over HTTP/2


class ClientGone(Exception):
    """The caller closed the connection before its request was complete."""


class HotRoute:
    """ASGI: answers infer requests, passes everything else on."""

    def __init__(self, app: ASGIApp, *, predictions: Callable[[], Predictions], body_bytes_max: int) -> None:
        self._app = app
        self._predictions = predictions
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        bridged = path == BRIDGE_PATH
        target = ("", None) if bridged else infer_target(path)
        if target is not None and scope["method"] != "POST":
            await _send(send, *_post_only())
            return
        if target is None:
            await self._app(scope, receive, _protocol_errors(send) if path.startswith(b"/v2") else send)
            return
        try:
            headers = _once(scope["headers"])
            body = await self._body(headers, receive)
            call = _call(scope, target, headers, body, bridged=bridged)
        except ClaveError as refusal:
            status = _UNSUPPORTED_MEDIA_TYPE if refusal.code == "unsupported_content_encoding" else None
            answer = rendered_for_bridge(Reply(error=refusal)) if bridged else rendered_error(refusal, status=status)
            await _send(send, *answer)
            return
        except ClientGone:
            return
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._predictions().predict(call, lambda reply: None if future.done() else future.set_result(reply))
        reply = await future
        await _send(send, *(rendered_for_bridge(reply) if bridged else rendered(reply)))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._body_bytes_max:
            raise BodyTooLarge(self._body_bytes_max)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._body_bytes_max:
                raise BodyTooLarge(self._body_bytes_max)
            parts.append(part)
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        return body if encoding == b"identity" else decompressed(body, encoding, self._body_bytes_max)


def _post_only() -> tuple[int, Headers, bytes]:
    refusal = InvalidArgument(
        "Predictions are asked for by POST. GET the model's metadata at /v2/models/{model}.", code="method_not_allowed"
    )
    status, headers, body = rendered_error(refusal, status=_METHOD_NOT_ALLOWED)
    return status, [*headers, (b"allow", b"POST")], body


def decompressed(body: bytes, encoding: bytes, bytes_max: int) -> bytes:
    """Undo gzip or deflate, never making more than `bytes_max` bytes.

    Raises:
        InvalidArgument: Another encoding.
        InvalidInferRequest: The body is not what it claims to be.
        BodyTooLarge: It grows beyond the limit.
    """
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise InvalidArgument("Content-Encoding: send gzip, deflate or identity.", code="unsupported_content_encoding")
    inflater = zlib.decompressobj(bits)
    try:
        plain = inflater.decompress(body, bytes_max + 1)
    except zlib.error:
        raise InvalidInferRequest("body", f"is not valid {encoding.decode('latin-1')}.") from None
    if len(plain) > bytes_max:
        raise BodyTooLarge(bytes_max)
    if not inflater.eof:
        raise InvalidInferRequest("body", f"is cut short ({encoding.decode('latin-1')}).")
    return plain


def _once(headers: Headers) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in found and name in {b"authorization", b"inference-header-content-length", b"content-encoding"}:
            raise InvalidInferRequest(name.decode("latin-1"), "stands more than once in the headers.", "Send it once.")
        found[name] = value
    return found


def _call(
    scope: Scope, target: tuple[str, str | None], headers: dict[bytes, bytes], body: bytes, *, bridged: bool
) -> Call:
    client = scope.get("client")
    credential = credential_from(headers, client[0] if client else None)
    routing_key = headers.get(b"x-routing-key")
    call = Call(
        "rest",
        target[0],
        target[1],
        credential,
        began=time.monotonic(),
        body=body,
        header_length=headers.get(b"inference-header-content-length"),
        routing_key=None if routing_key is None else routing_key.decode("latin-1"),
        trace=trace_of(headers.get(b"traceparent"), headers.get(b"tracestate")),
    )
    if bridged:
        call.protocol = "grpc"
        call.deadline = grpc_deadline(headers.get(b"grpc-timeout"))
    return call


def credential_from(headers: dict[bytes, bytes], peer: str | None) -> Credential:
    """Pick what identifies the caller out of the headers."""
    return Credential(
        headers.get(b"authorization"),
        peer,
        _text(headers.get(b"x-clave-on-behalf-of")),
        claimed_ip=_text(headers.get(b"x-envoy-external-address")),
        edge_proof=_text(headers.get(b"x-clave-edge")),
    )


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None


def grpc_deadline(timeout: bytes | None) -> float | None:
    """Read a ``grpc-timeout`` header as monotonic seconds; None where there is none or it makes no sense."""
    if not timeout or len(timeout) > _GRPC_TIMEOUT_LENGTH_MAX or not timeout[:-1].isdigit():
        return None
    seconds = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}.get(timeout[-1:])
    return None if seconds is None else time.monotonic() + int(timeout[:-1]) * seconds


def _protocol_errors(send: Send) -> Send:
    """Make problem documents look as the Open Inference Protocol's clients expect them under /v2."""

    async def reworded(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:  # noqa: PLR2004
            if message["status"] == _UNPROCESSABLE:
                message["status"] = PROTOCOL_INVALID_STATUS
            message["headers"] = [
                (name, JSON if name == b"content-type" else value) for name, value in message["headers"]
            ]
        await send(message)

    return reworded


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})
