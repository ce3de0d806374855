"""Operations that are one statement each, run by `Database.run`: what MLflow's clients do all the time.

A change, its history, its audit entry and its event are written by the same statement, so they stand or fall together;
the lock on the model's row is held for as long as Postgres takes and not for as long as this process takes.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from clave_common.database import Database, Transaction
from clave_common.statements import TELLING, told
from clave_contracts.events import AuditEntry, Event

from clave_registry.storage.records import ShownVersion

NUMBER = secrets.token_hex(16)
"""Stands for a version's number in what is told of it, until the statement that takes the number writes it there.

It is random and never leaves the process, so no caller's text can hold it.
"""
_SHOWN = ", ".join(f"v.{name}" for name in ShownVersion.__dataclass_fields__)
_ID_OF = "select id from models where tenant = %(tenant)s and name = %(model)s and deleted_at is null"
_BY_ALIAS = f"""
select {_SHOWN}, array(
  select own.alias from aliases own where own.model_id = v.model_id and own.version = v.version order by own.alias
) as own_aliases
from models m
join aliases named on named.model_id = m.id and named.alias = %(alias)s
join versions v on v.model_id = named.model_id and v.version = named.version and v.deleted_at is null
where m.tenant = %(tenant)s and m.name = %(model)s and m.deleted_at is null
"""  # noqa: S608 - names of columns
_POINT_ALIAS = f"""
with model as (
  select id from models where tenant = %(tenant)s and name = %(model)s and deleted_at is null
), target as (
  select v.model_id, v.version from versions v join model on v.model_id = model.id
  where v.version = %(version)s and v.deleted_at is null for key share of v
), pointed as (
  insert into aliases (model_id, alias, version, at, by)
  select model_id, %(alias)s, version, %(at)s, %(by)s from target
  on conflict (model_id, alias) do update set version = excluded.version, at = excluded.at, by = excluded.by
  returning model_id, alias, version, at, by
), moved as (
  insert into alias_history (model_id, alias, version, at, by, reason)
  select model_id, alias, version, at, by, '' from pointed
), said as (
  insert into outbox (stream, id, body)
  select told.stream, told.id, convert_to(told.body, 'UTF8') from pointed, {TELLING}
)
select exists (select 1 from pointed) as pointed
"""  # noqa: S608 - constants
_JSON = ("media_types", "signature", "params", "lineage", "card", "tags", "contributors")
_GIVEN = (
    *("status", "status_reason", "manifest_digest", *_JSON, "description", "created_by", "created_at", "updated_at"),
    *("source", "artifact_root", "run_id", "run_link", "logged_model_id"),
)
_REGISTER = f"""
with taken as (
  update models set next_version = next_version + 1, updated_at = %(created_at)s
  where tenant = %(tenant)s and name = %(model)s and deleted_at is null
  returning id, next_version - 1 as number
), added as (
  insert into versions (model_id, version, {", ".join(_GIVEN)})
  select id, number, {", ".join(f"%({name})s" + ("::jsonb" if name in _JSON else "") for name in _GIVEN)} from taken
  returning model_id, version, created_at, created_by, source
), remembered as (
  insert into version_events (model_id, version, at, by, action, detail)
  select model_id, version, created_at, created_by, 'registered', source from added
), said as (
  insert into outbox (stream, id, body)
  select told.stream, told.id, convert_to(
    replace(replace(told.body, '"{NUMBER}"', added.version::text), '{NUMBER}', added.version::text), 'UTF8')
  from added, {TELLING}
)
select number from taken
"""  # noqa: S608 - constants


async def id_of(database: Database, tenant: str, model: str) -> str | None:
    """Look up a model's id by its name."""
    rows = await database.run(_ID_OF, {"tenant": tenant, "model": model})
    return str(rows[0]["id"]) if rows else None


async def by_alias(database: Database, *, tenant: str, model: str, alias: str) -> tuple[ShownVersion, list[str]] | None:
    """Find the version that an alias names, and all of its aliases; None when anything is missing."""
    rows = await database.run(_BY_ALIAS, {"tenant": tenant, "model": model, "alias": alias})
    if not rows:
        return None
    own = list(rows[0].pop("own_aliases"))
    return ShownVersion(**rows[0]), own


async def point_alias(
    database: Database,
    *,
    tenant: str,
    model: str,
    alias: str,
    version: int,
    at: datetime,
    by: str,
    said: Sequence[Event | AuditEntry],
) -> bool:
    """Let an alias name a version, remember the move and tell of it.

    A version that is being deleted is waited for, and then not found.

    Returns:
        Whether the alias names the version now; False where there is no such model or version.
    """
    facts = {"tenant": tenant, "model": model, "alias": alias, "version": version, "at": at, "by": by}
    (row,) = await database.run(_POINT_ALIAS, {**facts, **told("registry", said)}, tells=True)
    return bool(row["pointed"])


async def register(
    door: Database | Transaction,
    *,
    tenant: str,
    model: str,
    version: Mapping[str, Any],
    said: Sequence[Event | AuditEntry],
) -> int | None:
    """Add a version under its model's next number, with the beginning of its history, and tell of it.

    The lock on the model's row makes numbers distinct and, as a rollback gives the number back, free of gaps.

    Args:
        door: Where the statement runs: by itself, or in a transaction that did something before.
        tenant: Whose model it is.
        model: Its name.
        version: Columns of the version but its model and number.
        said: What is told, with `NUMBER` where the number will be.

    Returns:
        The number; None where there is no such model.
    """
    given = {name: orjson.dumps(version[name]).decode() if name in _JSON else version[name] for name in _GIVEN}
    facts = {"tenant": tenant, "model": model, **given, **told("registry", said)}
    if isinstance(door, Database):
        rows = await door.run(_REGISTER, facts, tells=True)
        return int(rows[0]["number"]) if rows else None
    number = (await door.session.exec_driver_sql(_REGISTER, facts)).scalar()
    door.has_told()
    return None if number is None else int(number)
