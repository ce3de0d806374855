"""MLflow's four legacy stages: labels that its clients still move, apart from the registry's own stages."""

from collections.abc import Sequence

from clave_common.errors import InvalidArgument

STAGES = ("None", "Staging", "Production", "Archived")
ARCHIVING = ("Staging", "Production")


def checked_stage(stage: str) -> str:
    """Give a stage in its proper spelling; any case is accepted.

    Raises:
        InvalidArgument: There is no such stage.
    """
    found = next((known for known in STAGES if known.lower() == stage.lower()), None)
    if found is None:
        raise InvalidArgument(
            f"Invalid Model Version stage: {stage[:50]}. Value must be one of {', '.join(STAGES)}.", field="stage"
        )
    return found


def checked_stages(stages: Sequence[str]) -> tuple[str, ...]:
    """Give stages in their proper spelling; all four when none is named."""
    return tuple(checked_stage(stage) for stage in stages) or STAGES
