"""What the trainer refuses."""

from clave_common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound


class PipelineNotFound(NotFound):
    """There is no pipeline of that name."""

    code = "pipeline_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no pipeline {name!r}; apply its definition with 'clave apply'.", pipeline=name)


class RunNotFound(NotFound):
    """There is no run of that id."""

    code = "run_not_found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id!r}; 'clave runs list' shows them.", run=run_id)


class ScheduleNotFound(NotFound):
    """There is no schedule of that id."""

    code = "schedule_not_found"


class RunHasEnded(FailedPrecondition):
    """The run is over and cannot be cancelled."""

    code = "run_has_ended"


class RunNotRetryable(FailedPrecondition):
    """Only a run that failed or was cancelled can be tried again."""

    code = "run_not_retryable"


class TooManyRuns(FailedPrecondition):
    """The pipeline has as many unfinished runs as its limit allows."""

    code = "too_many_runs"


class PipelineMismatch(InvalidArgument):
    """The definition's name is not the one in the path."""

    code = "pipeline_mismatch"


class DecisionHasRun(AlreadyExists):
    """A retraining decision starts one run only."""

    code = "decision_has_run"
