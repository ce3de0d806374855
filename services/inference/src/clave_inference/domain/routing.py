"""Which version answers a request: weights, stickiness and shadows.

An endpoint sends live traffic to arms by weight. A request with a routing key always meets the same arm while the
weights stand, and when a canary's weight grows, keys only move *to* the canary, never between other arms: the key's
place on the unit interval is fixed, the arms are laid out with the canary first.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_SHARE_TOLERANCE: Final = 1e-6


class ArmRole(StrEnum):
    """What part a version plays on an endpoint."""

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Arm:
    """A version on an endpoint.

    Attributes:
        weight: Share of the endpoint's live traffic, 0 to 1; 0 for a shadow.
    """

    role: ArmRole
    model: str
    version: str
    weight: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"an arm's weight is a share between 0 and 1, not {self.weight}")


@dataclass(frozen=True, slots=True)
class Route:
    """Where an endpoint's traffic goes.

    Attributes:
        arms: Arms with live traffic; their weights add up to 1.
        shadows: Arms that see copies, and whose answers nobody gets.
        salt: Keeps stickiness of one endpoint independent of another's; the endpoint's name.
    """

    endpoint: str
    arms: tuple[Arm, ...]
    shadows: tuple[Arm, ...] = ()
    salt: str = field(default="")

    def __post_init__(self) -> None:
        if not self.arms:
            raise ValueError(f"endpoint '{self.endpoint}' has no arm with traffic")
        total = sum(arm.weight for arm in self.arms)
        if abs(total - 1.0) > _SHARE_TOLERANCE:
            raise ValueError(f"the weights of endpoint '{self.endpoint}' add up to {total}, not 1")


def place_of(key: str, salt: str) -> float:
    """Give a key's fixed place in [0, 1), stable over processes, machines and releases."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def ordered_arms(arms: list[Arm]) -> tuple[Arm, ...]:
    """Lay arms out for sticky routing: canaries first, the live arm last; arms without weight drop out."""
    rank = {ArmRole.CANARY: 0, ArmRole.LIVE: 1, ArmRole.SHADOW: 2}
    return tuple(sorted((arm for arm in arms if arm.weight > 0), key=lambda arm: (rank[arm.role], arm.version)))
