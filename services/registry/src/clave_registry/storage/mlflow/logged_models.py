"""Queries on logged models and what was measured on them."""

from collections.abc import Sequence
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import BigInteger, RowMapping, and_, case, cast, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert

from clave_registry.storage.mlflow.search import (
    Asked,
    Binding,
    Expression,
    Term,
    compared,
    condition,
    mapped_page,
    terms_of,
)
from clave_registry.storage.mlflow.tables import logged_models, metrics
from clave_registry.storage.tables import models, versions


def binding(datasets: Sequence[tuple[str, str]]) -> Binding:
    """Say what search keys mean; `datasets` (name, digest or empty) narrow which metrics count."""
    narrowed = [
        and_(metrics.c.dataset_name == name, metrics.c.dataset_digest == digest)
        if digest
        else metrics.c.dataset_name == name
        for name, digest in datasets
    ]

    def of(key: str) -> Any:
        this = and_(metrics.c.model_id == logged_models.c.model_id, metrics.c.key == key)
        return and_(this, or_(*narrowed)) if narrowed else this

    def held(key: str, op: str, value: float) -> Any:
        return exists().where(of(key), metrics.c.is_nan.is_(False), compared(metrics.c.value, op, value))

    def terms(key: str) -> tuple[Expression, Expression]:
        newest = (metrics.c.timestamp.desc(), metrics.c.step.desc())
        is_nan = select(metrics.c.is_nan).where(of(key)).order_by(*newest).limit(1).scalar_subquery()
        value = select(metrics.c.value).where(of(key)).order_by(*newest).limit(1).scalar_subquery()
        return case((is_nan.is_(None), 2), (is_nan, 1), else_=0), func.coalesce(value, 0.0)

    return Binding(
        attributes={
            "name": logged_models.c.name,
            "model_id": logged_models.c.model_id,
            "model_type": logged_models.c.model_type,
            "status": func.replace(logged_models.c.status, "LOGGED_MODEL_", ""),
            "source_run_id": logged_models.c.source_run_id,
            "creation_timestamp": logged_models.c.creation_time,
            "creation_time": logged_models.c.creation_time,
            "last_updated_timestamp": logged_models.c.last_updated_time,
            "last_updated_time": logged_models.c.last_updated_time,
        },
        tags=logged_models.c.tags,
        params=logged_models.c.params,
        metric=held,
        metric_terms=terms,
    )


async def search(
    tx: Transaction, asked: Asked, *, experiment_ids: Sequence[int], datasets: Sequence[tuple[str, str]]
) -> tuple[list[RowMapping], str]:
    """Read a page of the logged models of some experiments, newest first after what was asked for."""
    meaning = binding(datasets)
    statement = select(logged_models).where(
        logged_models.c.tenant == asked.tenant,
        logged_models.c.lifecycle_stage == "active",
        logged_models.c.experiment_id.in_([cast(number, BigInteger) for number in experiment_ids]),
        *(condition(found, meaning) for found in asked.conditions),
    )
    newest = [Term(logged_models.c.creation_time, descending=True), Term(logged_models.c.model_id)]
    return await mapped_page(tx, statement, terms_of(asked.orders, meaning) + newest, asked)


async def add(tx: Transaction, values: dict[str, Any]) -> RowMapping:
    """Insert a logged model."""
    statement = insert(logged_models).values(**values).returning(*logged_models.c)
    return (await tx.session.execute(statement)).mappings().one()


async def find(tx: Transaction, tenant: str, model_id: str, *, lock: bool = False) -> RowMapping | None:
    """Find a logged model that is not deleted."""
    statement = select(logged_models).where(
        logged_models.c.model_id == model_id,
        logged_models.c.tenant == tenant,
        logged_models.c.lifecycle_stage == literal("active"),
    )
    if lock:
        statement = statement.with_for_update()
    return (await tx.session.execute(statement)).mappings().first()


async def change(tx: Transaction, model_id: str, **values: Any) -> RowMapping:
    """Update a logged model."""
    statement = (
        update(logged_models).where(logged_models.c.model_id == model_id).values(**values).returning(*logged_models.c)
    )
    return (await tx.session.execute(statement)).mappings().one()


async def metrics_of(tx: Transaction, model_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """Give the latest value of every metric and dataset of some logged models."""
    place = (metrics.c.model_id, metrics.c.key, metrics.c.dataset_name, metrics.c.dataset_digest)
    statement = (
        select(metrics)
        .ext(distinct_on(*place))
        .where(metrics.c.model_id.in_(list(model_ids)))
        .order_by(*place, metrics.c.step.desc(), metrics.c.timestamp.desc(), metrics.c.value.desc())
    )
    grouped: dict[str, list[RowMapping]] = {}
    for row in (await tx.session.execute(statement)).mappings():
        grouped.setdefault(row["model_id"], []).append(row)
    return grouped


async def registrations_of(tx: Transaction, model_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """List the versions that were registered from some logged models."""
    statement = (
        select(versions.c.logged_model_id, models.c.name, versions.c.version)
        .join(models, models.c.id == versions.c.model_id)
        .where(versions.c.logged_model_id.in_(list(model_ids)), versions.c.deleted_at.is_(None))
        .order_by(models.c.name, versions.c.version)
    )
    grouped: dict[str, list[RowMapping]] = {}
    for row in (await tx.session.execute(statement)).mappings():
        grouped.setdefault(row["logged_model_id"], []).append(row)
    return grouped
