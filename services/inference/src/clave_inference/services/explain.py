"""Explain: how much each column added to the margin of each row, for tree models.

An explanation is governed, limited and counted like a prediction, and costs its rows. `parameters.explain` of an infer
request asks for the same beside the prediction; there `predict` answers.
"""

from typing import Any

from clave_inference.codecs import rest_json
from clave_inference.domain.errors import InvalidInferRequest
from clave_inference.domain.tensors import InferenceAnswer, InferenceRequest, Tensor
from clave_inference.services.admissions import Admissions, Credential
from clave_inference.services.deploy import Deployment
from clave_inference.services.explainer import Explains
from clave_inference.services.feature_requests import FeatureReader, read_terms


class Explanations:
    """The operation."""

    def __init__(
        self,
        *,
        deployment: Deployment,
        explainer: Explains,
        admissions: Admissions,
        features: FeatureReader,
        rows_max: int,
    ) -> None:
        self._deployment = deployment
        self._explainer = explainer
        self._admissions = admissions
        self._features = features
        self._rows_max = rows_max

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
        parameters: dict[str, Any] = {"arm": target.arm}
        withheld = set(admission.mask)
        if "entities" in request.parameters:
            fetched = await self._features.read(
                request.parameters["entities"],
                target.endpoint,
                signature,
                caller=admission.caller,
                rows_max=self._rows_max,
                terms=read_terms(request.parameters),
            )
            parameters |= fetched.parameters()
            withheld.update(fetched.withheld)
            request.inputs = [Tensor(signature.inputs[0].name, signature.inputs[0].datatype, fetched.values)]
        feeds, rows = signature.feeds(request.inputs, rows_max=self._rows_max)
        await self._admissions.charge(admission, rows)
        explanation = await self._explainer.explain(target.loaded, feeds)
        parameters |= explanation.parameters(withheld)
        answer = InferenceAnswer(
            target.endpoint.name, str(target.loaded.version), explanation.tensors(), request.id, parameters
        )
        return rest_json.encode(answer)


def _routing_key(request: InferenceRequest) -> str | None:
    key = request.parameters.get("routing_key")
    if key is not None and not isinstance(key, str | int):
        raise InvalidInferRequest("parameters.routing_key", "is neither text nor a number.")
    return None if key is None else str(key)
