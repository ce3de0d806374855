"""Explains rows of a loaded version: fetches its trees, makes their tables once, computes beside the event loop.

The tables are made on the first request for a version, from its own ``model.ubj``, in a process of its own, and kept on
disk. Explaining a row costs twenty times a prediction: one thread does it, and only so many rows wait for it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from clave_inference.domain.errors import CannotExplain, InvalidInferRequest, Overloaded
from clave_inference.domain.tensors import Tensor
from clave_inference.domain.tree_explanation import NotExplainable, Tables
from clave_inference.runtime import explain_tables
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.deploy import Deployment
from clave_inference.services.feature_requests import WITHHELD
from clave_inference.storage.artifact_cache import ArtifactCache

_KEPT_TABLES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why rows scored as they did; a row's contributions and its base value add up to the margin.

    Attributes:
        contributions: Shape (rows, columns), in the order of `columns`.
    """

    contributions: NDArray[np.float64]
    base_value: float
    columns: tuple[str, ...]

    def tensors(self) -> list[Tensor]:
        """Give the outputs ``contributions`` (rows, columns) and ``base_value`` (rows)."""
        base = np.full(len(self.contributions), self.base_value)
        return [Tensor("contributions", "FP64", self.contributions), Tensor("base_value", "FP64", base)]

    def parameters(self, withheld: Collection[str] = ()) -> dict[str, Any]:
        """Give what the answer's parameters say about them.

        Args:
            withheld: Columns whose names the caller may not see. Their contributions stay, so that a row adds up: a
                value that was withheld was missing to the model, so they tell nothing of it.
        """
        columns = [WITHHELD if name in withheld else name for name in self.columns]
        return {"scale": "margin", "columns": columns}


class Explains(Protocol):
    """What explains rows."""

    async def explain(self, loaded: LoadedVersion, feeds: tuple[NDArray[Any], ...]) -> Explanation:
        """Explain the rows of a request."""
        ...


class Explainer:
    """The tables at hand, and the thread.

    Args:
        rows_max: Rows of one request.
        waiting_rows_max: Rows of all requests that wait.
    """

    def __init__(
        self,
        *,
        deployment: Deployment,
        cache: ArtifactCache,
        executor: Executor,
        rows_max: int,
        waiting_rows_max: int,
    ) -> None:
        self._deployment = deployment
        self._cache = cache
        self._executor = executor
        self._rows_max = rows_max
        self._waiting_rows_max = waiting_rows_max
        self._waiting_rows = 0
        self._tables: OrderedDict[str, Tables] = OrderedDict()
        self._making = asyncio.Lock()

    async def explain(self, loaded: LoadedVersion, feeds: tuple[NDArray[Any], ...]) -> Explanation:
        """Explain the rows of a request.

        Raises:
            CannotExplain: The model is not a tree ensemble that can be explained.
            InvalidInferRequest: Too many rows.
            Overloaded: Too many rows wait for an explanation.
        """
        table = feeds[0]
        if len(feeds) != 1 or table.ndim != 2:  # noqa: PLR2004  rows, columns
            raise CannotExplain("Only models of one input table can be explained.")
        rows = len(table)
        if rows > self._rows_max:
            raise InvalidInferRequest("inputs", f"hold {rows} rows; at most {self._rows_max} are explained at once.")
        if self._waiting_rows and self._waiting_rows + rows > self._waiting_rows_max:
            raise Overloaded(self._waiting_rows, self._waiting_rows_max)
        self._waiting_rows += rows
        try:
            tables = await self._tables_of(loaded)
            if table.shape[1] != tables.columns:
                raise CannotExplain("The model's trees have other columns than its input.")
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._executor, tables.explain, np.ascontiguousarray(table, np.float32))
        finally:
            self._waiting_rows -= rows
        return Explanation(found, tables.base_value, tuple(loaded.signature.feature_names))

    async def _tables_of(self, loaded: LoadedVersion) -> Tables:
        try:
            digest, model = await self._deployment.trees(loaded.model, loaded.version)
            async with self._making:
                known = self._tables.pop(digest, None)
                if known is None:
                    path = self._cache.tables_path(digest)
                    if not path.exists():
                        await asyncio.to_thread(explain_tables.make_in_process, model, path)
                    known = await asyncio.to_thread(explain_tables.load, path)
                self._tables[digest] = known
                while len(self._tables) > _KEPT_TABLES_MAX:
                    self._tables.popitem(last=False)
                return known
        except NotExplainable as reason:
            raise CannotExplain(
                f"Model '{loaded.model}' version {loaded.version} cannot be explained: {reason}."
            ) from None
