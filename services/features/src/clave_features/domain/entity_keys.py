"""Reads the entity keys of a request: the right columns, of equal lengths, of the declared types."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clave_features.domain.definitions import Entity
from clave_features.domain.dtypes import Dtype
from clave_features.domain.errors import EntityKeysInvalid
from clave_features.domain.online_values import entity_key

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_INT64_MAX: Final = 2**63 - 1


def read_keys(
    entities: Sequence[Entity], columns: Mapping[str, Sequence[Any]], *, rows_max: int
) -> dict[str, list[bytes | None]]:
    """Pack the keys of each entity, row by row.

    Args:
        entities: The entities that the views asked for describe.
        columns: Key column name to values.
        rows_max: Most rows in one read.

    Returns:
        Entity name to one packed key per row; None where a part is null, which matches nothing.

    Raises:
        EntityKeysInvalid: A column is missing, unknown, ragged, empty, too long or of another type.
    """
    distinct = {entity.name: entity for entity in entities}
    wanted = {name for entity in distinct.values() for name in entity.key_names}
    missing, unknown = sorted(wanted - set(columns)), sorted(set(columns) - wanted)
    if missing or unknown:
        raise EntityKeysInvalid(
            f"These features are keyed by {sorted(wanted)}; missing: {missing}, unknown: {unknown}.",
            missing=missing,
            unknown=unknown,
        )
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or not 1 <= min(lengths) <= rows_max:
        raise EntityKeysInvalid(
            f"Key columns need equal lengths between 1 and {rows_max}, not {sorted(lengths)}.", limit=rows_max
        )
    read = {
        name: [_part(value, dtype, name) for value in columns[name]]
        for entity in distinct.values()
        for name, dtype in entity.keys
    }
    return {name: _packed([read[key] for key in entity.key_names]) for name, entity in distinct.items()}


def _packed(columns: Sequence[Sequence[int | str | None]]) -> list[bytes | None]:
    keys: list[bytes | None] = []
    for row in zip(*columns, strict=True):
        parts = [part for part in row if part is not None]
        keys.append(entity_key(parts) if len(parts) == len(row) else None)
    return keys


def _part(value: Any, dtype: Dtype, name: str) -> int | str | None:
    if value is None:
        return None
    if dtype is Dtype.STRING and isinstance(value, str):
        return value
    if dtype is Dtype.INT64:
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            value = int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and -_INT64_MAX - 1 <= value <= _INT64_MAX:
            return value
    raise EntityKeysInvalid(f"{value!r} is no {dtype} for the key '{name}'.", key=name)
