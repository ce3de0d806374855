"""Predict: one operation under every door.

The doors (uvicorn's lane, the ASGI route, the gRPC server, Envoy's bridge) hand in a `Call` and a callback. An ordinary
call runs through without a task: admitted from memory, decoded, checked against the signature, charged, routed, queued.
What needs somebody else (a first credential, a lease of the rate limit, features) goes on in a task and comes back to
the same steps.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clave_common.errors import ClaveError
from clave_common.logs import get_logger
from numpy.typing import NDArray

from clave_inference.codecs import binary_tail, grpc_message, rest_binary, rest_json
from clave_inference.codecs.answer_template import AnswerTemplates
from clave_inference.domain.errors import InvalidInferRequest, ModelRunFailed
from clave_inference.domain.tensors import InferenceAnswer, InferenceRequest, Tensor
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.batcher import Batcher, Waiting
from clave_inference.runtime.loaded_version import LoadedVersion
from clave_inference.runtime.session import RuntimeRefused
from clave_inference.services.admissions import Admission, Admissions, Credential
from clave_inference.services.feature_requests import FeatureReader, FeatureRows
from clave_inference.services.prediction_log import PredictionLog, Served
from clave_inference.services.serving import ServingTable, Target

_log = get_logger(__name__)
_TIMEOUT_US_MAX = 600e6
_ROUTING_KEY_CHARACTERS_MAX = 512
Protocol = Literal["rest", "grpc"]


@dataclass(slots=True, eq=False)
class Call:
    """One request as a door received it.

    Attributes:
        body: The REST body.
        message: The parsed `ModelInferRequest` of a gRPC call.
        header_length: ``Inference-Header-Content-Length`` where the request has binary tensors.
        deadline: Monotonic seconds after which nobody waits any more; the transport's, not the request's.
        began: `time.perf_counter` when the request was complete.
    """

    protocol: Protocol
    model: str
    version: str | None
    credential: Credential
    body: bytes = b""
    message: Any = None
    header_length: bytes | None = None
    routing_key: str | None = None
    deadline: float | None = None
    traceparent: str | None = None
    began: float = field(default_factory=time.perf_counter)


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


@dataclass(slots=True, eq=False)
class _Running:
    """A call on its way through the model."""

    call: Call
    answered: Answered
    request: InferenceRequest
    target: Target
    admission: Admission
    feeds: tuple[NDArray[Any], ...]
    rows: int
    chosen: tuple[int, ...]
    output_names: tuple[str, ...]
    prediction_id: str
    features: FeatureRows | None = None


@dataclass(frozen=True, slots=True)
class PredictLimits:
    """Bounds of one request."""

    rows_max: int = 4096
    timeout_s: float = 10.0


class PredictionIds:
    """Unguessable, unique, and cheap: a random prefix per process, a random tail drawn in bulk."""

    def __init__(self) -> None:
        self._prefix = f"prd_{os.urandom(6).hex()}"
        self._numbers = itertools.count()
        self._pool = b""
        self._at = 0

    def next(self) -> str:
        """Make an id: 48 random bits of the process, its counter, 40 random bits."""
        if self._at >= len(self._pool):
            self._pool, self._at = os.urandom(5 * 1024), 0
        tail = self._pool[self._at : self._at + 5].hex()
        self._at += 5
        return f"{self._prefix}{next(self._numbers):08x}{tail}"


class Predictions:
    """The operation, with everything it needs."""

    def __init__(
        self,
        *,
        table: Callable[[], ServingTable],
        admissions: Admissions,
        batcher: Batcher,
        log: PredictionLog,
        metrics: PredictionMetrics,
        features: FeatureReader,
        limits: PredictLimits,
    ) -> None:
        self._table = table
        self._admissions = admissions
        self._batcher = batcher
        self._log = log
        self._metrics = metrics
        self._features = features
        self._limits = limits
        self._ids = PredictionIds()
        self._templates: dict[LoadedVersion, tuple[str, AnswerTemplates]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer."""
        return len(self._tasks) + self._batcher.in_flight

    def predict(self, call: Call, answered: Answered) -> None:
        """Answer a call, now or later, exactly once. Never raises."""
        try:
            key = self._admissions.key(call.credential, call.model, call.version)
            admission = self._admissions.known(key, call.credential)
            if admission is None:
                self._go_on(self._admit_first(call, answered))
                return
            self._decode(call, answered, admission)
        except Exception as error:  # noqa: BLE001  entry point: whatever happens, the caller gets an answer
            self._refuse(call, answered, error)

    def _go_on(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit_first(self, call: Call, answered: Answered) -> None:
        try:
            key = self._admissions.key(call.credential, call.model, call.version)
            self._decode(call, answered, await self._admissions.admit(key, call.credential))
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, answered, error)

    def _decode(self, call: Call, answered: Answered, admission: Admission) -> None:
        if call.protocol == "grpc":
            request = grpc_message.request_of(call.message)
        elif call.header_length is None:
            request = rest_json.decode(call.body)
        else:
            length = binary_tail.parse_header_length(call.header_length, len(call.body))
            request = rest_binary.decode(call.body, length)
        parameters = request.parameters
        if parameters and "entities" in parameters:
            self._go_on(self._with_features(call, answered, admission, request))
            return
        if not request.inputs:
            raise InvalidInferRequest("inputs", "are missing.", "Send tensors, or entity keys in parameters.entities.")
        target = self._target(call, request)
        self._queue(call, answered, admission, request, target, None)

    def _target(self, call: Call, request: InferenceRequest) -> Target:
        key = call.routing_key
        if request.parameters:
            wanted = request.parameters.get("routing_key")
            if wanted is not None:
                key = str(wanted)
        if key is not None and len(key) > _ROUTING_KEY_CHARACTERS_MAX:
            raise InvalidInferRequest(
                "parameters.routing_key", f"is longer than {_ROUTING_KEY_CHARACTERS_MAX} characters."
            )
        return self._table().target(call.model, call.version, key)

    async def _with_features(
        self, call: Call, answered: Answered, admission: Admission, request: InferenceRequest
    ) -> None:
        try:
            _require_no_tensors(request)
            target = self._target(call, request)
            rows = await self._features.read(
                request.parameters["entities"],
                target.endpoint,
                target.loaded.signature,
                caller=admission.caller,
                rows_max=self._limits.rows_max,
            )
            spec = target.loaded.signature.inputs[0]
            request.inputs = [Tensor(spec.name, spec.datatype, rows.values)]
            self._queue(call, answered, admission, request, target, rows)
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, answered, error)

    def _queue(
        self,
        call: Call,
        answered: Answered,
        admission: Admission,
        request: InferenceRequest,
        target: Target,
        features: FeatureRows | None,
    ) -> None:
        signature = target.loaded.signature
        feeds, rows = signature.feeds(request.inputs, rows_max=self._limits.rows_max)
        chosen = signature.output_indexes(request.outputs)
        names = target.loaded.output_names
        running = _Running(
            call,
            answered,
            request,
            target,
            admission,
            feeds,
            rows,
            chosen,
            names
            if len(chosen) == len(names) and chosen == tuple(range(len(names)))
            else tuple(names[i] for i in chosen),
            self._ids.next(),
            features,
        )
        if self._admissions.charge_now(admission, rows):
            self._submit(running)
        else:
            self._go_on(self._charge_first(running))

    async def _charge_first(self, running: _Running) -> None:
        try:
            await self._admissions.charge(running.admission, running.rows)
            self._submit(running)
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(running.call, running.answered, error)

    def _submit(self, running: _Running) -> None:
        deadline = self._deadline(running.call, running.request)
        loaded = running.target.loaded
        self._batcher.submit(
            Waiting(
                loaded,
                running.output_names,
                running.feeds,
                running.rows,
                deadline,
                lambda outputs, error: self._finish(running, outputs, error),
            ),
            joins_rows=loaded.signature.joins_rows,
        )
        for shadow in running.target.shadows:
            self._copy(running, shadow, deadline)

    def _deadline(self, call: Call, request: InferenceRequest) -> float:
        now = time.monotonic()
        deadline = now + self._limits.timeout_s
        if call.deadline is not None:
            deadline = min(deadline, call.deadline)
        if request.parameters:
            timeout = request.parameters.get("timeout")
            if timeout is not None:
                if (
                    isinstance(timeout, bool)
                    or not isinstance(timeout, int | float)
                    or not 0 < timeout <= _TIMEOUT_US_MAX
                ):
                    raise InvalidInferRequest(
                        "parameters.timeout", "is not a number of microseconds.", "Send more than 0, at most 600 s."
                    )
                deadline = min(deadline, now + timeout / 1e6)
        return deadline

    def _copy(self, running: _Running, shadow: LoadedVersion, deadline: float) -> None:
        """Let a shadow see the same rows; its answer goes to the log alone, its faults to nobody."""
        try:
            feeds, rows = shadow.signature.feeds(running.request.inputs, rows_max=self._limits.rows_max)
            self._batcher.submit(
                Waiting(
                    shadow,
                    shadow.output_names,
                    feeds,
                    rows,
                    deadline,
                    lambda outputs, error: self._record_shadow(running, shadow, outputs, error),
                ),
                joins_rows=shadow.signature.joins_rows,
            )
        except ClaveError as refusal:
            self._record_shadow(running, shadow, None, refusal)

    def _record_shadow(
        self,
        running: _Running,
        shadow: LoadedVersion,
        outputs: Sequence[NDArray[Any]] | None,
        error: Exception | None,
    ) -> None:
        self._record(running, shadow, "shadow", shadow.output_names, outputs, error)

    def _finish(self, running: _Running, outputs: Sequence[NDArray[Any]] | None, error: Exception | None) -> None:
        call, loaded = running.call, running.target.loaded
        if outputs is None:
            if isinstance(error, RuntimeRefused):
                _log.warning("model_run_failed", model=loaded.model, version=loaded.version, error=str(error)[:500])
                error = ModelRunFailed(running.target.endpoint.name, str(loaded.version))
            self._record(running, loaded, running.target.arm, running.output_names, None, error)
            self._refuse(call, running.answered, error or RuntimeError("no outputs"), running)
            return
        try:
            reply = self._encode(running, outputs)
        except Exception as fault:  # noqa: BLE001  entry point of a callback
            self._refuse(call, running.answered, fault, running)
            return
        running.answered(reply)
        took = self._record(running, loaded, running.target.arm, running.output_names, outputs, None)
        self._metrics.answered(
            endpoint=running.target.endpoint.name,
            version=str(loaded.version),
            arm=running.target.arm,
            protocol=call.protocol,
            code="200",
            latency_s=took,
            rows=running.rows,
        )

    def _record(
        self,
        running: _Running,
        loaded: LoadedVersion,
        arm: str,
        names: Sequence[str],
        outputs: Sequence[NDArray[Any]] | None,
        error: Exception | None,
    ) -> float:
        took = time.perf_counter() - running.call.began
        endpoint = running.target.endpoint
        self._log.add(
            Served(
                running.prediction_id,
                time.time(),
                endpoint.name,
                endpoint.tenant,
                loaded,
                arm,
                running.admission.caller.subject_id,
                running.call.protocol,
                running.feeds,
                names,
                outputs,
                running.features.entities if running.features else None,
                took,
                getattr(error, "code", type(error).__name__) if error is not None else None,
            )
        )
        return took

    def _encode(self, running: _Running, outputs: Sequence[NDArray[Any]]) -> Reply:
        request, loaded, target = running.request, running.target.loaded, running.target
        plain = request.outputs is None and not request.binary_outputs and running.features is None
        if plain and running.call.protocol == "rest":
            templates = self._templates_of(target)
            if templates.usable:
                return Reply(
                    templates.render(
                        arm=target.arm,
                        prediction_id=running.prediction_id.encode(),
                        request_id=request.id,
                        chosen=running.chosen,
                        outputs=outputs,
                    )
                )
        parameters: dict[str, Any] = {"prediction_id": running.prediction_id, "arm": target.arm}
        if running.features is not None:
            parameters["feature_status"] = running.features.statuses
        specs = loaded.signature.outputs
        answer = InferenceAnswer(
            target.endpoint.name,
            str(loaded.version),
            [
                Tensor(specs[i].name, specs[i].datatype, output)
                for i, output in zip(running.chosen, outputs, strict=True)
            ],
            request.id,
            parameters,
        )
        if running.call.protocol == "grpc":
            return Reply(grpc_message.encode(answer, raw=request.raw_outputs))
        binary = _binary_outputs(request, answer)
        if not binary:
            return Reply(rest_json.encode(answer))
        body, json_length = rest_binary.encode(answer, binary=binary)
        return Reply(body, json_length)

    def _templates_of(self, target: Target) -> AnswerTemplates:
        name, loaded = target.endpoint.name, target.loaded
        known = self._templates.get(loaded)
        if known is not None and known[0] == name:
            return known[1]
        current = set(self._table().versions.values())
        self._templates = {version: kept for version, kept in self._templates.items() if version in current}
        templates = AnswerTemplates(name, str(loaded.version), loaded.signature.outputs)
        self._templates[loaded] = (name, templates)
        return templates

    def _refuse(self, call: Call, answered: Answered, error: Exception, running: _Running | None = None) -> None:
        refusal = as_refusal(error, model=call.model)
        version = str(running.target.loaded.version) if running else ""
        endpoint = running.target.endpoint.name if running else self._known_name(call.model)
        answered(Reply(error=refusal))
        self._metrics.answered(
            endpoint=endpoint,
            version=version,
            arm=running.target.arm if running else "",
            protocol=call.protocol,
            code=refusal.kind.value,
            latency_s=time.perf_counter() - call.began,
            rows=0,
        )

    def _known_name(self, model: str) -> str:
        return model if model in self._table().endpoints else "unknown"


def _require_no_tensors(request: InferenceRequest) -> None:
    if request.inputs:
        raise InvalidInferRequest(
            "inputs", "stand beside parameters.entities.", "Send tensors or entity keys, not both."
        )


def _binary_outputs(request: InferenceRequest, answer: InferenceAnswer) -> set[str]:
    if request.outputs is None:
        return {tensor.name for tensor in answer.outputs} if request.binary_outputs else set()
    return {
        output.name
        for output in request.outputs
        if (request.binary_outputs if output.binary is None else output.binary)
    }


def as_refusal(error: Exception, *, model: str) -> ClaveError:
    """Turn any failure into what a caller may see; the unexpected is logged once and leaves only its id."""
    if isinstance(error, ClaveError):
        return error
    error_id = f"err_{os.urandom(8).hex()}"
    _log.error("prediction_failed", error_id=error_id, model=model[:100], exc_info=error)
    return ClaveError(f"Something failed inside the service; its log tells more under {error_id}.", error_id=error_id)
