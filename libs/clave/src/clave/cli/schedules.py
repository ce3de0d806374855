"""Commands about schedules: when pipelines run by themselves."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.session import Session, connected

if TYPE_CHECKING:
    from clave_contracts.trainer import Schedule, ScheduleList

    from clave.client import AsyncClient

_SCHEDULE = Annotated[str, typer.Argument(help="Name of the schedule.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    schedules = typer.Typer(no_args_is_help=True, help="Schedules: when pipelines run by themselves.")
    schedules.command("set")(connected(set_schedule))
    schedules.command("list")(connected(list_schedules))
    schedules.command("delete")(connected(delete_schedule))
    app.add_typer(schedules, name="schedules", rich_help_panel="The loop")


def set_schedule(
    session: Session,
    *,
    schedule: _SCHEDULE,
    pipeline: Annotated[str, typer.Option(help="Which pipeline runs.")],
    cron: Annotated[str | None, typer.Option(help="Five fields, such as '0 6 * * 1-5'.", show_default=False)] = None,
    every_hours: Annotated[
        float | None, typer.Option(min=0.01, help="Instead of --cron: hours between runs.", show_default=False)
    ] = None,
    zone: Annotated[str, typer.Option(help="Time zone of --cron and of business hours.")] = "UTC",
    business_hours: Annotated[
        bool, typer.Option("--business-hours", help="Start on weekdays from 8 to 18 o'clock only.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why; it is kept with each run.")] = "",
) -> None:
    """Create or change a schedule."""
    if (cron is None) == (every_hours is None):
        raise typer.BadParameter("give either --cron or --every-hours")

    async def ask(client: "AsyncClient") -> "Schedule":
        from clave_contracts.trainer import API, BusinessHours, Schedule, ScheduleSpec  # noqa: PLC0415

        spec = ScheduleSpec(
            pipeline=pipeline,
            cron=cron,
            interval_s=None if every_hours is None else every_hours * 3600,
            zone=zone,
            business_hours=BusinessHours() if business_hours else None,
            reason=reason,
        )
        answer = await client.trainer.send("PUT", f"{API}/schedules/{schedule}", body=spec)
        return Schedule.model_validate_json(answer.content)

    made = session.ask(ask)
    session.show(made, {"schedule": made.id, "pipeline": made.spec.pipeline, "next": made.next_at})


def list_schedules(session: Session) -> None:
    """List the schedules: when each is due, and why its last time started nothing."""

    async def ask(client: "AsyncClient") -> "ScheduleList":
        from clave_contracts.trainer import API, ScheduleList  # noqa: PLC0415

        return await client.trainer.get(ScheduleList, f"{API}/schedules")

    answer = session.ask(ask)
    rows = [(one.id, one.spec.pipeline, _rhythm(one.spec), one.next_at, one.last_skip) for one in answer.schedules]
    session.show_rows(answer, ("schedule", "pipeline", "when", "next", "last skipped"), rows)


def _rhythm(spec: Any) -> str:
    when = f"{spec.cron} {spec.zone}" if spec.cron else f"every {spec.interval_s / 3600:g} h"
    return f"{when}{', business hours' if spec.business_hours else ''}{'' if spec.enabled else ', off'}"


def delete_schedule(session: Session, *, schedule: _SCHEDULE) -> None:
    """Remove a schedule; runs that it has started go on."""

    async def ask(client: "AsyncClient") -> None:
        from clave_contracts.trainer import API  # noqa: PLC0415

        await client.trainer.send("DELETE", f"{API}/schedules/{schedule}")

    session.ask(ask)
    session.show({"deleted": schedule}, {"deleted": schedule})
