"""Replies as HTTP: statuses, headers and error bodies of the Open Inference Protocol.

Error bodies are RFC 9457 documents with the protocol's ``error`` member, under the plain media type
``application/json``: KServe's client shows the text under no other. Invalid requests are 400 here.
"""

import base64
from urllib.parse import quote, unquote_to_bytes

import orjson
from clave_common.errors import ClaveError, Kind
from clave_common.grpc_status import retry_status
from clave_common.problems import problem_document
from clave_common.status import GRPC_STATUS, HTTP_STATUS, PROTOCOL_INVALID_STATUS

from clave_inference.services.call import Reply

JSON = b"application/json"
OCTETS = b"application/octet-stream"
PROTOBUF = b"application/x-protobuf"
BRIDGE_PATH = b"/inference.GRPCInferenceService/ModelInfer"
_MESSAGE_CHARACTERS_MAX = 1_000
_SUMMARY_CHARACTERS_MAX = 200  # clients take 8 kB of trailers at most
_MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_PREFIX = b"/v2/models/"
_GRPC_CODES = {
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "UNAUTHENTICATED": 16,
}
Headers = list[tuple[bytes, bytes]]


def infer_target(path: bytes) -> tuple[str, str | None] | None:
    """Read model and version out of an infer path; None for every other path.

    Args:
        path: The raw path without its query, percent-encoded.
    """
    if not path.startswith(_PREFIX) or not path.endswith(b"/infer"):
        return None
    parts = path[len(_PREFIX) : -len(b"/infer")].split(b"/")
    if len(parts) == 1 and parts[0]:
        return _text(parts[0]), None
    if len(parts) == 3 and parts[1] == b"versions" and parts[0] and parts[2]:  # noqa: PLR2004
        return _text(parts[0]), _text(parts[2])
    return None


def _text(part: bytes) -> str:
    return unquote_to_bytes(part).decode("utf-8", "replace")


def rendered(reply: Reply) -> tuple[int, Headers, bytes]:
    """Give status, headers (without the length) and body of a REST reply."""
    if reply.error is not None:
        return rendered_error(reply.error)
    limits = _pairs(reply.limit_headers)
    if reply.json_length is None:
        return 200, [(b"content-type", JSON), *limits], reply.body
    length = (b"inference-header-content-length", b"%d" % reply.json_length)
    return 200, [(b"content-type", OCTETS), length, *limits], reply.body


def _pairs(lines: bytes) -> Headers:
    pairs: Headers = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        pairs.append((name, value))
    return pairs


def rendered_error(error: ClaveError, *, status: int | None = None) -> tuple[int, Headers, bytes]:
    """Give status, headers and body of a refusal."""
    if status is None:
        status = PROTOCOL_INVALID_STATUS if error.kind is Kind.INVALID_ARGUMENT else HTTP_STATUS[error.kind]
    document = problem_document(kind=error.kind, code=error.code, detail=error.detail, facts=error.facts, status=status)
    headers: Headers = [(b"content-type", JSON)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    if error.code == "rate_limited":
        per_minute, burst = error.facts["per_minute"], error.facts["burst"]
        name = str(error.facts["limit"]).encode()
        headers += [
            (b"ratelimit-policy", b'"%b";q=%d;w=60' % (name, round(per_minute))),
            (b"ratelimit", b'"%b";r=0;t=%d' % (name, max(1, round(error.retry_after_s or 1)))),
            (b"x-ratelimit-burst", b"%d" % round(burst)),
        ]
    if error.kind is Kind.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b'Bearer realm="clave", Basic realm="clave"'))
    return status, headers, orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS)


def rendered_for_bridge(reply: Reply) -> tuple[int, Headers, bytes]:
    """Give status, headers and body for Envoy's gRPC bridge.

    The bridge makes gRPC's status out of the HTTP status alone. The headers ``x-grpc-...`` carry what the gRPC port
    would put into the trailers (`clave_common.grpc_status`); the edge copies them there.
    """
    error = reply.error
    if error is None:
        return 200, [(b"content-type", PROTOBUF), *_pairs(reply.limit_headers)], reply.body
    status = PROTOCOL_INVALID_STATUS if error.kind is Kind.INVALID_ARGUMENT else HTTP_STATUS[error.kind]
    code = _GRPC_CODES[GRPC_STATUS[error.kind]]
    # gRPC's own encoding of messages: UTF-8, percent-encoded outside of printable ASCII.
    message = quote(error.detail[:_MESSAGE_CHARACTERS_MAX], safe=_MESSAGE_SAFE).encode()
    headers: Headers = [
        (b"content-type", PROTOBUF),
        (b"x-grpc-status", b"%d" % code),
        (b"x-grpc-message", message),
        (b"x-grpc-clave-code", error.code.encode()),
    ]
    if error.retry_after_s is not None:
        details = base64.b64encode(
            retry_status(code, error.detail[:_SUMMARY_CHARACTERS_MAX], error.retry_after_s)
        ).rstrip(b"=")
        headers += [
            (b"x-grpc-retry-after", b"%d" % max(1, round(error.retry_after_s))),
            (b"x-grpc-retry-pushback-ms", b"%d" % max(1, round(error.retry_after_s * 1000))),
            (b"x-grpc-status-details-bin", details),
        ]
    return status, headers, b""
