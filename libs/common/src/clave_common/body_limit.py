"""Counts a request's bytes as they arrive and refuses what is over the limit with 413."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clave_common.errors import PayloadTooLarge
from clave_common.problems import problem_response


class BodyLimitMiddleware:
    """Bounds bodies, announced or chunked; routes that stream count for themselves."""

    def __init__(self, app: ASGIApp, *, bytes_max: int, streaming_prefixes: tuple[str, ...] = ()) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._streaming_prefixes = streaming_prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting `receive`."""
        if scope["type"] != "http" or scope["path"].startswith(self._streaming_prefixes or ("\0",)):
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        refusal = PayloadTooLarge(
            f"The body may have at most {self._bytes_max} bytes; send less in one call.",
            limit=self._bytes_max,
        )
        if announced.isdigit() and int(announced) > self._bytes_max:
            await problem_response(refusal)(scope, receive, send)
            return
        received = 0
        refused = False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._bytes_max:
                raise refusal
            return message

        async def answered(message: Message) -> None:
            # FastAPI turns what `receive` raises into a 400 of its own; the refusal takes its place.
            nonlocal refused
            if received <= self._bytes_max:
                await send(message)
            elif not refused:
                refused = True
                await problem_response(refusal)(scope, receive, send)

        await self._app(scope, counted, answered)
