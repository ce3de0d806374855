"""Online reads: the newest values of some entities, as a point-in-time join at this moment would give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from clave_common.clock import Clock

from clave_features.domain.definitions import Entity, FeatureRef, View
from clave_features.domain.dtypes import Dtype, Value
from clave_features.domain.entity_keys import read_keys
from clave_features.domain.on_demand import computed
from clave_features.domain.online_values import OnlineRow, OnlineSchema
from clave_features.domain.point_in_time import Status
from clave_features.domain.times import from_us, to_us
from clave_features.runtime.online_store import OnlineStore
from clave_features.services.catalogue import Catalogues

_SCHEMAS_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Found:
    """What the online store holds of one view for the entities asked for.

    Attributes:
        statuses: One per entity.
        rows: The row where PRESENT, else None.
    """

    view: View
    statuses: list[Status]
    rows: list[OnlineRow | None]

    def event_times(self) -> list[datetime | None]:
        """Event time of each present row."""
        return [None if row is None else from_us(row.event_ts_us) for row in self.rows]


@dataclass(frozen=True, slots=True)
class ModelRows:
    """What a model reads.

    Attributes:
        values: float32, shape (entities, features); NaN where missing.
        found: Per view, in the order of the service.
    """

    columns: list[str]
    values: npt.NDArray[np.float32]
    found: list[Found]


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One feature of all entities, with its stored values (a category's text)."""

    ref: FeatureRef
    values: list[Value]
    statuses: list[Status]
    event_times: list[datetime | None]


@lru_cache(maxsize=_SCHEMAS_MAX)
def _schema(view: View) -> OnlineSchema:
    return OnlineSchema.of(view)


class OnlineReads:
    """Reads latest values."""

    def __init__(self, *, catalogues: Catalogues, store: OnlineStore, clock: Clock, rows_max: int) -> None:
        self._catalogues = catalogues
        self._store = store
        self._clock = clock
        self._rows_max = rows_max

    async def read(self, service_name: str, entities: Mapping[str, Sequence[Any]]) -> ModelRows:
        """Read the features of a service as a model's float32 inputs.

        Args:
            service_name: Which features, in which order.
            entities: Key columns of every entity that the service's views describe, of equal lengths.

        Raises:
            ServiceNotFound: There is no such feature service.
            EntityKeysInvalid: Keys are missing, unknown, ragged, of another type or too many.
            OnlineStoreAway: The online store does not answer.
        """
        service = self._catalogues.current.repository.service(service_name)
        found = await self.find(service.views, entities)
        by_view = {one.view.name: one for one in found}
        count = len(found[0].rows)
        values = np.full((count, len(service.features)), np.nan, dtype=np.float64)
        for view in service.views:
            wanted = [(at, ref.feature) for at, ref in enumerate(service.features) if ref.view == view]
            columns = _model_columns(by_view[view], [name for _, name in wanted])
            for at, name in wanted:
                values[:, at] = columns[name]
        with np.errstate(over="ignore"):
            return ModelRows([ref.column for ref in service.features], values.astype(np.float32), found)

    async def find(self, views: Sequence[str], entities: Mapping[str, Sequence[Any]]) -> list[Found]:
        """Read whole rows of views, in one round trip."""
        repository = self._catalogues.current.repository
        sides: list[tuple[View, Entity]] = []
        for name in views:
            view = repository.view(name)
            sides.append((view, repository.entity(view.entity)))
        keys = read_keys([entity for _, entity in sides], entities, rows_max=self._rows_max)
        wanted = [
            self._store.key(view.name, key) for view, entity in sides for key in keys[entity.name] if key is not None
        ]
        blobs = iter(await self._store.read(wanted) if wanted else [])
        now_us = to_us(self._clock.now())
        return [
            _found(view, [None if key is None else next(blobs) for key in keys[entity.name]], now_us)
            for view, entity in sides
        ]

    async def read_raw(self, refs: Sequence[FeatureRef], entities: Mapping[str, Sequence[Any]]) -> list[RawColumn]:
        """Read features with their stored values, column by column, in the order asked."""
        repository = self._catalogues.current.repository
        for ref in refs:
            repository.feature(ref)
        found = {one.view.name: one for one in await self.find(list(dict.fromkeys(r.view for r in refs)), entities)}
        answer = []
        for ref in refs:
            one = found[ref.view]
            values = _raw_column(one, ref.feature)
            statuses = [
                Status.NULL_VALUE if status is Status.PRESENT and value is None else status
                for status, value in zip(one.statuses, values, strict=True)
            ]
            answer.append(RawColumn(ref, values, statuses, one.event_times()))
        return answer


def _found(view: View, blobs: Sequence[bytes | None], now_us: int) -> Found:
    schema = _schema(view)
    oldest = now_us - view.ttl_us if view.ttl_us else None
    statuses: list[Status] = []
    rows: list[OnlineRow | None] = []
    for blob in blobs:
        row = None if blob is None else schema.decode(blob)
        if row is None or row.event_ts_us > now_us:
            statuses.append(Status.NOT_FOUND)
            rows.append(None)
        elif oldest is not None and row.event_ts_us < oldest:
            statuses.append(Status.OUTSIDE_MAX_AGE)
            rows.append(None)
        else:
            statuses.append(Status.PRESENT)
            rows.append(row)
    return Found(view, statuses, rows)


def _model_columns(found: Found, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    view = found.view
    positions = {one.name: at for at, one in enumerate(view.stored)}
    columns = {}
    for name in view.inputs_of(tuple(names)):
        at = positions[name]
        numbers = [
            np.nan if row is None or row.values[at] is None else float(row.values[at])  # type: ignore[arg-type]  # codes, bools and numbers only
            for row in found.rows
        ]
        columns[name] = np.array(numbers, dtype=np.float64)
    on_demand = [name for name in names if name not in positions]
    return {**columns, **computed(view, on_demand, columns, len(found.rows))}


def _raw_column(found: Found, name: str) -> list[Value]:
    one = found.view.feature(name)
    if one.expression is not None:
        numbers = _model_columns(found, [name])[name]
        return [None if np.isnan(number) else float(number) for number in numbers]
    at = [stored.name for stored in found.view.stored].index(name)
    values: list[Value] = [None if row is None else row.values[at] for row in found.rows]
    if one.dtype is Dtype.CATEGORY:
        return [one.levels[value] if isinstance(value, int) else None for value in values]
    return values
