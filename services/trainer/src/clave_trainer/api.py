"""The trainer's HTTP API: parses, calls one operation, renders."""

from clave_common.access import Caller, governed
from clave_common.database import Database
from clave_common.errors import InvalidArgument
from clave_common.idempotency import answer_once
from clave_common.pages import PageSize, PageToken
from clave_common.pages import page_size as bounded_page_size
from clave_contracts.trainer import (
    API,
    AttemptList,
    Pipeline,
    PipelineList,
    Run,
    RunCreate,
    RunPage,
    Schedule,
    ScheduleList,
    ScheduleSpec,
)
from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from clave_trainer.services.pipelines import Pipelines
from clave_trainer.services.runs import Runs
from clave_trainer.services.schedules import Schedules
from clave_trainer.spec_text import read_spec

_YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")


def create_router(database: Database, pipelines: Pipelines, runs: Runs, schedules: Schedules) -> APIRouter:
    """Lay out the routes."""
    router = APIRouter(prefix=API)
    _pipeline_routes(router, pipelines)
    _run_routes(router, database, runs)
    _schedule_routes(router, database, schedules)
    return router


def _pipeline_routes(router: APIRouter, pipelines: Pipelines) -> None:
    @router.put(
        "/pipelines/{pipeline}",
        summary="Create or change a pipeline (JSON or YAML)",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": {"$ref": "#/components/schemas/PipelineSpec"}}
                    for kind in ("application/json", "application/yaml")
                },
            }
        },
    )
    async def put_pipeline(
        pipeline: str,
        request: Request,
        caller: Caller = governed("training:pipeline.write", in_operation=True),
    ) -> Pipeline:
        media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        spec = read_spec(await request.body(), yaml=media_type in _YAML_TYPES)
        return await pipelines.put(pipeline, spec, caller)

    @router.get("/pipelines", summary="List pipelines")
    async def list_pipelines(_caller: Caller = governed("training:pipeline.read")) -> PipelineList:
        return PipelineList(pipelines=await pipelines.list())

    @router.get("/pipelines/{pipeline}", summary="Describe a pipeline")
    async def get_pipeline(
        pipeline: str,
        _caller: Caller = governed("training:pipeline.read", resource_id="pipelines/{pipeline}"),
    ) -> Pipeline:
        return await pipelines.get(pipeline)


def _run_routes(router: APIRouter, database: Database, runs: Runs) -> None:
    async def start(request: Request, pipeline: str, caller: Caller, trigger: str) -> Response:
        definition = await runs.require_start(pipeline, caller)  # a repeated key is decided afresh too
        wanted = await _run_request(request)

        async def answer() -> Response:
            return _created(await runs.start(definition, wanted, caller, trigger=trigger))

        return await answer_once(database, request, principal=caller.subject_id, answer=answer)

    body = {"requestBody": {"content": {"application/json": {"schema": RunCreate.model_json_schema()}}}}

    @router.post(
        "/pipelines/{pipeline}/runs",
        summary="Start a run",
        status_code=201,
        response_model=Run,
        openapi_extra=body,
    )
    async def start_run(
        request: Request, pipeline: str, caller: Caller = governed("training:run.create", in_operation=True)
    ) -> Response:
        return await start(request, pipeline, caller, "manual")

    @router.post(
        "/pipelines/{pipeline}/trigger",
        summary="Start a run from CI or another scheduler (GitHub Actions, Airflow)",
        status_code=201,
        response_model=Run,
        openapi_extra=body,
    )
    async def trigger_run(
        request: Request, pipeline: str, caller: Caller = governed("training:run.create", in_operation=True)
    ) -> Response:
        return await start(request, pipeline, caller, "webhook")

    @router.get("/runs", summary="List runs, newest first")
    async def list_runs(
        pipeline: str | None = None,
        page_size: PageSize | None = None,
        page_token: PageToken = None,
        caller: Caller = governed("training:run.read", listing=True),
    ) -> RunPage:
        return await runs.page(caller, pipeline=pipeline, size=bounded_page_size(page_size), token=page_token)

    @router.get("/runs/{run}", summary="Describe a run with its steps, gates and reasons")
    async def get_run(run: str, _caller: Caller = governed("training:run.read", resource_id="runs/{run}")) -> Run:
        return await runs.get(run)

    @router.get("/runs/{run}/attempts", summary="Read the journal of a run's attempts")
    async def get_attempts(
        run: str, _caller: Caller = governed("training:run.read", resource_id="runs/{run}")
    ) -> AttemptList:
        return AttemptList(attempts=await runs.attempts(run))

    @router.post("/runs/{run}/cancel", summary="Stop a run")
    async def cancel_run(run: str, caller: Caller = governed("training:run.cancel", in_operation=True)) -> Run:
        return await runs.cancel(run, caller)

    @router.post("/runs/{run}/retry", summary="Try a failed or cancelled run again from its first unfinished step")
    async def retry_run(run: str, caller: Caller = governed("training:run.cancel", in_operation=True)) -> Run:
        return await runs.retry(run, caller)


def _schedule_routes(router: APIRouter, database: Database, schedules: Schedules) -> None:
    @router.post("/schedules", summary="Create a schedule", status_code=201, response_model=Schedule)
    async def create_schedule(
        request: Request, spec: ScheduleSpec, caller: Caller = governed("training:schedule.write", in_operation=True)
    ) -> Response:
        async def answer() -> Response:
            return _created(await schedules.put(None, spec, caller))

        return await answer_once(
            database,
            request,
            principal=caller.subject_id,
            answer=answer,
            repeat=lambda: schedules.require_write(caller, spec.pipeline),
        )

    @router.put("/schedules/{schedule}", summary="Create or change a schedule")
    async def put_schedule(
        schedule: str,
        spec: ScheduleSpec,
        caller: Caller = governed("training:schedule.write", in_operation=True),
    ) -> Schedule:
        return await schedules.put(schedule, spec, caller)

    @router.get("/schedules", summary="List schedules")
    async def list_schedules(_caller: Caller = governed("training:pipeline.read")) -> ScheduleList:
        return ScheduleList(schedules=await schedules.list())

    @router.delete("/schedules/{schedule}", summary="Remove a schedule", status_code=204)
    async def delete_schedule(
        schedule: str, caller: Caller = governed("training:schedule.write", in_operation=True)
    ) -> None:
        await schedules.delete(schedule, caller)


async def _run_request(request: Request) -> RunCreate:
    """Read the optional body of a run."""
    content = await request.body()
    try:
        return RunCreate.model_validate_json(content) if content.strip() else RunCreate()
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or "body"
        raise InvalidArgument(f"{field}: {fault['msg']}.", field=field) from error


def _created(document: BaseModel) -> Response:
    return Response(document.model_dump_json(), status_code=201, media_type="application/json")
