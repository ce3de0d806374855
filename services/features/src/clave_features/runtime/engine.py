"""DuckDB sessions: bounded in threads and memory, in UTC, without network.

Work runs in threads, at most two at a time; a session lives for one piece of work, so that its memory is given back.
DuckDB and Arrow take some 60 MB when imported; an idle service has not imported them yet.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from clave_features.domain.errors import ScratchUnwritable, WorkTooLarge
from clave_features.domain.sql import literal

if TYPE_CHECKING:
    import duckdb

P = ParamSpec("P")
T = TypeVar("T")
_JOBS_MAX = 2


@dataclass(slots=True)
class Engine:
    """Opens sessions and runs work in them.

    Attributes:
        scratch: Folder for uploads and spilled data; nothing in it outlives the process's work.
    """

    scratch: Path
    threads: int = 2
    memory_limit_mb: int = 512
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_JOBS_MAX), repr=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread, waiting for a free slot."""
        async with self._slots:
            return await asyncio.to_thread(work, *args, **kwargs)

    async def iterate(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Step through a blocking iterator in threads, holding one slot."""
        async with self._slots:
            while True:
                item = await asyncio.to_thread(next, items, None)
                if item is None:
                    return
                yield item

    @contextmanager
    def session(self) -> "Iterator[duckdb.DuckDBPyConnection]":
        """Open an in-memory database.

        Raises:
            ScratchUnwritable: The disk is full or read-only.
            WorkTooLarge: The work does not fit into the memory limit, nor onto the disk.
        """
        import duckdb  # noqa: PLC0415 - see the module's docstring

        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": self.threads,
                "memory_limit": f"{self.memory_limit_mb}MB",
                "temp_directory": str(self.scratch),
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
            },
        )
        try:
            connection.execute("SET TimeZone='UTC'")
            yield connection
        except duckdb.OutOfMemoryException as error:
            raise WorkTooLarge(
                f"The work needs more than {self.memory_limit_mb} MB; send smaller batches or raise "
                "CLAVE_FEATURES_MEMORY_LIMIT_MB.",
                limit_mb=self.memory_limit_mb,
            ) from error
        except duckdb.IOException as error:
            raise ScratchUnwritable(
                "The data folder cannot be read or written; free space or make it writable. Nothing was kept."
            ) from error
        finally:
            connection.close()


def path_literal(path: Path) -> str:
    """Write a path as a SQL literal; DuckDB would read glob characters in it, which the store's own names lack."""
    return literal(str(path))


def discard(path: Path) -> None:
    """Remove a scratch file; one that cannot be removed goes when the service starts again."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
