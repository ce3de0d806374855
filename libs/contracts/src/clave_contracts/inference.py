"""Inference: the Open Inference Protocol v2 over REST, as the SDK and the demo call it."""

from typing import Any

from pydantic import Field

from clave_contracts.client import ServiceClient
from clave_contracts.schema import Answer, Request


class InferTensor(Request):
    """A tensor: row-major data, nulls are missing values."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class InferRequest(Request):
    """A request; ``parameters.entities`` instead of `inputs` makes it a feature request."""

    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[InferTensor] = Field(default_factory=list)
    outputs: list[dict[str, Any]] | None = None


class InferAnswer(Answer):
    """An answer.

    Attributes:
        parameters: ``prediction_id``, ``arm`` and, for feature requests, ``feature_status``.
    """

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    outputs: list[InferTensor]

    def output(self, name: str) -> InferTensor:
        """Give an output by its name."""
        return next(tensor for tensor in self.outputs if tensor.name == name)


class InferenceClient(ServiceClient):
    """Calls inference."""

    async def infer(self, model: str, request: InferRequest) -> InferAnswer:
        """Ask an endpoint (or a model) for predictions."""
        return await self.post(InferAnswer, f"/v2/models/{model}/infer", request)

    async def metadata(self, model: str) -> dict[str, Any]:
        """Describe a model's inputs and outputs."""
        return await self.get(dict[str, Any], f"/v2/models/{model}")
