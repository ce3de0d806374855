"""Deploy: an application with a key of its own asks for predictions, over REST and gRPC."""

import time
from dataclasses import replace

from clave_contracts.gateway import KeyCreate, NewKey
from clave_contracts.inference import InferAnswer
from clave_contracts.problems import ServiceProblem
from clave_contracts.registry import Endpoint

from clave.client import AsyncClient
from clave.connection import Connection
from clave.demo.grpc_call import infer_over_grpc
from clave.demo.stage import Stage, until
from clave.demo.telco import Customer
from clave.demo.traffic import Application, outcomes_of

_NOT_YET = {0, 403, 404, 503}  # a new key or a new version takes a moment to be known everywhere


async def await_endpoint(stage: Stage) -> Endpoint:
    """Wait until inference does what the registry desires."""
    name = stage.pipeline.endpoint

    async def look() -> Endpoint | None:
        endpoint = await stage.admin.registry.endpoint(name)
        return endpoint if endpoint.live_version is not None and endpoint.in_sync else None

    endpoint = await until(look, patience_s=stage.plan.patience_s, what=f"endpoint {name} to be in sync")
    stage.timeline.line(
        f"endpoint {name} is live on v{endpoint.live_version} in {endpoint.namespace}: desired and observed agree",
        endpoint=endpoint.model_dump(mode="json"),
    )
    return endpoint


async def create_application_key(stage: Stage) -> NewKey:
    """Make a key that may predict and tell outcomes, and nothing else."""
    stage.timeline.chapter("Deploy: an application predicts over REST and gRPC with its own key")
    key = await stage.admin.gateway.create_key(KeyCreate(name="demo-scoring-app", role="scoring-app"))
    stage.timeline.line(f"key {key.id} for {key.principal} with role {key.role}", key_id=key.id, role=key.role)
    return key


async def first_predictions(stage: Stage, application: Application) -> None:
    """Ask once in each of the three ways, and once for something that the key may not do."""
    group = stage.market.past[:1]
    answer = await _first_answer(stage, application, group)
    stage.timeline.mark("first_prediction")
    await application.tell(outcomes_of(answer, group))
    began = time.perf_counter()
    by_tensor, tensor = await application.ask_with_tensors(group)
    stage.timeline.line(
        f"REST, tensor {tensor.shape} of {tensor.datatype}: v{by_tensor.model_version} "
        f"says {scores_of(by_tensor)[0]:.4f}",
        seconds=round(time.perf_counter() - began, 4),
        model_version=by_tensor.model_version,
    )
    began = time.perf_counter()
    over_grpc = await infer_over_grpc(application.client.connection, model=stage.pipeline.endpoint, tensor=tensor)
    stage.timeline.line(
        f"gRPC, the same tensor on the same port: v{over_grpc.model_version}, outputs {over_grpc.outputs}",
        seconds=round(time.perf_counter() - began, 4),
        model_version=over_grpc.model_version,
        outputs=over_grpc.outputs,
        scores=over_grpc.scores,
    )
    await _try_more_than_allowed(stage, application.client)


async def _first_answer(stage: Stage, application: Application, group: list[Customer]) -> InferAnswer:
    async def ask() -> InferAnswer | None:
        try:
            return await application.ask(group)
        except ServiceProblem as problem:
            if problem.status in _NOT_YET:
                return None
            raise

    began = time.perf_counter()
    answer = await until(ask, patience_s=30, what="the first prediction")
    key = next(iter(group))["customer_id"]
    stage.timeline.line(
        f"REST, by customer_id {key}: v{answer.model_version} says {scores_of(answer)[0]:.4f} "
        f"(prediction {answer.parameters['prediction_id']})",
        seconds=round(time.perf_counter() - began, 4),
        model_version=answer.model_version,
        parameters=answer.parameters,
        outputs=[output.model_dump() for output in answer.outputs],
    )
    return answer


async def _try_more_than_allowed(stage: Stage, client: AsyncClient) -> None:
    try:
        await client.start_run(stage.pipeline.name, reason="not mine to start")
    except ServiceProblem as problem:
        stage.timeline.line(
            f"the same key may not start a training: {problem.status} {problem.code}",
            status=problem.status,
            problem=problem.problem,
        )


def scores_of(answer: InferAnswer) -> list[float]:
    """Probability of churn for each row, from the answer's floating-point output."""
    for output in answer.outputs:
        if output.datatype != "FP32":
            continue
        columns = output.shape[-1] if len(output.shape) > 1 else 1
        return [float(value) for value in output.data[columns - 1 :: columns]]
    return []


def application_connection(stage: Stage, key: NewKey) -> Connection:
    """The same stack, spoken to with the application's key."""
    connection = stage.admin.connection
    return replace(connection, api_key=key.key, key_file=None)
