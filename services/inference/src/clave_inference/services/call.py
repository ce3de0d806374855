"""A request on its way: what the door received, what was found out about it, and how it ends.

One object goes all the way, from the door through the batcher into the prediction log. At ten thousand requests a
second, every further object per request costs a hundredth of the machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from clave_common.errors import ClaveError
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clave_inference.codecs.grpc_forms import Form
    from clave_inference.domain.tensors import InferenceRequest
    from clave_inference.domain.trace import Trace
    from clave_inference.runtime.loaded_version import LoadedVersion
    from clave_inference.services.admissions import Admission, Credential
    from clave_inference.services.explainer import Explanation
    from clave_inference.services.feature_requests import FeatureRows
    from clave_inference.services.serving import Target

Protocol = Literal["rest", "grpc"]
Array = NDArray[Any]
Arrays = Sequence[Array]


@dataclass(slots=True, eq=False)
class Reply:
    """What a door sends back.

    Attributes:
        error: Set instead of a body that answers; doors word it for their transport.
        json_length: Length of the JSON part where the body has binary tensors.
        limit_headers: ``ratelimit`` header lines, each with its line end; empty where nothing limits the caller.
    """

    body: bytes = b""
    json_length: int | None = None
    error: ClaveError | None = None
    limit_headers: bytes = b""


Answered = Callable[[Reply], None]
Ended = Callable[["Call", Arrays | None, Exception | None], None]


class Call:
    """One request.

    Attributes:
        body: The REST body, or the bytes of a gRPC call's `ModelInferRequest`, which names model and version itself.
        message: The parsed `ModelInferRequest`, once it was parsed.
        form: What stands before a gRPC call's row, where that is known.
        header_length: ``Inference-Header-Content-Length`` where the request has binary tensors.
        deadline: Monotonic seconds after which nobody waits any more.
        began: Monotonic seconds at which the request was complete.
        answered: Takes the reply, once.
        quick: Takes body, limit headers and the monotonic second of an ordinary answer instead, where the door can do
            with those.
        ended: Takes the outputs or the error of the run, once.
        outputs: What the model gave, kept for the log.
        trace: The caller's trace, where the request names one.
        wants_explanation: Whether the answer shall explain its rows.
        explanation: Why the rows score as they do, once that is known.
        values: The one row of an ordinary request, as the model takes it; None for every other request.
        request_id: The caller's own name for the request.
    """

    __slots__ = (
        "_feeds",
        "admission",
        "answered",
        "arm",
        "began",
        "body",
        "chosen",
        "credential",
        "deadline",
        "ended",
        "error",
        "explanation",
        "features",
        "form",
        "header_length",
        "message",
        "model",
        "output_names",
        "outputs",
        "prediction_id",
        "protocol",
        "quick",
        "request",
        "request_id",
        "routing_key",
        "rows",
        "runnable",
        "target",
        "took_s",
        "trace",
        "values",
        "version",
        "wants_explanation",
    )
    answered: Answered
    ended: Ended
    admission: "Admission"
    request: "InferenceRequest"
    target: "Target"
    runnable: "LoadedVersion"
    arm: str
    values: bytes | None
    form: "Form | None"
    request_id: str | None
    rows: int
    chosen: tuple[int, ...]
    output_names: tuple[str, ...]
    prediction_id: str
    features: "FeatureRows | None"
    outputs: Arrays | None
    error: str | None
    took_s: float

    def __init__(
        self,
        protocol: Protocol,
        model: str,
        version: str | None,
        credential: "Credential",
        *,
        began: float,
        body: bytes = b"",
        header_length: bytes | None = None,
        routing_key: str | None = None,
        deadline: float | None = None,
        trace: "Trace | None" = None,
    ) -> None:
        self.protocol: Protocol = protocol
        self.model = model
        self.version = version
        self.credential = credential
        self.began = began
        self.body = body
        self.message: Any = None
        self.form = None
        self.header_length = header_length
        self.routing_key = routing_key
        self.deadline = deadline
        self.trace = trace
        self.wants_explanation = False
        self.explanation: Explanation | None = None
        self.values = None
        self.quick: Callable[[bytes, bytes, float], None] | None = None
        self.features = None
        self._feeds: tuple[NDArray[Any], ...] | None = None

    @property
    def feeds(self) -> tuple[NDArray[Any], ...]:
        """Its rows, one array per input of the model."""
        row, values = self.runnable.row, self.values
        if self._feeds is None and row is not None and values is not None:
            self._feeds = (np.frombuffer(values, row.dtype).reshape(1, -1),)
        return self._feeds or ()

    @feeds.setter
    def feeds(self, feeds: tuple[NDArray[Any], ...]) -> None:
        self._feeds = feeds

    def finish(self, outputs: Arrays | None, error: Exception | None) -> None:
        """Hand on what came of the run."""
        self.ended(self, outputs, error)

    def copy_for(self, shadow: "Target", ended: Ended) -> "Call":
        """Make the copy that a shadow sees.

        Its record stands beside the caller's own in the log, so its id is the caller's with ``~`` and the version.
        """
        copy = Call(self.protocol, self.model, None, self.credential, began=self.began, trace=self.trace)
        copy.ended = ended
        copy.admission, copy.features = self.admission, self.features
        copy.target, copy.runnable, copy.arm = shadow, shadow.loaded, shadow.arm
        copy.prediction_id = f"{self.prediction_id}~{shadow.loaded.version}"
        copy.output_names = shadow.loaded.output_names
        return copy
