"""Errors as RFC 9457 problem documents, for HTTP."""

from collections.abc import Mapping
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from clave_common.errors import ClaveError, Kind
from clave_common.ids import new_id
from clave_common.logs import get_logger
from clave_common.status import HTTP_STATUS

_log = get_logger(__name__)
_KIND_OF_STATUS = {404: Kind.NOT_FOUND, 405: Kind.UNIMPLEMENTED, 413: Kind.PAYLOAD_TOO_LARGE}
PROBLEM_TYPE = "https://clave.dev/problems/"
PROBLEM_MEDIA_TYPE = "application/problem+json"


def problem_document(
    *, kind: Kind, code: str, detail: str, facts: Mapping[str, Any] | None = None, status: int | None = None
) -> dict[str, Any]:
    """Build the members of a problem document.

    Returns:
        ``type``, ``title``, ``status``, ``detail``, ``code`` and the facts as extension members. The member
        ``error`` repeats the detail for clients of the Open Inference Protocol.
    """
    return {
        **(facts or {}),
        "type": PROBLEM_TYPE + code.replace("_", "-"),
        "title": code.replace("_", " ").capitalize(),
        "status": status or HTTP_STATUS[kind],
        "code": code,
        "detail": detail,
        "error": detail,
    }


def problem_response(error: ClaveError, *, status: int | None = None) -> Response:
    """Render an expected refusal."""
    document = problem_document(kind=error.kind, code=error.code, detail=error.detail, facts=error.facts, status=status)
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="clave", Basic realm="clave"'
    return Response(
        orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS),
        status_code=document["status"],
        media_type=PROBLEM_MEDIA_TYPE,
        headers=headers,
    )


def _validation_problem(error: RequestValidationError) -> ClaveError:
    faults = [
        {"field": ".".join(str(part) for part in fault["loc"]), "fault": fault["msg"]} for fault in error.errors()[:20]
    ]
    first = faults[0] if faults else {"field": "body", "fault": "is malformed"}
    refusal = ClaveError(f"{first['field']}: {first['fault']}.", code="invalid_argument", faults=faults)
    refusal.kind = Kind.INVALID_ARGUMENT
    return refusal


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application leave it as a problem document; unknown ones leave only an id."""

    async def refused(_request: Request, error: Exception) -> Response:
        return problem_response(cast("ClaveError", error))

    async def malformed(_request: Request, error: Exception) -> Response:
        return problem_response(_validation_problem(cast("RequestValidationError", error)))

    async def by_status(_request: Request, error: Exception) -> Response:
        error = cast("StarletteHTTPException", error)
        kind = _KIND_OF_STATUS.get(error.status_code, Kind.INVALID_ARGUMENT)
        refusal = ClaveError(str(error.detail), code=kind.value)
        refusal.kind = kind
        return problem_response(refusal, status=error.status_code)

    async def unexpected(request: Request, error: Exception) -> Response:
        error_id = new_id("err")
        _log.error("request_failed", error_id=error_id, path=request.url.path, exc_info=error)
        refusal = ClaveError(
            f"Something failed inside the service; its log tells more under {error_id}.", error_id=error_id
        )
        return problem_response(refusal)

    app.add_exception_handler(ClaveError, refused)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(StarletteHTTPException, by_status)
    app.add_exception_handler(Exception, unexpected)
