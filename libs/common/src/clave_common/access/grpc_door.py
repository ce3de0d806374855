"""The gRPC door: every method declares its action, and none answers before the policy has.

A server with a method that declares nothing does not start. A governed call is authenticated and decided on the
service's event loop before its handler sees the message; a method that decides in its own operation, because only
that knows the facts, says so; an open method is named as open. Imported only by services that speak gRPC.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc

from clave_common.access.enforcement import Access, start_request
from clave_common.access.model import Caller, Resource
from clave_common.access.routes import UngovernedRoute
from clave_common.access.verification import CredentialVerifier, Presented
from clave_common.errors import ClaveError, DeadlineExceeded, Unauthenticated
from clave_common.grpc_status import abort_with
from clave_common.logs import get_logger

_DECISION_S_MAX = 30.0
_log = get_logger(__name__)
_calling: ContextVar[Caller | None] = ContextVar("clave_grpc_caller", default=None)


@dataclass(frozen=True, slots=True)
class GrpcMethod:
    """What a method declares.

    Attributes:
        action: Name from the catalogue; None for a method that needs no credential.
        resource: Gives the canonical path of what a message touches.
        in_operation: The operation asks the policy itself.
    """

    action: str | None
    resource: Callable[[Any], str] = lambda _: "service"
    in_operation: bool = False


OPEN_METHOD = GrpcMethod(None)


def require_governed_methods(
    services: Mapping[str, Mapping[str, grpc.RpcMethodHandler]], declared: Mapping[str, GrpcMethod]
) -> None:
    """Refuse a server with an undeclared method.

    Args:
        services: Handlers by service and method name.
        declared: By full method, ``/package.Service/Method``.

    Raises:
        UngovernedRoute: A method declares nothing, or is a stream that this door cannot govern.
    """
    for service, handlers in services.items():
        for name, handler in handlers.items():
            method = declared.get(f"/{service}/{name}")
            if method is None:
                raise UngovernedRoute(f"gRPC method /{service}/{name} declares no action.")
            decides_here = method.action is not None and not method.in_operation
            if decides_here and (handler.request_streaming or handler.response_streaming):
                raise UngovernedRoute(f"gRPC method /{service}/{name} streams; decide in its operation.")


class AccessInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Authenticates and decides, in front of every handler of a synchronous server.

    Args:
        declared: By full method.
        loop: Where the policy is asked.
        verifier: Turns a call's credential into a caller.
        access: The enforcement point.
    """

    def __init__(
        self,
        declared: Mapping[str, GrpcMethod],
        *,
        loop: asyncio.AbstractEventLoop,
        verifier: CredentialVerifier,
        access: Access,
    ) -> None:
        self._declared = declared
        self._loop = loop
        self._verifier = verifier
        self._access = access

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Give the handler of a call, behind the question to the policy."""
        handler = continuation(details)
        if handler is None:
            return None
        declared = self._declared.get(details.method)
        if declared is None:
            return grpc.unary_unary_rpc_method_handler(_refuse_undeclared)
        if declared.action is None or declared.in_operation:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._governed(handler.unary_unary, declared),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _governed(
        self, answer: Callable[[Any, grpc.ServicerContext], Any], declared: GrpcMethod
    ) -> Callable[[Any, grpc.ServicerContext], Any]:
        def decided(message: Any, context: grpc.ServicerContext) -> Any:
            try:
                _calling.set(self._on_loop(self._require(presented_by(context), declared, message)))
            except ClaveError as refusal:
                abort_with(context, refusal)
            return answer(message, context)

        return decided

    async def _require(self, presented: Presented, declared: GrpcMethod, message: Any) -> Caller:
        caller = await self._verifier.verify(presented)
        if caller is None:
            raise Unauthenticated("This call needs a credential: send 'authorization: Bearer <api key>' as metadata.")
        action = declared.action or ""
        kind = action.partition(":")[2].partition(".")[0]
        start_request()
        await self._access.require(
            caller, action, Resource(kind, declared.resource(message), {"tenant": caller.tenant})
        )
        return caller

    def _on_loop(self, work: Coroutine[Any, Any, Caller]) -> Caller:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(_DECISION_S_MAX)
        except FutureTimeoutError:
            future.cancel()
            raise DeadlineExceeded("The decision took too long.") from None
        except ClaveError:
            raise
        except Exception as error:
            _log.exception("grpc_decision_failed")
            raise ClaveError("The decision failed.") from error


def caller_of_call() -> Caller:
    """Give the caller of the governed call that this thread answers.

    Raises:
        Unauthenticated: It answers none.
    """
    caller = _calling.get()
    if caller is None:
        raise Unauthenticated("This call needs a credential: send 'authorization: Bearer <api key>' as metadata.")
    return caller


def _refuse_undeclared(_message: Any, context: grpc.ServicerContext) -> Any:
    abort_with(context, ClaveError("This method declares no action."))


def presented_by(context: grpc.ServicerContext) -> Presented:
    """Pick what identifies the caller out of a call's metadata.

    Raises:
        Unauthenticated: More than one ``authorization``.
    """
    metadata = context.invocation_metadata()
    authorizations = [value for name, value in metadata if name == "authorization"]
    if len(authorizations) > 1:
        raise Unauthenticated("Send authorization once.")
    found = dict(metadata)
    return Presented(
        authorization=authorizations[0] if authorizations else None,
        source_ip=peer_address(context.peer()),
        on_behalf_of=found.get("x-clave-on-behalf-of"),
        claimed_ip=found.get("x-envoy-external-address"),
        edge_proof=found.get("x-clave-edge"),
    )


def peer_address(peer: str) -> str | None:
    """Read the address out of ``ipv4:127.0.0.1:5000`` or ``ipv6:[::1]:5000`` (also ``%5B::1%5D``)."""
    kind, _, rest = peer.partition(":")
    address = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    return address if kind in {"ipv4", "ipv6"} else None
