"""Queries on the signatures of versions."""

from collections.abc import Sequence
from datetime import datetime

from clave_common.database import Transaction
from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert

from clave_registry.storage.records import SignatureRow, VersionRow, records
from clave_registry.storage.tables import version_signatures


async def put(tx: Transaction, row: VersionRow, *, key_id: str, bundle: bytes, at: datetime, by: str) -> None:
    """Keep a signature, over an earlier one by the same key."""
    values = {"bundle": bundle, "at": at, "by": by}
    statement = insert(version_signatures).values(model_id=row.model_id, version=row.version, key_id=key_id, **values)
    keys = ["model_id", "version", "key_id"]
    await tx.session.execute(statement.on_conflict_do_update(index_elements=keys, set_=values))


async def of_versions(tx: Transaction, keys: Sequence[tuple[str, int]]) -> list[SignatureRow]:
    """List the signatures of some versions, oldest first."""
    if not keys:
        return []
    statement = (
        select(version_signatures)
        .where(tuple_(version_signatures.c.model_id, version_signatures.c.version).in_(list(keys)))
        .order_by(version_signatures.c.at, version_signatures.c.key_id)
    )
    return records(SignatureRow, (await tx.session.execute(statement)).mappings())
