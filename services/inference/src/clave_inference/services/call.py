"""A request on its way: what the door received, what was found out about it, and how it ends.

One object goes all the way, from the door through the batcher into the prediction log. At ten thousand requests a
second, every further object per request costs a hundredth of the machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clave_common.errors import ClaveError
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clave_inference.domain.tensors import InferenceRequest
    from clave_inference.runtime.loaded_version import LoadedVersion
    from clave_inference.services.admissions import Admission, Credential
    from clave_inference.services.feature_requests import FeatureRows
    from clave_inference.services.serving import Target

Protocol = Literal["rest", "grpc"]
Arrays = Sequence[NDArray[Any]]


@dataclass(slots=True, eq=False)
class Reply:
    """What a door sends back.

    Attributes:
        error: Set instead of a body that answers; doors word it for their transport.
        json_length: Length of the JSON part where the body has binary tensors.
    """

    body: bytes = b""
    json_length: int | None = None
    error: ClaveError | None = None


Answered = Callable[[Reply], None]
Ended = Callable[["Call", Arrays | None, Exception | None], None]


class Call:
    """One request.

    Attributes:
        body: The REST body.
        message: The parsed `ModelInferRequest` of a gRPC call.
        header_length: ``Inference-Header-Content-Length`` where the request has binary tensors.
        deadline: Monotonic seconds after which nobody waits any more.
        began: Monotonic seconds at which the request was complete.
        answered: Takes the reply, once.
        ended: Takes the outputs or the error of the run, once.
        outputs: What the model gave, kept for the log.
    """

    __slots__ = (
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
        "features",
        "feeds",
        "header_length",
        "message",
        "model",
        "output_names",
        "outputs",
        "prediction_id",
        "protocol",
        "request",
        "routing_key",
        "rows",
        "runnable",
        "target",
        "took_s",
        "version",
    )
    answered: Answered
    ended: Ended
    admission: "Admission"
    request: "InferenceRequest"
    target: "Target"
    runnable: "LoadedVersion"
    arm: str
    feeds: tuple[NDArray[Any], ...]
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
        message: Any = None,
        header_length: bytes | None = None,
        routing_key: str | None = None,
        deadline: float | None = None,
    ) -> None:
        self.protocol: Protocol = protocol
        self.model = model
        self.version = version
        self.credential = credential
        self.began = began
        self.body = body
        self.message = message
        self.header_length = header_length
        self.routing_key = routing_key
        self.deadline = deadline

    def finish(self, outputs: Arrays | None, error: Exception | None) -> None:
        """Hand on what came of the run."""
        self.ended(self, outputs, error)

    def copy_for(self, shadow: "Target", ended: Ended) -> "Call":
        """Make the copy that a shadow sees."""
        copy = Call(self.protocol, self.model, None, self.credential, began=self.began, deadline=self.deadline)
        copy.ended = ended
        copy.admission, copy.request, copy.features = self.admission, self.request, self.features
        copy.target, copy.runnable, copy.arm = shadow, shadow.loaded, shadow.arm
        copy.prediction_id, copy.output_names = self.prediction_id, shadow.loaded.output_names
        return copy
