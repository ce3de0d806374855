"""The steps of a run: their order, what each may take, and which states may follow which.

A step is claimed by a worker for the length of a lease; whatever waits (an approval, a rollout) is a state with a
wake time and holds no worker. `attempt` counts starts that may have failed, never dispatches and never wake-ups.
"""

from dataclasses import dataclass
from enum import StrEnum


class StepState(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"


RUN_ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.REFUSED, RunStatus.CANCELLED})
STEP_ENDED = frozenset(
    {StepState.SUCCEEDED, StepState.FAILED, StepState.REFUSED, StepState.CANCELLED, StepState.SKIPPED}
)


class ResourceClass(StrEnum):
    """What a step needs of a worker; each class has its own queue of doorbells."""

    LIGHT = "light"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step as a run starts with it.

    Attributes:
        name: Unique within the run.
        deps: Steps that must have succeeded before.
        resource_class: The queue it is claimed from.
        attempts_max: Starts before the step has failed for good.
        timeout_s: Seconds that one start may take.
    """

    name: str
    deps: tuple[str, ...]
    resource_class: ResourceClass
    attempts_max: int = 4
    timeout_s: float = 600.0


COLLECT_FEEDBACK = "collect_feedback"
TRAINING_SET = "training_set"
VALIDATE = "validate"
TRAIN = "train"
EXPORT = "export"
PARITY = "parity"
EVALUATE = "evaluate"
REGISTER = "register"
APPROVE = "approve"
ROLL_OUT = "roll_out"

TRAINING_PIPELINE: tuple[StepPlan, ...] = (
    StepPlan(COLLECT_FEEDBACK, (), ResourceClass.LIGHT),
    StepPlan(TRAINING_SET, (COLLECT_FEEDBACK,), ResourceClass.LIGHT),
    StepPlan(VALIDATE, (TRAINING_SET,), ResourceClass.CPU),
    StepPlan(TRAIN, (VALIDATE,), ResourceClass.CPU, timeout_s=4 * 3600.0),
    StepPlan(EXPORT, (TRAIN,), ResourceClass.CPU),
    StepPlan(PARITY, (EXPORT,), ResourceClass.CPU, timeout_s=1800.0),
    StepPlan(EVALUATE, (PARITY,), ResourceClass.CPU, timeout_s=1800.0),
    StepPlan(REGISTER, (EVALUATE,), ResourceClass.LIGHT),
    StepPlan(APPROVE, (REGISTER,), ResourceClass.LIGHT),
    StepPlan(ROLL_OUT, (APPROVE,), ResourceClass.LIGHT),
)

_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 60.0


def backoff_s(attempt: int) -> float:
    """Return the seconds before the next start.

    Args:
        attempt: Starts so far, at least 1.

    Returns:
        1, 2, 4 ... at most 60 seconds.
    """
    return float(min(_BACKOFF_MAX_S, _BACKOFF_FIRST_S * 2 ** (attempt - 1)))


def status_of(states: list[StepState]) -> RunStatus:
    """Derive a run's status from its steps.

    Args:
        states: States of all steps of the run.

    Returns:
        An end as soon as one step failed, was refused or cancelled, or all succeeded; otherwise what goes on.
    """
    for state, status in (
        (StepState.FAILED, RunStatus.FAILED),
        (StepState.REFUSED, RunStatus.REFUSED),
        (StepState.CANCELLED, RunStatus.CANCELLED),
    ):
        if state in states:
            return status
    if all(state in {StepState.SUCCEEDED, StepState.SKIPPED} for state in states):
        return RunStatus.SUCCEEDED
    if StepState.WAITING in states and not {StepState.READY, StepState.RUNNING} & set(states):
        return RunStatus.WAITING
    started = any(state not in {StepState.PENDING, StepState.READY} for state in states)
    return RunStatus.RUNNING if started else RunStatus.QUEUED
