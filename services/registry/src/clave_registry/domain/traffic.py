"""Which version answers which share of an endpoint's traffic.

The champion is the live version, the challenger the one being rolled out. A champion that was replaced is kept warm
for a while, so that going back is a change of routes and not a load.
"""

from dataclasses import dataclass
from enum import StrEnum

from clave_registry.domain.rollout import Phase, Plan, Rollout, current_step

_DECIMALS = 6


class Arm(StrEnum):
    """The role in which a version answers."""

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Route:
    """One version's share.

    Attributes:
        version: Number of the model version.
        arm: Its role.
        weight: Share of the answered traffic, 0 to 1; for a shadow the share of requests copied to it.
    """

    version: int
    arm: Arm
    weight: float

    @property
    def shadow(self) -> bool:
        """Whether its answers are thrown away."""
        return self.arm is Arm.SHADOW


def routes(live: int | None, challenger: int | None, rollout: Rollout | None, plan: Plan | None) -> tuple[Route, ...]:
    """Derive an endpoint's routes from its live version and its running rollout.

    Args:
        live: Version that answers, None before the first.
        challenger: Version being rolled out, None when nothing is.
        rollout: State of the rollout of the challenger.
        plan: Its plan.

    Returns:
        At most two routes; the weights of those that answer add up to 1. Empty while nothing is live.
    """
    if live is None:
        return ()
    alone = (Route(live, Arm.LIVE, 1.0),)
    if challenger is None or rollout is None or plan is None:
        return alone
    step = current_step(rollout, plan)
    if step is None:
        return alone
    if rollout.phase is Phase.SHADOW:
        return (*alone, Route(challenger, Arm.SHADOW, step.weight))
    return (
        Route(live, Arm.LIVE, round(1.0 - step.weight, _DECIMALS)),
        Route(challenger, Arm.CANARY, step.weight),
    )
