"""Renders an error as a gRPC status: the code of the one table, the error's code and the wait as trailers.

``grpc-status-details-bin`` carries google.rpc.Status with RetryInfo where a caller should wait. Its three messages are
written by hand: forty lines against a dependency for one field.
"""

from typing import Any, NoReturn

import grpc

from clave_common.errors import ClaveError
from clave_common.status import GRPC_STATUS

_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def abort_with(context: grpc.ServicerContext, error: ClaveError) -> NoReturn:
    """End a call with an error; grpc raises to do so."""
    status = grpc.StatusCode[GRPC_STATUS[error.kind]]
    trailers: list[tuple[str, Any]] = [("clave-code", error.code)]
    if error.retry_after_s is not None:
        trailers.append(("retry-after", str(max(1, round(error.retry_after_s)))))
        trailers.append(("grpc-retry-pushback-ms", str(max(1, round(error.retry_after_s * 1000)))))
        trailers.append(("grpc-status-details-bin", retry_status(status.value[0], error.detail, error.retry_after_s)))
    context.set_trailing_metadata(trailers)
    context.abort(status, error.detail)
    raise AssertionError("abort raises")


def retry_status(code: int, message: str, wait_s: float) -> bytes:
    """Encode google.rpc.Status {code, message, details: [RetryInfo {retry_delay}]} in protobuf's wire format."""
    seconds = int(wait_s)
    nanos = int((wait_s - seconds) * 1e9)
    delay = _number(1, seconds) + _number(2, nanos)
    details = _bytes(1, _RETRY_INFO) + _bytes(2, _bytes(1, delay))
    return _number(1, code) + _bytes(2, message.encode()) + _bytes(3, details)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
