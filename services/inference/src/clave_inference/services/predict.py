"""Predict: one operation under every door.

The doors (uvicorn's lane, the ASGI route, the gRPC server, Envoy's bridge) hand in a `Call` and a callback. An ordinary
call runs through without a task: admitted from memory, decoded, checked against the signature, charged, routed, queued.
What needs somebody else (a first credential, a lease of the rate limit, features) goes on in a task and comes back to
the same steps.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from clave_common.errors import ClaveError
from clave_common.logs import get_logger

from clave_inference.codecs import binary_tail, grpc_message, rest_binary, rest_json
from clave_inference.codecs.grpc_forms import Form, Forms
from clave_inference.domain.errors import InvalidInferRequest, ModelRunFailed
from clave_inference.domain.prediction_ids import PredictionIds
from clave_inference.domain.tensors import InferenceAnswer, InferenceRequest, Tensor
from clave_inference.metrics import PredictionMetrics
from clave_inference.runtime.batcher import Batcher
from clave_inference.runtime.session import RuntimeRefused
from clave_inference.runtime.shadow_runner import ShadowRunner
from clave_inference.services.access_log import AccessLog
from clave_inference.services.admissions import Admission, Admissions
from clave_inference.services.call import Answered, Arrays, Call, Reply
from clave_inference.services.explainer import Explains
from clave_inference.services.feature_requests import FeatureReader, read_terms
from clave_inference.services.plain_runs import PlainRuns
from clave_inference.services.prediction_log import PredictionLog
from clave_inference.services.refusals import as_refusal
from clave_inference.services.request_parameters import read_parameters
from clave_inference.services.run_answers import RunAnswers
from clave_inference.services.serving import ServingTable, Target

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PredictLimits:
    """Bounds of one request."""

    rows_max: int = 4096
    timeout_s: float = 10.0


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
        explainer: Explains,
        shadows: ShadowRunner,
        access_log: AccessLog,
        limits: PredictLimits,
    ) -> None:
        self._table = table
        self._admissions = admissions
        self._batcher = batcher
        self._log = log
        self._metrics = metrics
        self._features = features
        self._explainer = explainer
        self._shadows = shadows
        self._access_log = access_log
        self._rows_max = limits.rows_max
        self._timeout_s = limits.timeout_s
        self._ids = PredictionIds()
        self._forms = Forms()
        self._tasks: set[asyncio.Task[None]] = set()
        self.plain = PlainRuns(
            table=table, admissions=admissions, batcher=batcher, log=log, access_log=access_log, ids=self._ids
        )
        batcher.deliver = RunAnswers(admissions=admissions, log=log, access_log=access_log).deliver

    @property
    def in_flight(self) -> int:
        """Calls that wait for an answer, and copies that wait for a shadow."""
        return len(self._tasks) + self.plain.in_flight + self._batcher.in_flight + self._shadows.in_flight

    def predict(self, call: Call, answered: Answered) -> None:
        """Answer a call, now or later, exactly once. Never raises."""
        call.answered = answered
        try:
            if call.protocol == "grpc":
                self._read_names(call)
            admission = self._admissions.known(call.credential, call.model, call.version, call.began)
            if admission is None:
                self._go_on(self._admit_first(call))
                return
            self._proceed(call, admission)
        except Exception as error:  # noqa: BLE001  entry point: whatever happens, the caller gets an answer
            self._refuse(call, error)

    def _read_names(self, call: Call) -> None:
        """Find out which model a gRPC call is for, which only its message says."""
        found = self._forms.read(call.body)
        if found is None:
            message = call.message = grpc_message.parse(call.body)
            call.model, call.version = message.model_name, message.model_version or None
        else:
            form, call.request_id, call.values = found
            call.form, call.model, call.version = form, form.model, form.version

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit_first(self, call: Call) -> None:
        try:
            self._proceed(call, await self._admissions.admit(call.credential, call.model, call.version))
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, error)

    def _proceed(self, call: Call, admission: Admission) -> None:
        call.admission = admission
        if call.protocol == "grpc":
            if call.form is not None and self._queue_raw_row(call, call.form):
                return
        elif call.header_length is None:
            plain = rest_json.decode_plain(call.body)
            if plain is not None and self._queue_row(call, plain):
                return
        self._decode(call)

    def _queue_row(self, call: Call, plain: rest_json.PlainRequest) -> bool:
        """Queue an ordinary request: one row for the only input, every output wanted as JSON; False for any other."""
        target = self._table().target(call.model, call.version, call.routing_key)
        row = target.loaded.row
        if row is None or not rest_json.is_plain_row(plain, row):
            return False
        call.values, call.request_id = row.packed(plain.inputs[0].data), plain.id
        if call.values is None:
            return False  # the general decoder words it
        self._queue_plain(call, target)
        return True

    def _queue_raw_row(self, call: Call, form: Form) -> bool:
        """Do the same for a gRPC call of a known form."""
        target = self._table().target(call.model, call.version, call.routing_key)
        row, values = target.loaded.row, call.values
        if row is None or values is None or not form.fits(row, len(values)):
            call.values = None
            return False
        self._queue_plain(call, target)
        return True

    def _queue_plain(self, call: Call, target: Target) -> None:
        loaded = target.loaded
        call.target, call.runnable, call.arm = target, loaded, target.arm
        call.rows, call.chosen, call.output_names = 1, loaded.every_output, loaded.output_names
        self._charge(call)

    def _decode(self, call: Call) -> None:
        if call.protocol == "grpc":
            call.message = call.message or grpc_message.parse(call.body)
            request = grpc_message.request_of(call.message)
        elif call.header_length is None:
            request = rest_json.decode(call.body)
        else:
            length = binary_tail.parse_header_length(call.header_length, len(call.body))
            request = rest_binary.decode(call.body, length)
        call.request, call.request_id = request, request.id
        parameters = request.parameters
        if parameters:
            read_parameters(call, parameters)
            if "entities" in parameters:
                self._go_on(self._with_features(call))
                return
        if not request.inputs:
            raise InvalidInferRequest("inputs", "are missing.", "Send tensors, or entity keys in parameters.entities.")
        self._queue(call, self._table().target(call.model, call.version, call.routing_key))
        if call.protocol == "grpc" and call.rows == 1 and call.runnable.row is not None:
            self._forms.learn(call.body, call.message)

    async def _with_features(self, call: Call) -> None:
        request = call.request
        try:
            _require_no_tensors(request)
            target = self._table().target(call.model, call.version, call.routing_key)
            signature = target.loaded.signature
            call.features = rows = await self._features.read(
                request.parameters["entities"],
                target.endpoint,
                signature,
                caller=call.admission.caller,
                rows_max=self._rows_max,
                terms=read_terms(request.parameters),
                trace=call.trace,
            )
            spec = signature.inputs[0]
            request.inputs = [Tensor(spec.name, spec.datatype, rows.values)]
            self._queue(call, target)
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, error)

    def _queue(self, call: Call, target: Target) -> None:
        loaded = target.loaded
        signature = loaded.signature
        call.target, call.runnable, call.arm = target, loaded, target.arm
        call.feeds, call.rows = signature.feeds(call.request.inputs, rows_max=self._rows_max)
        if call.request.outputs is None:
            call.chosen, call.output_names = loaded.every_output, loaded.output_names
        else:
            call.chosen = signature.output_indexes(call.request.outputs)
            call.output_names = tuple(loaded.output_names[i] for i in call.chosen)
        self._charge(call)

    def _charge(self, call: Call) -> None:
        call.ended = self._finish
        call.prediction_id = self._ids.next()
        if call.deadline is None:
            call.deadline = call.began + self._timeout_s
        if self._admissions.charge_now(call.admission, call.rows, call.began):
            self._submit(call)
        else:
            self._go_on(self._charge_first(call))

    async def _charge_first(self, call: Call) -> None:
        try:
            await self._admissions.charge(call.admission, call.rows)
            self._submit(call)
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, error)

    def _submit(self, call: Call) -> None:
        if call.wants_explanation and call.explanation is None:
            self._go_on(self._explain_first(call))
            return
        self._batcher.submit(call)
        for shadow in call.target.shadows:
            asyncio.get_running_loop().call_soon(self._copy, call, shadow)  # behind the caller's own run

    async def _explain_first(self, call: Call) -> None:
        try:
            call.explanation = await self._explainer.explain(call.runnable, call.feeds)
            self._submit(call)
        except Exception as error:  # noqa: BLE001  entry point of a task
            self._refuse(call, error, call.target)

    def _copy(self, call: Call, shadow: Target) -> None:
        """Let a shadow see the same rows; its answer goes to the log alone, its faults to nobody."""
        copy = call.copy_for(shadow, self._finish_shadow)
        try:
            copy.feeds, copy.rows = shadow.loaded.signature.feeds(_tensors(call), rows_max=self._rows_max)
            self._shadows.submit(copy)
        except ClaveError as refusal:
            copy.feeds, copy.rows = call.feeds, call.rows
            self._finish_shadow(copy, None, refusal)

    def _finish_shadow(self, copy: Call, outputs: Arrays | None, error: Exception | None) -> None:
        self._record(copy, outputs, error)

    def _finish(self, call: Call, outputs: Arrays | None, error: Exception | None) -> None:
        if outputs is None:
            self._fail(call, error)
            return
        try:
            reply = self._encode(call, outputs)
        except Exception as fault:  # noqa: BLE001  entry point of a callback
            self._record(call, outputs, fault)
            self._refuse(call, fault, call.target)
            return
        self._record(call, outputs, None)
        call.answered(reply)
        self._access_log.answered((call,), call.began + call.took_s)

    def _fail(self, call: Call, error: Exception | None) -> None:
        loaded = call.target.loaded
        if isinstance(error, RuntimeRefused):
            _log.warning("model_run_failed", model=loaded.model, version=loaded.version, error=str(error)[:500])
            error = ModelRunFailed(call.target.endpoint.name, str(loaded.version))
        self._record(call, None, error)
        self._refuse(call, error or RuntimeError("no outputs"), call.target)

    def _record(self, call: Call, outputs: Arrays | None, error: Exception | None) -> None:
        call.outputs = outputs
        call.error = None if error is None else str(getattr(error, "code", type(error).__name__))
        call.took_s = time.monotonic() - call.began
        self._log.add(call)

    def _encode(self, call: Call, outputs: Arrays) -> Reply:
        headers = self._admissions.limit_headers(call.admission, time.monotonic())
        answer = _answer(call, outputs)
        if call.protocol == "grpc":
            raw = call.values is not None or call.request.raw_outputs
            return Reply(grpc_message.encode(answer, raw=raw), limit_headers=headers)
        if call.values is not None:
            return Reply(rest_json.encode(answer), limit_headers=headers)
        request = call.request
        binary = _binary_outputs(request, answer)
        if not binary:
            return Reply(rest_json.encode(answer), limit_headers=headers)
        body, json_length = rest_binary.encode(answer, binary=binary)
        return Reply(body, json_length, limit_headers=headers)

    def _refuse(self, call: Call, error: Exception, target: Target | None = None) -> None:
        refusal = as_refusal(error, model=call.model)
        call.answered(Reply(error=refusal))
        self._access_log.refused(call, refusal.code, time.monotonic())
        known = call.model in self._table().endpoints
        self._metrics.answered(
            endpoint=target.endpoint.name if target else (call.model if known else "unknown"),
            version=str(target.loaded.version) if target else "",
            arm=target.arm if target else "",
            protocol=call.protocol,
            code=refusal.kind.value,
            latency_s=time.monotonic() - call.began,
            rows=0,
        )


def _answer(call: Call, outputs: Arrays) -> InferenceAnswer:
    parameters: dict[str, Any] = {"prediction_id": call.prediction_id, "arm": call.arm}
    withheld = set(call.admission.mask)
    if call.features is not None:
        parameters |= call.features.parameters()
        withheld.update(call.features.withheld)
    loaded = call.target.loaded
    specs = loaded.signature.outputs
    tensors = [Tensor(specs[i].name, specs[i].datatype, output) for i, output in zip(call.chosen, outputs, strict=True)]
    if call.explanation is not None:
        tensors += call.explanation.tensors()
        parameters |= call.explanation.parameters(withheld)
    return InferenceAnswer(call.target.endpoint.name, str(loaded.version), tensors, call.request_id, parameters)


def _tensors(call: Call) -> list[Tensor]:
    if call.values is None:
        return call.request.inputs
    spec = call.runnable.signature.inputs[0]
    return [Tensor(spec.name, spec.datatype, call.feeds[0])]


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
