"""How names and literals enter SQL text: quoted, always."""

import math

from clave_features.domain.dtypes import Value


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Value) -> str:
    """Write a value as a literal.

    Raises:
        ValueError: A number that is not finite has no literal.
    """
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no literal")
        return f"CAST({value!r} AS DOUBLE)"
    return "'" + value.replace("'", "''") + "'"


def text_list(names: list[str], separator: str = ", ") -> str:
    """Join pieces of SQL."""
    return separator.join(names)
