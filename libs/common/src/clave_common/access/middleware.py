"""The HTTP door: authenticates every request, and lets no answer out that nobody decided.

A route that declares its action decides through `governed`; an open route is marked. A success that neither holds for
is a programming fault and leaves as 500 without its body. A refusal that no decision was made for, such as 404, is
replaced for a caller that the policy refused too much: it would tell what exists, where the same question about
something that does exist is held back.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clave_common.access.enforcement import CALLER_KEY, Access, start_request
from clave_common.access.model import Caller
from clave_common.access.routes import is_open
from clave_common.access.verification import CredentialVerifier, Presented
from clave_common.errors import ClaveError, ResourceExhausted, Unauthenticated
from clave_common.logs import get_logger
from clave_common.problems import problem_response

_log = get_logger(__name__)
_SUCCESS = range(200, 400)
_REFUSALS = range(400, 500)
_TOO_MANY = 429
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


def presented_by(scope: Scope) -> Presented:
    """Pick what identifies the caller out of a request's headers.

    Two ``Authorization`` headers are refused: proxies and applications disagree on which one counts.

    Raises:
        Unauthenticated: More than one ``Authorization`` header.
    """
    authorizations = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(authorizations) > 1:
        raise Unauthenticated("Send one Authorization header, not several.")
    headers = dict(scope["headers"])
    client = scope.get("client")
    return Presented(
        authorization=authorizations[0].decode("latin-1") if authorizations else None,
        source_ip=client[0] if client else None,
        on_behalf_of=_text(headers.get(b"x-clave-on-behalf-of")),
        claimed_ip=_text(headers.get(b"x-envoy-external-address")),
        edge_proof=_text(headers.get(b"x-clave-edge")),
        break_glass=_text(headers.get(b"clave-break-glass")),
    )


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value else None


class AccessMiddleware:
    """Pure ASGI, in front of everything a service serves."""

    def __init__(self, app: ASGIApp, *, verifier: CredentialVerifier, service: str, access: Access) -> None:
        self._app = app
        self._access = access
        self._verifier = verifier
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, pass on, and watch the answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})  # no service speaks WebSocket
            return
        try:
            presented = presented_by(scope)
            scope[CALLER_KEY] = await self._verifier.verify(presented)
        except ClaveError as refusal:
            await problem_response(refusal)(scope, receive, send)
            return
        decisions = start_request(break_glass=presented.break_glass)
        withheld = False

        async def watched(message: Message) -> None:
            nonlocal withheld
            if message["type"] == "http.response.start" and not decisions:
                instead = await self._instead(scope, message["status"])
                if instead is not None:
                    withheld = True
                    await problem_response(instead)(scope, receive, send)
            if not withheld:
                await send(message)

        await self._app(scope, receive, watched)

    async def _instead(self, scope: Scope, status: int) -> ClaveError | None:
        """Say what leaves instead of an answer that nobody decided; None where it may leave."""
        if status in _SUCCESS:
            if is_open(scope):
                return None
            _log.error("answer_without_decision", path=scope["path"], method=scope["method"])
            return ClaveError("This answer was withheld: no policy decision was made.")
        caller = scope.get(CALLER_KEY)
        if status in _REFUSALS and status != _TOO_MANY and isinstance(caller, Caller):
            try:
                await self._access.hold_back(caller)
            except ResourceExhausted as refusal:
                return refusal
        return None
