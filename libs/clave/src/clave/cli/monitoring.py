"""Commands about the monitor: report, alerts and what to do with one, decisions and a person's answer to one."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import say
from clave.cli.session import Session, connected

if TYPE_CHECKING:
    from clave_contracts.monitor import Alert, Decision, Report

    from clave.client import AsyncClient

_ENDPOINT = Annotated[str, typer.Argument(help="Name of the endpoint.")]
_ALERT = Annotated[str, typer.Argument(help="Id of the alert, as `clave monitor alerts` shows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    monitor = typer.Typer(no_args_is_help=True, help="Drift, performance, alerts and the decision to retrain.")
    monitor.command("report")(connected(show_report))
    monitor.command("alerts")(connected(list_alerts))
    monitor.command("acknowledge")(connected(acknowledge))
    monitor.command("snooze")(connected(snooze))
    monitor.command("resolve")(connected(resolve))
    monitor.command("decisions")(connected(list_decisions))
    monitor.command("answer")(connected(answer_decision))
    app.add_typer(monitor, name="monitor", rich_help_panel="The loop")


def show_report(session: Session, *, endpoint: _ENDPOINT) -> None:
    """Show drift per feature and performance of the live version."""

    async def ask(client: "AsyncClient") -> "Report":
        return await client.report(endpoint)

    report = session.ask(ask)
    rows = [
        (
            item.feature,
            f"{item.effect:.3f}",
            f"{item.effect_low:.3f}",
            f"{item.psi:.3f}",
            "drifted" if item.drifted else "",
        )
        for item in sorted(report.features, key=lambda item: -item.effect)
    ]
    session.show_rows(report, ("feature", "effect", "at least", "PSI", ""), rows)
    say(
        f"{report.endpoint}: {report.model} v{report.model_version} is {report.state}; "
        f"{report.rows} rows, {report.windows} windows"
    )
    if not report.windows:
        say("  Drift is judged by whole windows of predictions, and the first is not full yet.")
    for title, figures in (
        ("realised", report.performance.realised),
        ("estimated", report.performance.estimated),
        ("reference", report.performance.reference),
    ):
        if figures:
            say(f"  {title:<10} " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def list_alerts(session: Session) -> None:
    """List the alerts, newest first."""

    async def ask(client: "AsyncClient") -> Any:
        from clave_contracts.monitor import API, AlertPage  # noqa: PLC0415

        return await client.monitor.get(AlertPage, f"{API}/alerts")

    answer = session.ask(ask)
    rows = [
        (alert.id, alert.endpoint, alert.severity, alert.state, alert.summary, alert.remedy) for alert in answer.alerts
    ]
    session.show_rows(answer, ("alert", "endpoint", "severity", "state", "what", "remedy"), rows)


def list_decisions(session: Session, *, endpoint: _ENDPOINT) -> None:
    """List the monitor's decisions whether to retrain, newest first."""

    async def ask(client: "AsyncClient") -> Any:
        return await client.monitor.decisions(endpoint)

    answer = session.ask(ask)
    rows = [
        (item.at, item.decision, f"v{item.model_version}", item.reason, item.run_id, item.id)
        for item in answer.decisions
    ]
    session.show_rows(answer, ("at", "decision", "version", "reason", "run", "id"), rows)
    if not rows:
        say("No decision yet: the monitor decides when a window of predictions is full.")


def acknowledge(session: Session, *, alert_id: _ALERT) -> None:
    """Tell that somebody looks at an alert."""
    _change_alert(session, alert_id, "acknowledge", None)


def snooze(
    session: Session,
    *,
    alert_id: _ALERT,
    hours: Annotated[float, typer.Option(min=0.01, max=8760, help="For how long.")] = 24.0,
) -> None:
    """Silence an alert for a time."""
    until = datetime.now(UTC) + timedelta(hours=hours)
    _change_alert(session, alert_id, "snooze", {"until": until.isoformat()})


def resolve(session: Session, *, alert_id: _ALERT) -> None:
    """Close an alert; one of drift or performance clears its evidence, and the monitor starts afresh."""
    _change_alert(session, alert_id, "resolve", None)


def _change_alert(session: Session, alert_id: str, verb: str, body: dict[str, Any] | None) -> None:
    async def ask(client: "AsyncClient") -> "Alert":
        from clave_contracts.monitor import API, Alert  # noqa: PLC0415

        return await client.monitor.post(Alert, f"{API}/alerts/{alert_id}/{verb}", body)

    alert = session.ask(ask)
    facts = {"alert": alert.id, "state": alert.state, "until": alert.snoozed_until, "what": alert.summary}
    session.show(alert, {name: value for name, value in facts.items() if value is not None})


def answer_decision(
    session: Session,
    *,
    decision_id: Annotated[str, typer.Argument(help="Id of a decision that waits for a person.")],
    approve: Annotated[bool, typer.Option("--approve/--deny", help="Whether it may be retrained.")],
    comment: Annotated[str, typer.Option(help="Why; it is kept with the decision.")] = "",
) -> None:
    """Approve or deny a retraining that waits for a person."""

    async def ask(client: "AsyncClient") -> "Decision":
        from clave_contracts.monitor import API, Decision  # noqa: PLC0415

        body = {"approved": approve, "comment": comment}
        return await client.monitor.post(Decision, f"{API}/decisions/{decision_id}/answer", body)

    decision = session.ask(ask)
    session.show(decision, {"decision": decision.decision, "reason": decision.reason, "run": decision.run_id})
