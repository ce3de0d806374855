"""Looks for the rows of one entity in the Parquet files of training sets."""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

from collections.abc import Mapping, Sequence
from pathlib import Path

from clave_features.domain.sql import identifier, literal, text_list
from clave_features.runtime.engine import Engine, path_literal


def matching_rows(engine: Engine, files: Sequence[tuple[Path, Mapping[str, str | int]]]) -> list[int]:
    """Count, per file, the rows whose entity columns have the values asked for.

    Args:
        engine: Opens the session.
        files: Path and entity columns to look for, each value of its column's own type. Only these columns are read,
            and row groups whose statistics exclude them are skipped.

    Returns:
        One count per file, in the order given.
    """
    counts: list[int] = []
    with engine.session() as connection:
        for path, keys in files:
            wanted = text_list([f"{identifier(name)} = {_value(value)}" for name, value in keys.items()], " AND ")
            ((count,),) = connection.execute(
                f"SELECT count(*) FROM read_parquet({path_literal(path)}) WHERE {wanted}"
            ).fetchall()
            counts.append(int(count))
    return counts


def _value(value: str | int) -> str:
    return str(value) if isinstance(value, int) else literal(value)
