"""Commands about the rollout of an endpoint: start, watch, list, pause, resume, abort."""

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import Output, say, show_facts, show_json
from clave.cli.session import Session, connected
from clave.failures import Refused

if TYPE_CHECKING:
    from clave_contracts.registry import Rollout

    from clave.client import AsyncClient

_GROUP = "Models and endpoints"
_OVER = {"promoted", "rolled_back", "aborted"}
_POLL_S = 1.0
_STEP = re.compile(
    r"(?P<weight>[01]|[01]?\.[0-9]{1,6})(:(?P<bake_s>[0-9]{1,8})(:(?P<rows_min>[0-9]{1,9}))?)?", re.ASCII
)
_ENDPOINT = Annotated[str, typer.Argument(help="Name of the endpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    rollout = typer.Typer(no_args_is_help=True, help="The rollout of an endpoint: start, watch, list, pause, abort.")
    rollout.command("start")(connected(start))
    rollout.command("watch")(connected(watch))
    rollout.command("list")(connected(list_rollouts))
    for verb in ("pause", "resume", "abort"):
        rollout.command(verb)(connected(_steer(verb)))
    app.add_typer(rollout, name="rollout", rich_help_panel=_GROUP)


def start(
    session: Session,
    *,
    endpoint: _ENDPOINT,
    version: Annotated[int, typer.Argument(min=1, help="Version to bring to live traffic.")],
    step: Annotated[
        list[str] | None, typer.Option(help="Canary step WEIGHT[:BAKE_S[:ROWS_MIN]]; give it once per step.")
    ] = None,
    shadow_s: Annotated[float, typer.Option(min=0, help="Seconds of copied traffic before the first step.")] = 0.0,
    step_s_max: Annotated[float, typer.Option(min=1, help="Seconds after which a step rolls back.")] = 3600.0,
    error_rate_max: Annotated[
        float | None, typer.Option(min=0, max=1, help="Roll back above this share of errors.")
    ] = None,
    latency_ms_p99_max: Annotated[float | None, typer.Option(min=0, help="Roll back above this p99 latency.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is written to the audit log.")] = "",
) -> None:
    """Start moving a version towards live traffic, step by step."""
    plan: dict[str, Any] = {"shadow_s": shadow_s, "step_s_max": step_s_max}
    if step:
        plan["steps"] = [_step(text) for text in step]
    limits = {"error_rate_max": error_rate_max, "latency_ms_p99_max": latency_ms_p99_max}
    if any(limit is not None for limit in limits.values()):
        plan["thresholds"] = {name: limit for name, limit in limits.items() if limit is not None}

    async def ask(client: "AsyncClient") -> "Rollout":
        from clave_contracts.registry import API, Rollout  # noqa: PLC0415

        body = {"version": version, "plan": plan, "reason": reason}
        return await client.registry.post(Rollout, f"{API}/endpoints/{endpoint}/rollouts", body)

    _show_rollout(session, session.ask(ask))
    say(f"watch it: clave rollout watch {endpoint}")


def _step(text: str) -> dict[str, float]:
    found = _STEP.fullmatch(text)
    if found is None:
        raise Refused(f"A step is WEIGHT[:BAKE_S[:ROWS_MIN]], for example 0.1:60:100; not '{text}'.")
    given = {name: value for name, value in found.groupdict().items() if value is not None}
    return {name: int(value) if name == "rows_min" else float(value) for name, value in given.items()}


def list_rollouts(session: Session, *, endpoint: _ENDPOINT) -> None:
    """List an endpoint's rollouts, newest first."""

    async def ask(client: "AsyncClient") -> dict[str, Any]:
        from clave_contracts.registry import API  # noqa: PLC0415

        return await client.registry.get(dict[str, Any], f"{API}/endpoints/{endpoint}/rollouts")

    answer = session.ask(ask)
    rows = [
        (one["id"], one["version"], one.get("from_version"), one["state"], one["created_at"], one["outcome"])
        for one in answer.get("rollouts", [])
    ]
    session.show_rows(answer, ("rollout", "version", "from", "state", "created", "outcome"), rows)


def watch(session: Session, *, endpoint: _ENDPOINT) -> None:
    """Follow the endpoint's rollout live until it has ended; exit code 4 when it was rolled back or aborted."""

    async def ask(client: "AsyncClient") -> "Rollout":
        rollout = await _current(client, endpoint)
        told, waits = 0, ""
        while True:
            for event in rollout.events[told:]:
                say(f"{event.at:%H:%M:%S}  {event.state:<12} {event.weight:>4.0%}  {event.detail}{_figures(event)}")
            told = len(rollout.events)
            if rollout.state in _OVER:
                return rollout
            if rollout.outcome != waits and rollout.outcome.startswith("waiting"):
                waits = rollout.outcome
                say(f"{datetime.now(UTC):%H:%M:%S}  {'':<12} {rollout.weight:>4.0%}  {waits}")
            await asyncio.sleep(_POLL_S)
            rollout = await client.registry.rollout(rollout.id)

    rollout = session.ask(ask)
    _show_rollout(session, rollout)
    if rollout.state != "promoted":
        raise Refused(f"v{rollout.version} of {rollout.model} did not go live: {rollout.outcome or rollout.state}.")


def _figures(event: Any) -> str:
    """Write the challenger's figures behind a step, where the monitor gave some."""
    challenger = (event.analysis or {}).get("challenger") or {}
    if not challenger.get("rows"):
        return ""
    p99 = challenger.get("latency_ms_p99")
    latency = f", p99 {p99:.1f} ms" if p99 is not None else ""
    return f"  [{challenger['rows']} rows, {challenger.get('errors', 0)} errors{latency}]"


def _steer(verb: str) -> Any:
    def steer(
        session: Session,
        *,
        endpoint: _ENDPOINT,
        reason: Annotated[str, typer.Option(help="Why; it is written to the audit log.")] = "",
    ) -> None:
        async def ask(client: "AsyncClient") -> "Rollout":
            from clave_contracts.registry import API, Rollout  # noqa: PLC0415

            rollout = await _current(client, endpoint)
            return await client.registry.post(Rollout, f"{API}/rollouts/{rollout.id}/{verb}", {"reason": reason})

        _show_rollout(session, session.ask(ask))

    steer.__doc__ = f"{verb.capitalize()} the endpoint's rollout."
    return steer


async def _current(client: "AsyncClient", endpoint: str) -> "Rollout":
    found = await client.registry.endpoint(endpoint)
    if found.rollout_id is None:
        raise Refused(
            f"Endpoint {endpoint} has no rollout under way.",
            remedy=f"`clave rollout list {endpoint}` shows those that ended; `clave rollout start {endpoint} VERSION` "
            "begins one.",
        )
    return await client.registry.rollout(found.rollout_id)


def _show_rollout(session: Session, rollout: "Rollout") -> None:
    facts = {
        "rollout": rollout.id,
        "version": f"{rollout.model} v{rollout.version} (from v{rollout.from_version})",
        "state": rollout.state,
        "weight": f"{rollout.weight:.0%}",
        "outcome": rollout.outcome,
    }
    if session.output is Output.JSON:
        show_json(rollout.model_dump(mode="json"))
    else:
        show_facts(facts)
