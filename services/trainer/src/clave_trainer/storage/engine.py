"""The statements that move steps: each is guarded by the state it expects and, for a holder, by its token.

A holder is fenced: once another worker took its step, or the run was cancelled, every write of it touches no row.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import orjson
from sqlalchemy import CursorResult, text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class Held:
    """A step that a worker holds by a token until its lease ends."""

    run_id: str
    name: str
    token: str
    attempt: int
    attempts_max: int
    timeout_s: float

    def key(self) -> dict[str, Any]:
        """Name the row in a guarded statement."""
        return {"run": self.run_id, "name": self.name, "token": self.token}


_CLAIM = text("""
update trainer.steps set state = 'running', attempt = attempt + case when resumed then 0 else 1 end,
       resumed = false, token = :token, lease_until = now() + make_interval(secs => :lease),
       started_at = coalesce(started_at, now()), wake_at = null
where (run_id, name) = (
  select s.run_id, s.name from trainer.steps s join trainer.runs r on r.id = s.run_id
  where s.state = 'ready' and s.resource_class = :class and s.ready_at <= now()
  order by r.created_at, s.position limit 1 for update of s skip locked)
returning run_id, name, token, attempt, attempts_max, timeout_s
""")
_RENEW = text("""
update trainer.steps set lease_until = now() + make_interval(secs => :lease),
       progress = coalesce(:progress, progress), message = coalesce(:message, message)
where run_id = :run and name = :name and token = :token and state = 'running'
""")
_SETTLE = text("""
update trainer.steps set state = :state, token = null, lease_until = null, message = :message,
       progress = case when :state = 'succeeded' then 1 else progress end,
       output = case when :output = '' then output else cast(:output as jsonb) end,
       wake_at = case when :state = 'waiting' then now() + make_interval(secs => :delay) end,
       ready_at = case when :state = 'ready' then now() + make_interval(secs => :delay) else ready_at end,
       rung_at = null, resumed = (:state = 'waiting'),
       finished_at = case when :state in ('waiting', 'ready') then null else now() end
where run_id = :run and name = :name and token = :token and state = 'running'
""")
_READY = text("""
update trainer.steps s set state = 'ready', ready_at = now(), rung_at = null
where s.run_id = :run and s.state = 'pending' and not exists (
  select 1 from trainer.steps d
  where d.run_id = s.run_id and d.name = any(s.deps) and d.state not in ('succeeded', 'skipped'))
""")
_REAP = text("""
update trainer.steps s set
       state = case when attempt < attempts_max then 'ready' else 'failed' end,
       message = case when attempt < attempts_max then 'the worker was lost; the step starts again'
                      else 'the worker was lost at every attempt' end,
       token = null, lease_until = null, ready_at = now(), rung_at = null,
       finished_at = case when attempt < attempts_max then null else now() end
from (select run_id, name, token from trainer.steps
      where state = 'running' and lease_until < now() for update skip locked) lost
where s.run_id = lost.run_id and s.name = lost.name
returning s.run_id, s.name, s.state, lost.token
""")
_WAKE = text("""
update trainer.steps set state = 'ready', ready_at = now(), rung_at = null
where state = 'waiting' and wake_at <= now()
""")
_UNRUNG = text("""
select run_id, name, resource_class from trainer.steps
where state = 'ready' and ready_at <= now() and rung_at is null
order by ready_at limit :n for update skip locked
""")
_RUNG = text("update trainer.steps set rung_at = now() where run_id = :run and name = :name and state = 'ready'")
_STALE = text("""
update trainer.steps set rung_at = null
where state = 'ready' and ready_at <= now() and rung_at < now() - make_interval(secs => :age)
""")
_STOP = text("""
update trainer.steps set state = :state, token = null, lease_until = null, finished_at = now(), message = :message
where run_id = :run and state in ('pending', 'ready', 'waiting', 'running')
""")
_START_ATTEMPT = text("""
insert into trainer.attempts (run_id, step, number, worker, token)
values (:run, :name, :number, :worker, :token)
""")
_END_ATTEMPT = text("""
update trainer.attempts set finished_at = now(), outcome = :outcome, error = :error
where token = :token and finished_at is null
""")


async def _changed(session: AsyncConnection, statement: Any, values: dict[str, Any]) -> int:
    result = cast("CursorResult[Any]", await session.execute(statement, values))
    return int(result.rowcount)


async def lock_run(session: AsyncConnection, run_id: str) -> None:
    """Serialise a run's fan-in: two last parents must not each see the other unfinished."""
    await session.execute(text("select 1 from trainer.runs where id = :run for update"), {"run": run_id})


async def claim(
    session: AsyncConnection, *, token: str, resource_class: str, lease_s: float, worker: str
) -> Held | None:
    """Take the oldest ready step of a class, older runs first; None when there is none."""
    values = {"token": token, "class": resource_class, "lease": lease_s}
    row = (await session.execute(_CLAIM, values)).first()
    if row is None:
        return None
    held = Held(row.run_id, row.name, row.token, row.attempt, row.attempts_max, row.timeout_s)
    await session.execute(
        _START_ATTEMPT,
        {"run": held.run_id, "name": held.name, "number": held.attempt, "worker": worker, "token": token},
    )
    return held


async def renew(
    session: AsyncConnection, held: Held, *, lease_s: float, progress: float | None, message: str | None
) -> bool:
    """Extend the lease; False when the step is no longer the holder's."""
    values = {**held.key(), "lease": lease_s, "progress": progress, "message": message}
    return await _changed(session, _RENEW, values) == 1


async def settle(
    session: AsyncConnection,
    held: Held,
    *,
    state: str,
    message: str,
    output: dict[str, Any] | None = None,
    delay_s: float = 0.0,
) -> bool:
    """Let go of a step in a new state; False (and nothing written) when it is no longer the holder's."""
    values = {
        **held.key(),
        "state": state,
        "message": message,
        "output": orjson.dumps(output).decode() if output is not None else "",
        "delay": delay_s,
    }
    return await _changed(session, _SETTLE, values) == 1


async def end_attempt(session: AsyncConnection, token: str, *, outcome: str, error: str | None = None) -> None:
    """Close the journal entry of an attempt."""
    await session.execute(_END_ATTEMPT, {"token": token, "outcome": outcome, "error": error})


async def make_ready(session: AsyncConnection, run_id: str) -> None:
    """Make every step ready whose dependencies have all ended well."""
    await session.execute(_READY, {"run": run_id})


async def reap(session: AsyncConnection) -> list[tuple[str, str, str]]:
    """Take steps from workers whose lease ended; returns (run, step, new state) of each."""
    rows = (await session.execute(_REAP)).all()
    for row in rows:
        await end_attempt(session, row.token, outcome="lost", error="the lease ended without a sign of life")
    return [(row.run_id, row.name, row.state) for row in rows]


async def wake(session: AsyncConnection) -> int:
    """Make waiting steps ready whose time has come."""
    return await _changed(session, _WAKE, {})


async def unrung(session: AsyncConnection, limit: int) -> list[tuple[str, str, str]]:
    """Lock ready steps without a bell; returns (run, step, class) of each."""
    rows = (await session.execute(_UNRUNG, {"n": limit})).all()
    return [(row.run_id, row.name, row.resource_class) for row in rows]


async def mark_rung(session: AsyncConnection, run_id: str, name: str) -> None:
    """Note that a bell was rung for a step."""
    await session.execute(_RUNG, {"run": run_id, "name": name})


async def forget_stale_bells(session: AsyncConnection, age_s: float) -> int:
    """Let bells ring again for steps nobody took: the broker may have lost its messages."""
    return await _changed(session, _STALE, {"age": age_s})


async def stop_steps(session: AsyncConnection, run_id: str, *, state: str, message: str) -> None:
    """End every step of a run that has not ended."""
    await session.execute(_STOP, {"run": run_id, "state": state, "message": message})


async def restart_steps(session: AsyncConnection, run_id: str) -> None:
    """Give a failed or cancelled run's unfinished steps fresh attempts."""
    await session.execute(
        text("""
        update trainer.steps set state = 'pending', attempt = 0, token = null, message = '', progress = 0,
               finished_at = null, started_at = null, resumed = false
        where run_id = :run and state not in ('succeeded')
        """),
        {"run": run_id},
    )


async def states_of(session: AsyncConnection, run_id: str) -> list[str]:
    """Read the states of a run's steps in order."""
    rows = await session.execute(
        text("select state from trainer.steps where run_id = :run order by position"), {"run": run_id}
    )
    return [row.state for row in rows]


async def database_now(session: AsyncConnection) -> datetime:
    """Read the clock that all leases are measured by."""
    return cast("datetime", (await session.execute(text("select now()"))).scalar_one())
