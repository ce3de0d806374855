"""Feature requests: entity keys instead of tensors.

The endpoint's feature service says which features; the feature service's online store has the values; the model's
signature has the order of the columns. The read is made on behalf of the caller and for the purpose that the request
states (the feature service's own where it states none), so the policy decides there what is withheld: it refuses the
read, or, where the caller accepts that, leaves the features out, which the model then sees as missing. What was
missing, too old or withheld is told in the answer's parameters.
"""

import re
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

from clave_inference.domain.errors import FeatureMasked, FeaturesUnavailable, InvalidInferRequest
from clave_inference.domain.signature import Signature
from clave_inference.domain.tensors import PARAMETERS_BYTES_MAX
from clave_inference.domain.trace import Trace
from clave_inference.services.serving import ServedEndpoint

JOIN_KEYS_MAX = 64
WITHHELD = "withheld"
"""What stands for the name of a feature that the caller may not see."""
_MASKED_HEADER = "x-clave-masked"
_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,199}")
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
        withheld: Columns that the policy left out; missing in every row.
    """

    values: NDArray[np.float32]
    statuses: Mapping[str, list[str]]
    entities: dict[str, list[Any]]
    withheld: tuple[str, ...] = ()

    def parameters(self) -> dict[str, Any]:
        """Give what the answer's parameters say about them; of what was withheld, the number alone."""
        told: dict[str, Any] = {"feature_status": self.statuses}
        return told | {"features_withheld": len(self.withheld)} if self.withheld else told


@dataclass(frozen=True, slots=True)
class ReadTerms:
    """On which terms a request reads features.

    Attributes:
        purpose: What the caller needs them for; None leaves it to the feature service.
        masks: Whether the caller accepts rows without what is withheld, rather than a refusal.
    """

    purpose: str | None = None
    masks: bool = False

    def headers(self) -> dict[str, str]:
        """Word them for the feature service."""
        headers = {} if self.purpose is None else {"x-clave-purpose": self.purpose}
        return headers | {"x-clave-on-withheld": "mask"} if self.masks else headers


def read_terms(parameters: Mapping[str, Any]) -> ReadTerms:
    """Take a request's terms out of its parameters.

    Raises:
        InvalidInferRequest: They make no sense.
    """
    purpose = parameters.get("purpose")
    if purpose is not None and not (isinstance(purpose, str) and _PURPOSE.fullmatch(purpose)):
        raise InvalidInferRequest("parameters.purpose", "is no name of a purpose.", "Name one that the view lists.")
    wish = parameters.get("on_withheld", "refuse")
    if wish not in {"mask", "refuse"}:
        raise InvalidInferRequest("parameters.on_withheld", "is neither 'mask' nor 'refuse'.")
    return ReadTerms(purpose, masks=wish == "mask")


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
        terms: ReadTerms,
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
        terms: ReadTerms,
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
        headers = terms.headers() | {"x-clave-on-behalf-of": caller.acting_for}
        if trace is not None:
            headers |= trace.headers()
        try:
            answer = await self._client.send("POST", f"{API}/online/read", body=request, headers=headers)
        except ServiceProblem as problem:
            raise _refusal(problem) from problem
        rows = OnlineRows.model_validate_json(answer.content)
        withheld = answer.headers.get(_MASKED_HEADER, "")
        return arranged(rows, signature, keys, withheld=tuple(name for name in withheld.split(",") if name))


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


def arranged(
    rows: OnlineRows, signature: Signature, keys: dict[str, list[Any]], *, withheld: tuple[str, ...] = ()
) -> FeatureRows:
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
    return FeatureRows(values, statuses, keys, withheld)


def _refusal(problem: ServiceProblem) -> ClaveError:
    kind = _KIND_OF_STATUS.get(problem.status)
    if kind is None:
        return FeaturesUnavailable(
            "The feature service does not answer; predictions from tensors work. Try again shortly.", retry_after_s=1.0
        )
    reasons = problem.problem.get("reasons")
    if isinstance(reasons, list) and "purpose_not_permitted" in reasons:
        return FeatureMasked(
            f"Features: {problem} State another purpose in parameters.purpose, or take the prediction without what is "
            "withheld by parameters.on_withheld = 'mask'.",
            reasons=reasons,
            decision_id=problem.problem.get("decision_id"),
        )
    refusal = ClaveError(f"Features: {problem}", code=problem.code)
    refusal.kind = kind
    return refusal
