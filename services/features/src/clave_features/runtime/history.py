"""A view's history as DuckDB sees it: Parquet files from the blob store, brought to today's definition.

A file keeps the columns of its day. A feature added later is null in older files; a feature whose type changed is
cast, and null where it cannot be.
"""
# ruff: noqa: S608 - SQL is this module's product; names and literals are quoted by `domain.sql`.

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from clave_common.blobstore import BlobStore, LocalBlobStore

from clave_features.domain.definitions import Entity, Feature, View
from clave_features.domain.dtypes import SQL_TYPE, Dtype, Value
from clave_features.domain.online_values import OnlineRow, OnlineSchema, entity_key
from clave_features.domain.point_in_time import latest_rows_sql
from clave_features.domain.sql import identifier, literal, text_list
from clave_features.runtime.engine import Engine, path_literal

if TYPE_CHECKING:
    import duckdb

_ROWS_PER_BATCH: Final = 10_000


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """A local copy of one file and the columns it has."""

    path: Path
    columns: tuple[str, ...]


class HistoryFiles:
    """Gives local paths of history files; a remote store's are kept in a cache folder by their digest."""

    def __init__(self, blobs: BlobStore, cache: Path) -> None:
        self._blobs = blobs
        self._cache = cache

    async def local(self, digest: str, columns: Sequence[str]) -> HistoryFile:
        """Give a file, fetching it if need be."""
        if isinstance(self._blobs, LocalBlobStore):
            return HistoryFile(self._blobs.path(digest), tuple(columns))
        path = self._cache / digest
        if not await asyncio.to_thread(path.exists):
            await asyncio.to_thread(self._cache.mkdir, parents=True, exist_ok=True)
            partial = self._cache / f"partial-{uuid4().hex}"
            with partial.open("xb") as file:
                async for chunk in self._blobs.read(digest):
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(os.replace, partial, path)
        return HistoryFile(path, tuple(columns))


def history_relation(view: View, entity: Entity, files: Sequence[HistoryFile], features: Sequence[str]) -> str:
    """Write a sub-select with the keys, `event_ts`, `created_ts`, `seq` and some stored features of a view."""
    known = {column for file in files for column in file.columns}
    selected = [f"CAST({identifier(name)} AS {SQL_TYPE[dtype]}) AS {identifier(name)}" for name, dtype in entity.keys]
    selected += ["event_ts", "created_ts", "seq"]
    for name in features:
        kind = SQL_TYPE[view.feature(name).dtype]
        source = identifier(name) if name in known else "NULL"
        selected.append(f"TRY_CAST({source} AS {kind}) AS {identifier(name)}")
    if not files:
        columns = [*(f"CAST(NULL AS {SQL_TYPE[dtype]}) AS {identifier(name)}" for name, dtype in entity.keys)]
        columns += ["CAST(NULL AS TIMESTAMPTZ) AS event_ts", "CAST(NULL AS TIMESTAMPTZ) AS created_ts"]
        columns += ["CAST(NULL AS BIGINT) AS seq"]
        columns += [f"CAST(NULL AS {SQL_TYPE[view.feature(name).dtype]}) AS {identifier(name)}" for name in features]
        return f"(SELECT {text_list(columns)} WHERE FALSE)"
    paths = text_list([path_literal(file.path) for file in files])
    return f"(SELECT {text_list(selected)} FROM read_parquet([{paths}], union_by_name = true))"


def model_input_sql(one: Feature, value: str) -> str:
    """Write a stored value as the double that a model input is rounded from (`domain.dtypes.model_input`)."""
    if one.dtype is Dtype.CATEGORY:
        levels = text_list([literal(level) for level in one.levels])
        return f"CAST(list_position([{levels}], {value}) - 1 AS DOUBLE)"
    if one.dtype is Dtype.BOOL:
        return f"CAST(CAST({value} AS INTEGER) AS DOUBLE)"
    return f"CAST({value} AS DOUBLE)"


def _online_sql(one: Feature) -> str:
    name = identifier(one.name)
    if one.dtype is Dtype.CATEGORY:
        levels = text_list([literal(level) for level in one.levels])
        return f"list_position([{levels}], {name}) - 1 AS {name}"
    if one.dtype is Dtype.TIMESTAMP:
        return f"epoch_us({name}) AS {name}"
    return name


def latest_rows(
    engine: Engine, view: View, entity: Entity, files: Sequence[HistoryFile]
) -> Iterator[list[tuple[bytes, bytes]]]:
    """Read each entity's newest row, packed for the online store.

    Yields:
        Batches of (entity key, packed row).
    """
    schema = OnlineSchema.of(view)
    names = [one.name for one in view.stored]
    relation = history_relation(view, entity, files, names)
    inner = latest_rows_sql(relation, entity.key_names, names)
    shown = [identifier(name) for name in entity.key_names]
    shown += ["epoch_us(event_ts)", "epoch_us(created_ts)", "seq", *(_online_sql(one) for one in view.stored)]
    with engine.session() as connection:
        reader = _reader(connection, f"SELECT {text_list(shown)} FROM ({inner})")
        width = len(entity.keys)
        while rows := reader.fetchmany(_ROWS_PER_BATCH):
            yield [_packed(row, width, schema) for row in rows]


def _reader(connection: "duckdb.DuckDBPyConnection", sql: str) -> "duckdb.DuckDBPyConnection":
    return connection.execute(sql)


def _packed(row: tuple[Value, ...], width: int, schema: OnlineSchema) -> tuple[bytes, bytes]:
    keys = [part for part in row[:width] if isinstance(part, int | str)]
    event, created, seq = row[width : width + 3]
    if not isinstance(event, int) or not isinstance(seq, int) or not (created is None or isinstance(created, int)):
        raise TypeError("history times are microseconds")
    return entity_key(keys), schema.encode(OnlineRow(event, created, seq, tuple(row[width + 3 :])))
