"""Online reads: the newest values of some entities, as a point-in-time join at this moment would give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from clave_common.clock import Clock

from clave_features.domain.definitions import FeatureRef
from clave_features.domain.dtypes import Dtype, Value
from clave_features.domain.entity_keys import read_keys
from clave_features.domain.on_demand import computed
from clave_features.domain.online_values import OnlineColumns
from clave_features.domain.point_in_time import Status
from clave_features.domain.read_plan import ViewRead
from clave_features.domain.times import to_us
from clave_features.runtime.online_store import OnlineStore
from clave_features.services.catalogue import Catalogues

_NOT_FOUND, _OUTSIDE_MAX_AGE, _PRESENT = range(3)
_STATUSES: Final = (Status.NOT_FOUND, Status.OUTSIDE_MAX_AGE, Status.PRESENT)


@dataclass(frozen=True, slots=True)
class Found:
    """What the online store holds of one view for the entities asked for.

    Attributes:
        blobs: Packed rows; None where there is none.
        columns: The same, column by column.
        codes: Index into the statuses, shape (entities,).
    """

    read: ViewRead
    blobs: list[bytes | None]
    columns: OnlineColumns
    codes: npt.NDArray[np.int64]

    @property
    def statuses(self) -> list[Status]:
        """One status per entity."""
        return [_STATUSES[code] for code in self.codes.tolist()]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Whether the values may be used, shape (entities,)."""
        there: npt.NDArray[np.bool_] = self.codes == _PRESENT
        return there

    def event_times_us(self) -> list[int | None]:
        """Event time of each present row, microseconds since 1970."""
        times = self.columns.event_ts_us.tolist()
        return [at if there else None for at, there in zip(times, self.present.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class ModelRows:
    """What a model reads.

    Attributes:
        values: float32, shape (entities, features); NaN where missing.
        found: Per view, in the order of the service.
    """

    columns: tuple[str, ...]
    values: npt.NDArray[np.float32]
    found: list[Found]


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One feature of all entities, with its stored values (a category's text)."""

    ref: FeatureRef
    values: list[Value]
    statuses: list[Status]
    event_times_us: list[int | None]


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
        plan = self._catalogues.current.plan(service_name)
        found = await self._find(plan.views, entities)
        count = len(found[0].blobs)
        values = np.empty((count, len(plan.columns)), dtype=np.float64)
        for one in found:
            for position, at in one.read.stored:
                values[:, at] = one.columns.numbers(position)
            for at, column in one.read.compute(one.columns, count):
                values[:, at] = column
            if not one.present.all():
                _forget(values, one)
        with np.errstate(over="ignore"):
            return ModelRows(plan.columns, values.astype(np.float32), found)

    async def read_raw(self, refs: Sequence[FeatureRef], entities: Mapping[str, Sequence[Any]]) -> list[RawColumn]:
        """Read features with their stored values, column by column, in the order asked.

        Raises:
            ViewNotFound, FeatureNotFound: A name is not known.
            EntityKeysInvalid: Keys are missing, unknown, ragged, of another type or too many.
            OnlineStoreAway: The online store does not answer.
        """
        current = self._catalogues.current
        for ref in refs:
            current.repository.feature(ref)
        reads = [current.view_read(name) for name in dict.fromkeys(ref.view for ref in refs)]
        found = {one.read.view.name: one for one in await self._find(reads, entities)}
        return [_raw_column(found[ref.view], ref) for ref in refs]

    async def _find(self, reads: Sequence[ViewRead], entities: Mapping[str, Sequence[Any]]) -> list[Found]:
        """Read the rows of several views in one round trip."""
        keys = read_keys([read.entity for read in reads], entities, rows_max=self._rows_max)
        wanted = [
            self._store.key(read.view.name, key) for read in reads for key in keys[read.entity.name] if key is not None
        ]
        blobs = iter(await self._store.read(wanted) if wanted else [])
        now_us = to_us(self._clock.now())
        return [
            _found(read, [None if key is None else next(blobs) for key in keys[read.entity.name]], now_us)
            for read in reads
        ]


def _found(read: ViewRead, blobs: list[bytes | None], now_us: int) -> Found:
    columns = read.schema.decode_columns(blobs)
    times = columns.event_ts_us
    codes = np.where(columns.valid & (times <= now_us), _PRESENT, _NOT_FOUND)
    if read.view.ttl_us:
        codes[(codes == _PRESENT) & (times < now_us - read.view.ttl_us)] = _OUTSIDE_MAX_AGE
    return Found(read, blobs, columns, codes)


def _forget(values: npt.NDArray[np.float64], found: Found) -> None:
    absent = ~found.present
    for at in [at for _, at in found.read.stored] + [at for _, at in found.read.on_demand]:
        values[absent, at] = np.nan


def _raw_column(found: Found, ref: FeatureRef) -> RawColumn:
    values = _raw_values(found, ref.feature)
    statuses = [
        Status.NULL_VALUE if status is Status.PRESENT and value is None else status
        for status, value in zip(found.statuses, values, strict=True)
    ]
    return RawColumn(ref, values, statuses, found.event_times_us())


def _raw_values(found: Found, name: str) -> list[Value]:
    view, present = found.read.view, found.present.tolist()
    stored = [one.name for one in view.stored]
    one = view.feature(name)
    if one.expression is not None:
        inputs = {need: found.columns.numbers(stored.index(need)) for need in view.inputs_of((name,))}
        numbers = computed(view, [name], inputs, len(present))[name].tolist()
        # A null is NaN in an expression; it comes out as null again.
        return [value if there and value == value else None for value, there in zip(numbers, present, strict=True)]  # noqa: PLR0124
    at = stored.index(name)
    values = [_value(found, blob, at) if there else None for blob, there in zip(found.blobs, present, strict=True)]
    if one.dtype is Dtype.CATEGORY:
        return [one.levels[value] if isinstance(value, int) else None for value in values]
    return values


def _value(found: Found, blob: bytes | None, at: int) -> Value:
    row = None if blob is None else found.read.schema.decode(blob)
    return None if row is None else row.values[at]
