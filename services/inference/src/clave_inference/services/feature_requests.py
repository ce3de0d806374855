"""Feature requests: entity keys instead of tensors.

The endpoint's feature service says which features; the feature service's online store has the values; the model's
signature has the order of the columns. The read is made on behalf of the caller, so what the caller may not see is
withheld there. What was missing or too old is told in the answer's parameters, per view and row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import orjson
from clave_common.access.model import Caller
from clave_common.errors import ClaveError, Kind
from clave_contracts.features import API, FeaturesClient, OnlineRead, OnlineRows
from clave_contracts.problems import ServiceProblem
from numpy.typing import NDArray

from clave_inference.domain.errors import FeaturesUnavailable, InvalidInferRequest
from clave_inference.domain.signature import Signature
from clave_inference.domain.tensors import PARAMETERS_BYTES_MAX
from clave_inference.domain.trace import Trace
from clave_inference.services.serving import ServedEndpoint

JOIN_KEYS_MAX = 64
_KIND_OF_STATUS = {
    400: Kind.INVALID_ARGUMENT,
    401: Kind.PERMISSION_DENIED,
    403: Kind.PERMISSION_DENIED,
    404: Kind.FAILED_PRECONDITION,
    409: Kind.FAILED_PRECONDITION,
    422: Kind.INVALID_ARGUMENT,
    429: Kind.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """Values that were fetched.

    Attributes:
        values: Model inputs in the signature's order, shape (rows, columns), float32, NaN = missing.
        statuses: View name to one status per row.
        entities: The keys that were asked for.
    """

    values: NDArray[np.float32]
    statuses: Mapping[str, list[str]]
    entities: dict[str, list[Any]]


class FeatureReader(Protocol):
    """Where features come from."""

    async def read(
        self,
        entities: Any,
        endpoint: ServedEndpoint,
        signature: Signature,
        *,
        caller: Caller,
        rows_max: int,
        trace: Trace | None = None,
    ) -> FeatureRows:
        """Fetch the features of some entities, as a part of the caller's trace."""
        ...


class OnlineFeatures:
    """Features from the feature service."""

    def __init__(self, client: FeaturesClient) -> None:
        self._client = client

    async def read(
        self,
        entities: Any,
        endpoint: ServedEndpoint,
        signature: Signature,
        *,
        caller: Caller,
        rows_max: int,
        trace: Trace | None = None,
    ) -> FeatureRows:
        """Fetch the features of some entities.

        Raises:
            InvalidInferRequest: The keys are malformed, or the endpoint takes no feature requests.
            FeaturesUnavailable: The feature service does not answer.
        """
        keys = checked_entities(entities, rows_max=rows_max)
        if endpoint.feature_service is None or not signature.feature_names:
            raise InvalidInferRequest(
                "parameters.entities",
                f"endpoint '{endpoint.name}' has no feature service.",
                "Send tensors instead.",
            )
        request = OnlineRead(feature_service=endpoint.feature_service, entities=keys)
        try:
            rows = await self._client.post(
                OnlineRows,
                f"{API}/online/read",
                request,
                on_behalf_of=caller.acting_for,
                headers=None if trace is None else trace.headers(),
            )
        except ServiceProblem as problem:
            raise _refusal(problem) from problem
        return arranged(rows, signature, keys)


def checked_entities(entities: Any, *, rows_max: int) -> dict[str, list[Any]]:
    """Check entity keys: a column per join key, all of one length.

    Raises:
        InvalidInferRequest: They are not.
    """
    where = "parameters.entities"
    entities = _columns(entities, where)
    keys: dict[str, list[Any]] = {}
    for name, values in entities.items():
        if not isinstance(values, list):
            values = [values]  # noqa: PLW2901  one entity may be written without a list
        if not all(isinstance(value, str | int) and not isinstance(value, bool) for value in values):
            raise InvalidInferRequest(
                f"{where}.{str(name)[:60]}", "holds a key that is neither text nor a whole number."
            )
        keys[str(name)] = values
    lengths = {len(values) for values in keys.values()}
    if len(lengths) != 1:
        raise InvalidInferRequest(where, f"has columns of different lengths ({sorted(lengths)}).")
    rows = lengths.pop()
    if not 0 < rows <= rows_max:
        raise InvalidInferRequest(where, f"holds {rows} rows, 1 to {rows_max} go into one request.", limit=rows_max)
    return keys


def _columns(entities: Any, where: str) -> dict[Any, Any]:
    if isinstance(entities, str):
        if len(entities) > PARAMETERS_BYTES_MAX:
            raise InvalidInferRequest(where, f"take more than {PARAMETERS_BYTES_MAX} bytes.")
        try:
            entities = orjson.loads(entities)
        except orjson.JSONDecodeError:
            raise InvalidInferRequest(where, "is not JSON.", 'Send {"<join key>": [..]}.') from None
    if not isinstance(entities, dict) or not entities:
        raise InvalidInferRequest(where, "is not an object.", 'Send {"<join key>": [..]}.')
    if len(entities) > JOIN_KEYS_MAX:
        raise InvalidInferRequest(where, f"name {len(entities)} join keys, at most {JOIN_KEYS_MAX} are read.")
    return entities


def arranged(rows: OnlineRows, signature: Signature, keys: dict[str, list[Any]]) -> FeatureRows:
    """Put columns into the model's order.

    Raises:
        InvalidInferRequest: The feature service lacks a column of the model.
    """
    position = {name: index for index, name in enumerate(rows.columns)}
    missing = [name for name in signature.feature_names if name not in position]
    if missing:
        raise InvalidInferRequest(
            "parameters.entities",
            f"the endpoint's feature service lacks {', '.join(missing[:10])}.",
            "The endpoint serves a model that was trained on other features.",
        )
    table = np.array(rows.values, dtype=np.float32).reshape(len(rows.values), len(rows.columns))
    order = [position[name] for name in signature.feature_names]
    values = table if order == list(range(table.shape[1])) else np.ascontiguousarray(table[:, order])
    statuses: dict[str, list[str]] = {view: [str(row[i]) for row in rows.statuses] for i, view in enumerate(rows.views)}
    return FeatureRows(values, statuses, keys)


def _refusal(problem: ServiceProblem) -> ClaveError:
    kind = _KIND_OF_STATUS.get(problem.status)
    if kind is None:
        return FeaturesUnavailable(
            "The feature service does not answer; predictions from tensors work. Try again shortly.", retry_after_s=1.0
        )
    refusal = ClaveError(f"Features: {problem}", code=problem.code)
    refusal.kind = kind
    return refusal
