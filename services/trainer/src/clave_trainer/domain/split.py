"""Which rows train a model, which choose its settings, which judge it.

The split is a function of the entity key alone: a customer is in the same split in every training set, in
every run, for champion and challenger alike. Rows of one customer therefore never stand on both sides, and a
row that judged the champion never trained the challenger.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from clave_trainer.domain.arrays import Bools, Ints

_DIGEST_BYTES = 8
_UNIT = float(1 << (8 * _DIGEST_BYTES))


class Split(StrEnum):
    """The part of a training set that a row belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How entity keys are dealt.

    Attributes:
        salt: Names the deal; the same salt always deals the same way.
        validation: Share of entities that stop the training and choose the threshold, above 0.
        test: Share of entities that only judge, above 0.
    """

    salt: str
    validation: float
    test: float

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            msg = "validation and test are shares above 0 whose sum is below 1"
            raise ValueError(msg)


def position(key: str, salt: str) -> float:
    """Place an entity on the unit interval.

    Args:
        key: The entity's key; several key columns are joined by the caller.
        salt: Names the deal.

    Returns:
        A number in [0, 1), uniform over keys.
    """
    digest = hashlib.blake2b(f"{salt}\x1f{key}".encode(), digest_size=_DIGEST_BYTES).digest()
    return int.from_bytes(digest, "big") / _UNIT


@dataclass(frozen=True, slots=True)
class Deal:
    """Row masks of the three parts, each of shape (n_rows,)."""

    train: Bools
    validation: Bools
    test: Bools

    def rows(self) -> dict[str, int]:
        """Count the rows of each part."""
        return {
            Split.TRAIN: int(self.train.sum()),
            Split.VALIDATION: int(self.validation.sum()),
            Split.TEST: int(self.test.sum()),
        }


def deal(keys: Sequence[str], rule: SplitRule) -> Deal:
    """Deal rows by their entity.

    Args:
        keys: Entity key of each row, shape (n_rows,).
        rule: The shares and the salt.

    Returns:
        Three disjoint masks that cover every row.
    """
    places = {key: position(key, rule.salt) for key in set(keys)}
    at = np.array([places[key] for key in keys], dtype=np.float64)
    test = at < rule.test
    validation = ~test & (at < rule.test + rule.validation)
    return Deal(train=~test & ~validation, validation=validation, test=test)


def latest_of_each(keys: Sequence[str], at: Ints) -> Bools:
    """Keep one row per entity: the latest.

    A customer who was asked about ten times is still one observation; counting ten would make every
    interval below too narrow.

    Args:
        keys: Entity key of each row, shape (n_rows,).
        at: Time of each row, any monotone integer, shape (n_rows,).

    Returns:
        Mask of shape (n_rows,) with exactly one true row per key; of equal times the later row.
    """
    last: dict[str, int] = {}
    for row in np.argsort(at, kind="stable"):
        last[keys[int(row)]] = int(row)
    mask = np.zeros(len(keys), dtype=np.bool_)
    mask[list(last.values())] = True
    return mask
