"""The Python SDK: one surface, synchronous (`Client`) and asynchronous (`AsyncClient`).

Both speak through the one public address with one key. Everyday verbs are methods; every other route is reached
through the typed clients of the contracts: ``client.registry``, ``client.trainer``, and so on. A refusal raises
`ServiceProblem`, which carries the service's problem document.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
from clave_contracts.features import ApplyAnswer, FeaturesClient, IngestReport, Repository
from clave_contracts.gateway import GatewayClient, WhoAmI
from clave_contracts.inference import InferAnswer, InferenceClient, InferRequest, InferTensor
from clave_contracts.monitor import FeedbackItem, FeedbackRequest, FeedbackResult, MonitorClient, Report
from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import API as REGISTRY
from clave_contracts.registry import (
    Endpoint,
    EndpointCreate,
    Model,
    ModelCreate,
    Namespace,
    RegistryClient,
    SubmitRequest,
    Version,
)
from clave_contracts.trainer import Run, RunCreate, TrainerClient

from clave.connection import Connection, find_connection
from clave.failures import Failure, TimedOut
from clave.registration import Registration, artifact_paths, register_version
from clave.rows import tensor_of_rows

T = TypeVar("T")
RiskClass = Literal["minimal", "limited", "high"]
_POLL_S = 0.5
_FINISHED = {"succeeded", "failed", "refused", "cancelled"}


class AsyncClient:
    """Speaks to a stack.

    Args:
        url: Base address; found through ``CLAVE_URL`` or the local stack's connection.json when absent.
        api_key: Key; ``CLAVE_API_KEY`` or the local stack's admin key when absent.
        data_dir: Data directory of a local stack.
        timeout_s: Seconds for each call.
        break_glass: Ticket and reason for changes outside of their window, as "INC-12345 the model answers NaN";
            ``CLAVE_BREAK_GLASS`` when absent. The policy judges it and the decision log keeps it.
        ca_file: Authorities to trust for an https address; ``CLAVE_CA_FILE``, what the local stack names, or the
            system's when absent.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        data_dir: Path | None = None,
        timeout_s: float = 60.0,
        ca_file: Path | None = None,
        break_glass: str | None = None,
    ) -> None:
        glass = break_glass or os.environ.get("CLAVE_BREAK_GLASS")
        self.connection: Connection = find_connection(url=url, api_key=api_key, data_dir=data_dir, ca_file=ca_file)
        self.http = httpx.AsyncClient(
            base_url=self.connection.url,
            headers={
                "authorization": f"Bearer {self.connection.api_key}",
                "user-agent": "clave-sdk",
                **({"clave-break-glass": glass} if glass else {}),
            },
            timeout=timeout_s,
            trust_env=False,
            # Loading the system's authorities costs some 50 ms; a plain address needs none.
            verify=self.connection.tls if self.connection.url.startswith("https:") else False,
        )
        self._metadata: dict[str, dict[str, Any]] = {}
        self.gateway = GatewayClient(self.http)
        self.registry = RegistryClient(self.http)
        self.features = FeaturesClient(self.http)
        self.inference = InferenceClient(self.http)
        self.monitor = MonitorClient(self.http)
        self.trainer = TrainerClient(self.http)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def whoami(self) -> WhoAmI:
        """Ask who the key belongs to."""
        return await self.gateway.whoami()

    async def predict(
        self,
        endpoint: str,
        *,
        entities: dict[str, list[Any]] | None = None,
        rows: Any = None,
        inputs: Sequence[InferTensor] = (),
        parameters: dict[str, Any] | None = None,
    ) -> InferAnswer:
        """Ask an endpoint for predictions.

        Args:
            endpoint: Name of the endpoint or of a registered model.
            entities: Entity keys, column by column; the service then reads the features itself.
            rows: Features that the caller brings: a DataFrame, an array or a list of lists, one row each prediction.
            inputs: The same as tensors, for models of several inputs.
            parameters: Further request parameters of the protocol.

        Raises:
            ValueError: The rows are not what the model takes.
        """
        if rows is not None:
            if endpoint not in self._metadata:
                self._metadata[endpoint] = await self.inference.metadata(endpoint)
            inputs = [*inputs, tensor_of_rows(self._metadata[endpoint], rows)]
        merged = {**(parameters or {}), **({"entities": entities} if entities else {})}
        return await self.inference.infer(endpoint, InferRequest(parameters=merged, inputs=list(inputs)))

    async def send_feedback(self, items: Sequence[FeedbackItem | Mapping[str, Any]]) -> FeedbackResult:
        """Tell what really happened after predictions, at most 10,000 at once.

        Args:
            items: Outcomes, as `FeedbackItem` or as mappings with the same fields.
        """
        return await self.monitor.send_feedback(FeedbackRequest.model_validate({"items": list(items)}))

    async def report(self, endpoint: str) -> Report:
        """Read drift and performance of an endpoint's live version."""
        return await self.monitor.report(endpoint)

    async def version(self, model: str, version: int) -> Version:
        """Describe a model version."""
        return await self.registry.version(model, version)

    async def create_model(
        self, name: str, *, risk_class: RiskClass = "minimal", description: str = "", exist_ok: bool = False
    ) -> Model:
        """Create a registered model.

        Args:
            name: Its name.
            risk_class: How many people approve its versions, and what their cards must say.
            description: What it predicts.
            exist_ok: Whether one of this name is taken as it is.
        """
        asked = ModelCreate(name=name, risk_class=risk_class, description=description)
        try:
            return await self.registry.create_model(asked)
        except ServiceProblem as problem:
            if not exist_ok or problem.problem.get("code") != "already_exists":
                raise
            return await self.registry.get(Model, f"{REGISTRY}/models/{name}")

    async def register_version(
        self,
        model: str,
        files: str | Path | Mapping[str, str | Path],
        *,
        reference: str | Path | None = None,
        columns: Sequence[str] = (),
        score: str | None = None,
        threshold: float = 0.5,
        params: Mapping[str, Any] | None = None,
        description: str = "",
        card: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> Version:
        """Register a model that was made elsewhere as the next version.

        Args:
            model: A registered model.
            files: The ONNX file; or every file by its path in the version, ``model.onnx`` among them.
            reference: Parquet of rows to monitor against: the columns, ``score``, and ``label`` where it is known.
            columns: Names of the input's columns, in order.
            score: Output that holds the score, ``probabilities:1`` for a column of it.
            threshold: Score at or above which the predicted class is 1, 0 to 1.
            params: Hyperparameters.
            description: What is new in it.
            card: What only people know for the card, such as ``intended_use``.
            evaluation: ``metrics`` by split, ``gates`` with their verdicts, ``passed``; Production asks for one.

        Raises:
            EnvironmentFailure: A file is not there.
            Failure: The card or the evaluation is not of the registry's form.
        """
        told = Registration(columns, score, threshold, params or {}, description, card or {}, evaluation)
        return await register_version(self.registry, model, artifact_paths(files, reference), told)

    async def submit(self, model: str, version: int, *, namespace: Namespace = "Production") -> Version:
        """Ask for a version's approval; it may come at once where policy needs no person."""
        return await self.registry.submit(model, version, SubmitRequest(namespace=namespace))

    async def create_endpoint(
        self, name: str, *, model: str, version: int | None = None, namespace: Namespace = "Production"
    ) -> Endpoint:
        """Create an endpoint; a version given goes live at once."""
        return await self.registry.create_endpoint(
            EndpointCreate(name=name, model=model, version=version, namespace=namespace)
        )

    async def apply(self, repository: Repository, *, dry_run: bool = False) -> ApplyAnswer:
        """Bring the feature store to a repository's state."""
        return await self.features.apply(repository, dry_run=dry_run)

    async def ingest(self, view: str, content: bytes, *, media_type: str = "text/csv") -> IngestReport:
        """Ingest a table into a feature view."""
        return await self.features.ingest(view, content, media_type=media_type)

    async def start_run(self, pipeline: str, *, reason: str = "", params: dict[str, Any] | None = None) -> Run:
        """Start a pipeline run; it goes on by itself."""
        return await self.trainer.start_run(pipeline, RunCreate(reason=reason, params=params or {}))

    async def wait_for_run(self, run_id: str, *, timeout_s: float = 900.0) -> Run:
        """Wait until a run has ended, however it ended.

        Raises:
            TimedOut: It is still on its way.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (run := await self.trainer.run(run_id)).status not in _FINISHED:
            if asyncio.get_running_loop().time() > deadline:
                raise TimedOut(
                    f"Run {run_id} is still {run.status}.", remedy=f"Watch it with `clave runs show {run_id}`."
                )
            await asyncio.sleep(_POLL_S)
        return run


class Client:
    """The same surface for code without an event loop; the loop runs in a thread of its own.

    ``client.api`` is the asynchronous client; ``client.call(client.api.registry.endpoint("churn"))`` reaches any of
    its typed calls.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        data_dir: Path | None = None,
        timeout_s: float = 60.0,
        ca_file: Path | None = None,
        break_glass: str | None = None,
    ) -> None:
        self.api = AsyncClient(
            url, api_key, data_dir=data_dir, timeout_s=timeout_s, ca_file=ca_file, break_glass=break_glass
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clave-client", daemon=True)
        self._thread.start()

    @property
    def connection(self) -> Connection:
        """Where the client speaks to, and with which key."""
        return self.api.connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        self.call(self.api.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, awaitable: Awaitable[T]) -> T:
        """Wait for any call of ``client.api``."""

        async def _await() -> T:
            return await awaitable

        work: Coroutine[Any, Any, T] = _await()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (ServiceProblem, Failure) as refusal:
            # Twenty frames of the event loop say nothing about a refusal.
            raise refusal.with_traceback(None) from None

    def whoami(self) -> WhoAmI:
        """Ask who the key belongs to."""
        return self.call(self.api.whoami())

    def predict(
        self,
        endpoint: str,
        *,
        entities: dict[str, list[Any]] | None = None,
        rows: Any = None,
        inputs: Sequence[InferTensor] = (),
        parameters: dict[str, Any] | None = None,
    ) -> InferAnswer:
        """Ask an endpoint for predictions; see `AsyncClient.predict`."""
        return self.call(self.api.predict(endpoint, entities=entities, rows=rows, inputs=inputs, parameters=parameters))

    def send_feedback(self, items: Sequence[FeedbackItem | Mapping[str, Any]]) -> FeedbackResult:
        """Tell what really happened after predictions, at most 10,000 at once; see `AsyncClient.send_feedback`."""
        return self.call(self.api.send_feedback(items))

    def report(self, endpoint: str) -> Report:
        """Read drift and performance of an endpoint's live version."""
        return self.call(self.api.report(endpoint))

    def version(self, model: str, version: int) -> Version:
        """Describe a model version."""
        return self.call(self.api.version(model, version))

    def create_model(
        self, name: str, *, risk_class: RiskClass = "minimal", description: str = "", exist_ok: bool = False
    ) -> Model:
        """Create a registered model; see `AsyncClient.create_model`."""
        return self.call(self.api.create_model(name, risk_class=risk_class, description=description, exist_ok=exist_ok))

    def register_version(
        self,
        model: str,
        files: str | Path | Mapping[str, str | Path],
        *,
        reference: str | Path | None = None,
        columns: Sequence[str] = (),
        score: str | None = None,
        threshold: float = 0.5,
        params: Mapping[str, Any] | None = None,
        description: str = "",
        card: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> Version:
        """Register a model that was made elsewhere as the next version; see `AsyncClient.register_version`."""
        return self.call(
            self.api.register_version(
                model,
                files,
                reference=reference,
                columns=columns,
                score=score,
                threshold=threshold,
                params=params,
                description=description,
                card=card,
                evaluation=evaluation,
            )
        )

    def submit(self, model: str, version: int, *, namespace: Namespace = "Production") -> Version:
        """Ask for a version's approval; it may come at once where policy needs no person."""
        return self.call(self.api.submit(model, version, namespace=namespace))

    def create_endpoint(
        self, name: str, *, model: str, version: int | None = None, namespace: Namespace = "Production"
    ) -> Endpoint:
        """Create an endpoint; a version given goes live at once."""
        return self.call(self.api.create_endpoint(name, model=model, version=version, namespace=namespace))

    def apply(self, repository: Repository, *, dry_run: bool = False) -> ApplyAnswer:
        """Bring the feature store to a repository's state."""
        return self.call(self.api.apply(repository, dry_run=dry_run))

    def ingest(self, view: str, content: bytes, *, media_type: str = "text/csv") -> IngestReport:
        """Ingest a table into a feature view."""
        return self.call(self.api.ingest(view, content, media_type=media_type))

    def start_run(self, pipeline: str, *, reason: str = "", params: dict[str, Any] | None = None) -> Run:
        """Start a pipeline run; it goes on by itself."""
        return self.call(self.api.start_run(pipeline, reason=reason, params=params))

    def wait_for_run(self, run_id: str, *, timeout_s: float = 900.0) -> Run:
        """Wait until a run has ended, however it ended; see `AsyncClient.wait_for_run`."""
        return self.call(self.api.wait_for_run(run_id, timeout_s=timeout_s))
