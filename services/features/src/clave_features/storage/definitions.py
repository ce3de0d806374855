"""Queries on definitions and their versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clave_common.database import Transaction
from sqlalchemy import func, insert, select, text, update

from clave_features.storage.tables import definitions, history_files, revisions


@dataclass(frozen=True, slots=True)
class DefinitionRow:
    """The current version of a definition."""

    kind: str
    name: str
    version: int
    digest: str
    document: dict[str, Any]


async def lock(tx: Transaction) -> None:
    """Let one apply at a time through, until the transaction ends."""
    await tx.session.execute(text("select pg_advisory_xact_lock(hashtext('features:apply'))"))


async def revision(tx: Transaction) -> int:
    """Return the newest revision, 0 before the first apply."""
    return int((await tx.session.execute(select(func.coalesce(func.max(revisions.c.revision), 0)))).scalar_one())


async def current(tx: Transaction) -> list[DefinitionRow]:
    """Return every current definition, by kind and name."""
    statement = (
        select(
            definitions.c.kind, definitions.c.name, definitions.c.version, definitions.c.digest, definitions.c.document
        )
        .where(definitions.c.current)
        .order_by(definitions.c.kind, definitions.c.name)
    )
    return [DefinitionRow(*row) for row in (await tx.session.execute(statement)).all()]


async def save(tx: Transaction, rows: Sequence[DefinitionRow], *, applied_by: str) -> int:
    """Make new versions current.

    Returns:
        The new revision.
    """
    statement = insert(revisions).values(applied_by=applied_by).returning(revisions.c.revision)
    number = int((await tx.session.execute(statement)).scalar_one())
    for row in rows:
        await tx.session.execute(
            update(definitions)
            .where(definitions.c.kind == row.kind, definitions.c.name == row.name, definitions.c.current)
            .values(current=False)
        )
        values = {"kind": row.kind, "name": row.name, "version": row.version, "digest": row.digest}
        await tx.session.execute(
            insert(definitions).values(**values, document=row.document, current=True, revision=number)
        )
    return number


async def views_with_history(tx: Transaction, names: Sequence[str]) -> set[str]:
    """Return those views that already keep rows."""
    statement = select(history_files.c.view).where(history_files.c.view.in_(list(names))).distinct()
    return set((await tx.session.execute(statement)).scalars())
