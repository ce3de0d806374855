"""uvicorn's server, ended without losing a request.

A listening socket that is closed resets every connection that the kernel accepted for it and that nobody took yet;
their requests may be complete. So the end goes: not ready; the kernel drops further attempts to connect (their clients
try again by themselves and meet another worker of the port, or a closed port); every connection that waits is taken;
only then the listener closes. Connections get their answers, the last one with ``Connection: close``.
"""

import asyncio
import ctypes
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

import uvicorn

_SO_ATTACH_FILTER: Final = 26  # Linux; the socket module does not name it
_DROP_EVERYTHING: Final = struct.pack("HBBI", 0x06, 0, 0, 0)  # one classic BPF instruction: return 0 bytes
_PASSES_MAX: Final = 10_000


class DrainingServer(uvicorn.Server):
    """Serves until it is told to end, then drains.

    Args:
        config: uvicorn's.
        on_started: Called once when connections are taken.
        on_ending: Called once before anything closes.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_started: Callable[[], None] = lambda: None,
        on_ending: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_ending = on_ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to take connections."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that wait, answer what was asked, close."""
        self._on_ending()
        for listener in sockets or []:
            refuse_new_connections(listener)
            await _take_those_waiting(listener)
        await super().shutdown(sockets=sockets)


def refuse_new_connections(listener: socket.socket) -> None:
    """Let the kernel drop attempts to connect; what was accepted before stays in the listener's queue.

    Where the kernel has no such filter, attempts of the last microseconds before the close are reset instead.
    """
    instruction = ctypes.create_string_buffer(_DROP_EVERYTHING)
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return


async def _take_those_waiting(listener: socket.socket) -> None:
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    for _ in range(_PASSES_MAX):
        if not poll.poll(0):
            return
        await asyncio.sleep(0)  # the loop accepts
