"""The types a feature may have, and how each becomes the float that a model reads.

A model input is one float32 per feature: numbers as they are, a bool as 0 or 1, a category as the position of its
level in the declared list. An unknown level, like a missing value, is null, offline and online alike. Numbers pass
through float64 on their way to float32 in both places, so that both round the same way.
"""

from enum import StrEnum
from typing import Final

Value = float | int | str | bool | None

LEVELS_MAX: Final = 32_767


class Dtype(StrEnum):
    """Type of a key, feature or label."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    INT64 = "int64"
    BOOL = "bool"
    STRING = "string"
    CATEGORY = "category"
    TIMESTAMP = "timestamp"

    @property
    def is_numeric(self) -> bool:
        """Whether range and outlier rules make sense."""
        return self in _NUMERIC

    @property
    def is_model_input(self) -> bool:
        """Whether a model can read it as one float32."""
        return self in _NUMERIC or self in {Dtype.BOOL, Dtype.CATEGORY}


_NUMERIC: Final = frozenset({Dtype.FLOAT64, Dtype.FLOAT32, Dtype.INT64})
KEY_DTYPES: Final = frozenset({Dtype.INT64, Dtype.STRING})

SQL_TYPE: Final[dict[Dtype, str]] = {
    Dtype.FLOAT64: "DOUBLE",
    Dtype.FLOAT32: "FLOAT",
    Dtype.INT64: "BIGINT",
    Dtype.BOOL: "BOOLEAN",
    Dtype.STRING: "VARCHAR",
    Dtype.CATEGORY: "VARCHAR",
    Dtype.TIMESTAMP: "TIMESTAMPTZ",
}


def model_input(value: Value, dtype: Dtype, levels: tuple[str, ...]) -> float | None:
    """Encode one stored value as the number that a model reads.

    Args:
        value: As stored; of a category the level's text.
        dtype: Its declared type.
        levels: Of a category, its levels in order; else empty.

    Returns:
        The number, still to be rounded to float32, or None for null, an unknown level or a type no model reads.
    """
    if value is None or not dtype.is_model_input:
        return None
    if dtype is Dtype.CATEGORY:
        return float(levels.index(value)) if isinstance(value, str) and value in levels else None
    return float(value)
