"""Turns the suite's problem documents into MLflow's errors, on MLflow's paths and nowhere else.

MLflow's clients know ``{"error_code": NAME, "message": text}``; anything else reads as INTERNAL_ERROR. A user's fault
is never a 5xx, because the client repeats those, POST included.
"""

from typing import Final

import orjson
from clave_common.problems import PROBLEM_MEDIA_TYPE
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIXES: Final = ("/api/2.0/mlflow", "/api/3.0/mlflow", "/ajax-api/")
_BY_STATUS: Final = {
    400: (400, "INVALID_PARAMETER_VALUE"),
    401: (401, "UNAUTHENTICATED"),
    403: (403, "PERMISSION_DENIED"),
    404: (404, "RESOURCE_DOES_NOT_EXIST"),
    405: (404, "ENDPOINT_NOT_FOUND"),
    409: (409, "RESOURCE_CONFLICT"),
    412: (409, "ABORTED"),
    413: (400, "INVALID_PARAMETER_VALUE"),
    422: (400, "INVALID_PARAMETER_VALUE"),
    428: (400, "INVALID_PARAMETER_VALUE"),
    429: (429, "REQUEST_LIMIT_EXCEEDED"),
    501: (501, "NOT_IMPLEMENTED"),
    503: (503, "TEMPORARILY_UNAVAILABLE"),
    504: (504, "DEADLINE_EXCEEDED"),
}
_BY_CODE: Final = {
    "already_exists": (400, "RESOURCE_ALREADY_EXISTS"),
    "alias_not_found": (400, "INVALID_PARAMETER_VALUE"),
    "direct_transfer_off": (501, "NOT_IMPLEMENTED"),
    "not_found": (404, "ENDPOINT_NOT_FOUND"),
    "unimplemented": (404, "ENDPOINT_NOT_FOUND"),
}


def mlflow_error(status: int, problem: dict[str, object]) -> tuple[int, bytes]:
    """Give the status and body that an MLflow client understands."""
    code = str(problem.get("code", ""))
    mapped = _BY_CODE.get(code) or _BY_STATUS.get(status) or (500, "INTERNAL_ERROR")
    return mapped[0], orjson.dumps({"error_code": mapped[1], "message": problem.get("detail", "")})


class MlflowErrors:
    """Pure ASGI, outside of everything else; rewrites problem documents of MLflow's paths."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; hold a problem document back until it is whole, and translate it."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def translated(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if _is_problem(message):
                    start = message
                    return
                await send(message)
            elif start is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await _send_error(send, start, bytes(body))

        await self._app(scope, receive, translated)


def _is_problem(message: Message) -> bool:
    headers = {name.lower(): value for name, value in message.get("headers", [])}
    return bool(headers.get(b"content-type", b"").startswith(PROBLEM_MEDIA_TYPE.encode()))


async def _send_error(send: Send, start: Message, body: bytes) -> None:
    status, content = mlflow_error(start["status"], orjson.loads(body))
    replaced = {b"content-type", b"content-length"}
    headers = [(name, value) for name, value in start["headers"] if name.lower() not in replaced]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
