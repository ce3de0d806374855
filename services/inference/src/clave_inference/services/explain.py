"""Explain: how much each column added to the margin of each row, for tree models.

The tables are made on the first request for a version, from its own ``model.ubj``, in a process of its own, and kept on
disk; computing runs beside the event loop. An explanation is governed, limited and counted like a prediction, and costs
its rows.
"""

import asyncio
from collections import OrderedDict
from typing import Any, Final

import numpy as np

from clave_inference.codecs import rest_json
from clave_inference.domain.errors import CannotExplain, InvalidInferRequest
from clave_inference.domain.tensors import InferenceAnswer, InferenceRequest, Tensor
from clave_inference.domain.tree_explanation import NotExplainable, Tables
from clave_inference.runtime import explain_tables
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.services.admissions import Admissions, Credential
from clave_inference.services.deploy import Deployment
from clave_inference.services.feature_requests import FeatureReader
from clave_inference.storage.artifact_cache import ArtifactCache

_KEPT_TABLES_MAX: Final = 4


class Explanations:
    """The operation, and the tables at hand."""

    def __init__(
        self,
        *,
        deployment: Deployment,
        cache: ArtifactCache,
        admissions: Admissions,
        features: FeatureReader,
        rows_max: int,
    ) -> None:
        self._deployment = deployment
        self._cache = cache
        self._admissions = admissions
        self._features = features
        self._rows_max = rows_max
        self._tables: OrderedDict[str, Tables] = OrderedDict()
        self._making = asyncio.Lock()

    async def explain(self, model: str, version: str | None, credential: Credential, body: bytes) -> bytes:
        """Explain the rows of a request; gives the encoded answer.

        The answer has the outputs ``contributions`` (rows, columns), in the order of the signature's columns, and
        ``base_value`` (rows); together a row's values add up to the model's margin.

        Raises:
            CannotExplain: The model is not a tree ensemble that can be explained.
            InvalidInferRequest: The request does not fit the model.
        """
        admission = await self._admissions.admit(credential, model, version)
        request = rest_json.decode(body)
        target = self._deployment.table.target(model, version, _routing_key(request))
        signature = target.loaded.signature
        if "entities" in request.parameters:
            fetched = await self._features.read(
                request.parameters["entities"],
                target.endpoint,
                signature,
                caller=admission.caller,
                rows_max=self._rows_max,
            )
            request.inputs = [Tensor(signature.inputs[0].name, signature.inputs[0].datatype, fetched.values)]
        feeds, rows = signature.feeds(request.inputs, rows_max=self._rows_max)
        await self._admissions.charge(admission, rows)
        tables = await self._tables_of(target.loaded)
        table = feeds[0]
        if len(feeds) != 1 or table.ndim != 2 or table.shape[1] != tables.columns:  # noqa: PLR2004  rows, columns
            raise CannotExplain("Only models of one input table can be explained.")
        contributions = await asyncio.to_thread(tables.explain, np.ascontiguousarray(table, np.float32))
        outputs = [
            Tensor("contributions", "FP64", contributions),
            Tensor("base_value", "FP64", np.full(rows, tables.base_value)),
        ]
        parameters: dict[str, Any] = {"arm": target.arm, "scale": "margin", "columns": list(signature.feature_names)}
        return rest_json.encode(
            InferenceAnswer(target.endpoint.name, str(target.loaded.version), outputs, request.id, parameters)
        )

    async def _tables_of(self, loaded: LoadedVersion) -> Tables:
        try:
            digest, model = await self._deployment.trees(loaded.model, loaded.version)
            async with self._making:
                known = self._tables.get(digest)
                if known is None:
                    path = self._cache.tables_path(digest)
                    if not path.exists():
                        await asyncio.to_thread(explain_tables.make_in_process, model, path)
                    known = self._tables[digest] = await asyncio.to_thread(explain_tables.load, path)
                    while len(self._tables) > _KEPT_TABLES_MAX:
                        self._tables.popitem(last=False)
                return known
        except NotExplainable as reason:
            raise CannotExplain(
                f"Model '{loaded.model}' version {loaded.version} cannot be explained: {reason}."
            ) from None


def _routing_key(request: InferenceRequest) -> str | None:
    key = request.parameters.get("routing_key")
    if key is not None and not isinstance(key, str | int):
        raise InvalidInferRequest("parameters.routing_key", "is neither text nor a number.")
    return None if key is None else str(key)
