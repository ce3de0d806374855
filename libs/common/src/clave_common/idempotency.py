"""`Idempotency-Key`: the same key and body give the same answer, however often they are sent.

An answer that shows a secret once is kept without it: whoever repeats that call is told what was made, and the secret
lies nowhere.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson
from sqlalchemy import text
from starlette.requests import Request
from starlette.responses import Response

from clave_common.database import Database
from clave_common.errors import Aborted, FailedPrecondition, InvalidArgument, Unavailable

RUNNING_S_MAX = 600.0
_KEY_CHARACTERS_MAX = 200
_ATTEMPTS = 12
_insisting: set[asyncio.Task[None]] = set()


class OutcomeUnknown(FailedPrecondition):
    """A call ended, with its process, before its answer was kept."""

    code = "outcome_unknown"


class SecretShownOnce(FailedPrecondition):
    """A repeated call whose first answer showed a secret, which was kept nowhere."""

    code = "secret_shown_once"


async def answer_once(
    database: Database,
    request: Request,
    *,
    principal: str,
    answer: Callable[[], Awaitable[Response]],
    repeat: Callable[[], Awaitable[object]] | None = None,
    shown_once: str | None = None,
) -> Response:
    """Run a creating operation once per key.

    Without an ``Idempotency-Key`` header the operation simply runs. An operation that raises leaves no trace, so
    the same key may be tried again; where the database is away at that moment, the trace goes as soon as it is back.
    A first call whose process died is never repeated blindly: after `RUNNING_S_MAX` its caller is told to look.

    Args:
        database: Keeps the answers, for a day.
        request: Carries key and body.
        principal: Whose key it is.
        answer: Does it.
        repeat: Decides whether the caller may be told the earlier answer; needed where `answer` itself decides.
        shown_once: Member of the answer, a JSON object, that is shown once and never kept.

    Raises:
        InvalidArgument: The key was used with another body, or is too long.
        Aborted: The first call with this key is still running.
        OutcomeUnknown: The first call ended without an answer that was kept.
        SecretShownOnce: The first call was answered, with a secret.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return await answer()
    if not 1 <= len(key) <= _KEY_CHARACTERS_MAX:
        raise InvalidArgument(f"Idempotency-Key has 1 to {_KEY_CHARACTERS_MAX} characters.", field="Idempotency-Key")
    full_key = f"{principal}:{request.method}:{request.url.path}:{key}"
    fingerprint = hashlib.sha256(await request.body()).hexdigest()
    earlier = await _reserve(database, full_key, fingerprint)
    if earlier is not None:
        if shown_once is not None:
            raise _told_before(earlier)
        if repeat is not None:
            await repeat()
        return earlier
    try:
        response = await answer()
    except BaseException:
        await _soon(lambda: _forget(database, full_key))
        raise
    body = bytes(response.body) if shown_once is None else _without(bytes(response.body), shown_once)
    await _soon(lambda: _keep(database, full_key, response.status_code, body))
    return response


def _without(body: bytes, shown_once: str) -> bytes:
    document = orjson.loads(body)
    return orjson.dumps({name: value for name, value in document.items() if name != shown_once})


def _told_before(earlier: Response) -> SecretShownOnce:
    made = orjson.loads(bytes(earlier.body))
    return SecretShownOnce(
        f"The first call with this Idempotency-Key made {made.get('id')}; its secret was in that answer and is kept "
        "nowhere. Remove what it made and make another with a new key.",
        id=made.get("id"),
    )


async def _soon(write: Callable[[], Awaitable[None]]) -> None:
    """Write now, or in the background as soon as the database is back: the answer to the caller stands already."""
    try:
        await write()
    except Unavailable:
        task = asyncio.create_task(_insist(write))
        _insisting.add(task)
        task.add_done_callback(_insisting.discard)


async def _insist(write: Callable[[], Awaitable[None]]) -> None:
    for attempt in range(_ATTEMPTS):
        await asyncio.sleep(min(0.1 * 2**attempt, 5.0))
        with suppress(Unavailable):
            await write()
            return


async def _reserve(database: Database, key: str, fingerprint: str) -> Response | None:
    table = f"{database.metadata.schema}.idempotency_keys"
    async with database.transaction() as tx:
        await tx.session.execute(
            text(f"delete from {table} where created_at < now() - interval '1 day'")  # noqa: S608 - own table
        )
        new = await tx.session.execute(
            text(
                f"insert into {table} (key, fingerprint) values (:k, :f) "  # noqa: S608 - own table
                "on conflict do nothing returning 1"
            ),
            {"k": key, "f": fingerprint},
        )
        if new.first() is not None:
            return None
        row = (
            await tx.session.execute(
                text(
                    f"select fingerprint, status, body, now() - created_at as age from {table} where key = :k"  # noqa: S608 - own table
                ),
                {"k": key},
            )
        ).one()
    if row.fingerprint != fingerprint:
        raise InvalidArgument(
            "This Idempotency-Key came before with another body; use a new key.", field="Idempotency-Key"
        )
    if row.status is None and row.age.total_seconds() > RUNNING_S_MAX:
        raise OutcomeUnknown(
            "The first call with this Idempotency-Key ended without an answer being kept. Look whether it was done, "
            "and use a new key."
        )
    if row.status is None:
        raise Aborted("The first call with this Idempotency-Key is still running.", retry_after_s=1.0)
    return Response(
        bytes(row.body),
        status_code=row.status,
        media_type="application/json",
        headers={"Idempotent-Replay": "true"},
    )


async def _keep(database: Database, key: str, status: int, body: bytes) -> None:
    table = f"{database.metadata.schema}.idempotency_keys"
    async with database.transaction() as tx:
        await tx.session.execute(
            text(f"update {table} set status = :s, body = :b where key = :k"),  # noqa: S608 - own table
            {"s": status, "b": body, "k": key},
        )


async def _forget(database: Database, key: str) -> None:
    table = f"{database.metadata.schema}.idempotency_keys"
    async with database.transaction() as tx:
        await tx.session.execute(text(f"delete from {table} where key = :k"), {"k": key})  # noqa: S608 - own table
