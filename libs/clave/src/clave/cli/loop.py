"""Commands that turn the loop by hand: apply, runs, predict, feedback."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clave.cli.output import Output, say, show_json, show_table
from clave.cli.session import Session, connected
from clave.failures import EnvironmentFailure, Failure, Refused

if TYPE_CHECKING:
    from clave_contracts.inference import InferAnswer, InferRequest
    from clave_contracts.monitor import FeedbackResult
    from clave_contracts.trainer import Run, RunPage

    from clave.client import AsyncClient

_GROUP = "The loop"
_POLL_S = 0.5
_OVER = {"succeeded", "failed", "refused", "cancelled"}
_EXPLANATION = {"contributions", "base_value"}
_RUN = Annotated[str, typer.Argument(help="Id of the run.")]
_ENDPOINT = Annotated[str, typer.Argument(help="Name of the endpoint.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel=_GROUP)(connected(apply))
    app.command(rich_help_panel=_GROUP)(connected(ingest))
    runs = typer.Typer(no_args_is_help=True, help="Pipeline runs: list, show, start, cancel.")
    runs.command("list")(connected(list_runs))
    runs.command("show")(connected(show_run))
    runs.command("start")(connected(start_run))
    runs.command("cancel")(connected(cancel_run))
    app.add_typer(runs, name="runs", rich_help_panel=_GROUP)
    app.command(rich_help_panel=_GROUP)(connected(predict))
    feedback = typer.Typer(no_args_is_help=True, help="What really happened after predictions.")
    feedback.command("send")(connected(send_feedback))
    app.add_typer(feedback, name="feedback", rich_help_panel=_GROUP)


def apply(
    session: Session,
    *,
    folder: Annotated[Path, typer.Argument(help="Folder with features.yaml, pipelines/ and monitors/.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")] = False,
) -> None:
    """Apply a feature repository: entities, views, services, pipelines, retraining policies."""
    from clave.repository import load_repository  # noqa: PLC0415

    files = load_repository(folder)

    async def ask(client: "AsyncClient") -> list[dict[str, Any]]:
        answer = await client.apply(files.features, dry_run=dry_run)
        changes = [change.model_dump(mode="json") for change in answer.changes]
        for spec in files.pipelines:
            version = None if dry_run else (await client.trainer.put_pipeline(spec)).version
            changes.append({"kind": "pipeline", "name": spec.name, "change": _applied(dry_run), "version": version})
        for endpoint, policy in files.policies.items():
            if not dry_run:
                await client.monitor.put_policy(endpoint, policy)
            changes.append({"kind": "policy", "name": endpoint, "change": _applied(dry_run), "version": None})
        return changes

    changes = session.ask(ask)
    rows = [(change["kind"], change["name"], change["change"], change["version"]) for change in changes]
    session.show_rows({"changes": changes, "dry_run": dry_run}, ("kind", "name", "change", "version"), rows)


def _applied(dry_run: bool) -> str:  # noqa: FBT001 - a word for a flag
    return "checked" if dry_run else "applied"


def ingest(
    session: Session,
    *,
    view: Annotated[str, typer.Argument(help="Name of the feature view.")],
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Table: .csv, .parquet or .json rows.")],
) -> None:
    """Ingest a table into a feature view; rows that break a rule are quarantined with reasons."""
    kinds = {".csv": "text/csv", ".parquet": "application/vnd.apache.parquet", ".json": "application/json"}
    if file.suffix not in kinds:
        raise Failure(f"{file} is none of {', '.join(kinds)}.")

    async def ask(client: "AsyncClient") -> Any:
        return await client.ingest(view, file.read_bytes(), media_type=kinds[file.suffix])

    report = session.ask(ask)
    facts = {"rows": report.rows, "accepted": report.accepted, "quarantined": report.quarantined}
    facts |= {f"  {reason.column}: {reason.rule}": f"{reason.rows} rows, {reason.reason}" for reason in report.reasons}
    session.show(report, facts)


def list_runs(
    session: Session,
    *,
    pipeline: Annotated[str | None, typer.Option(help="Only of this pipeline.", show_default=False)] = None,
) -> None:
    """List the runs, newest first."""

    async def ask(client: "AsyncClient") -> "RunPage":
        return await client.trainer.runs(pipeline=pipeline)

    answer = session.ask(ask)
    rows = [
        (run.id, run.pipeline, run.status, run.trigger, run.model_version, run.created_at, run.reason)
        for run in answer.runs
    ]
    session.show_rows(answer, ("run", "pipeline", "status", "trigger", "version", "created", "reason"), rows)


def show_run(
    session: Session,
    *,
    run_id: _RUN,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait until it has ended.")] = False,
) -> None:
    """Show a run step by step; with --follow the exit code tells how it ended."""

    async def ask(client: "AsyncClient") -> "Run":
        run = await client.trainer.run(run_id)
        told: dict[str, str] = {}
        while follow and run.status not in _OVER:
            for step in run.steps:
                line = f"{step.name:<14} {step.state:<10} {step.progress:>4.0%}  {step.message}"
                if told.get(step.name) != line and step.state not in {"pending", "ready"}:
                    say(line)
                told[step.name] = line
            await asyncio.sleep(_POLL_S)
            run = await client.trainer.run(run_id)
        return run

    run = session.ask(ask)
    _show_run(session, run)
    if follow:
        _judge(run)


def start_run(
    session: Session,
    *,
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the run.")] = "",
    params: Annotated[str, typer.Option(help="JSON object of training parameters for this run only.")] = "{}",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
) -> None:
    """Start a pipeline run."""
    try:
        given = json.loads(params)
    except json.JSONDecodeError as error:
        raise typer.BadParameter(f"--params is not JSON: {error}") from error

    async def ask(client: "AsyncClient") -> "Run":
        run = await client.start_run(pipeline, reason=reason, params=given)
        return await client.wait_for_run(run.id) if wait else run

    run = session.ask(ask)
    _show_run(session, run)
    if wait:
        _judge(run)
    else:
        say(f"watch it: clave runs show {run.id} --follow")


def cancel_run(session: Session, *, run_id: _RUN) -> None:
    """Ask a run to stop at its next safe point."""

    async def ask(client: "AsyncClient") -> "Run":
        return await client.trainer.cancel(run_id)

    _show_run(session, session.ask(ask))


def _show_run(session: Session, run: "Run") -> None:
    if session.output is Output.JSON:
        show_json(run.model_dump(mode="json"))
        return
    say(f"run {run.id} of {run.pipeline}: {run.status} ({run.trigger}) {run.reason}")
    rows = [
        (step.name, step.state, step.attempt or "", f"{step.progress:.0%}", _duration(step), step.message)
        for step in run.steps
    ]
    show_table(("step", "state", "attempt", "done", "took", "message"), rows)
    if run.gates:
        gates = [(gate.gate, gate.verdict, gate.detail) for gate in run.gates]
        show_table(("gate", "verdict", "figures"), gates)


def _duration(step: Any) -> str:
    if step.started_at is None or step.finished_at is None:
        return ""
    return f"{(step.finished_at - step.started_at).total_seconds():.1f} s"


def _judge(run: "Run") -> None:
    if run.status == "refused":
        raise Refused(f"Run {run.id} was refused: {'; '.join(run.reasons) or 'see its gates'}.")
    if run.status != "succeeded":
        raise Failure(f"Run {run.id} ended {run.status}: {'; '.join(run.reasons) or 'see its steps'}.")


def predict(
    session: Session,
    *,
    endpoint: _ENDPOINT,
    entity: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, such as customer_id=C00007; repeat for more rows.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="An Open Inference Protocol request as JSON, - for stdin.", show_default=False
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each column contributed.")] = False,
) -> None:
    """Ask an endpoint for predictions, by entity or with a request of your own."""
    if bool(entity) == bool(file):
        raise typer.BadParameter("give either --entity or --file")
    entities: dict[str, list[Any]] = {}
    for pair in entity or []:
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"--entity {pair!r} is not KEY=VALUE, such as customer_id=C00007")
        entities.setdefault(name, []).append(value)

    request = None if file is None else _read_request(file)
    wanted = {"explain": True} if explain else {}

    async def ask(client: "AsyncClient") -> "InferAnswer":
        if request is None:
            return await client.predict(endpoint, entities=entities, parameters=wanted)
        asked = request.model_copy(update={"parameters": {**request.parameters, **wanted}})
        return await client.inference.infer(endpoint, asked)

    answer = session.ask(ask)
    facts: dict[str, Any] = {
        "model": f"{answer.model_name} v{answer.model_version}",
        "prediction id": answer.parameters.get("prediction_id"),
        "arm": answer.parameters.get("arm"),
    }
    facts |= {output.name: output.data for output in answer.outputs if output.name not in _EXPLANATION}
    session.show(answer, facts)
    if explain and session.output is Output.TABLE:
        _show_contributions(answer)
    for line in _absent_features(answer.parameters.get("feature_status"), entities):
        say(f"warning: {line}")


def _show_contributions(answer: "InferAnswer") -> None:
    """Show what moved each row's score, strongest first; with the base they add up to the score's log odds."""
    given = {output.name: output.data for output in answer.outputs}
    columns = list(answer.parameters.get("columns", ()))
    if not columns or not given.keys() >= _EXPLANATION:
        return
    for row, base in enumerate(given["base_value"]):
        values = given["contributions"][row * len(columns) : (row + 1) * len(columns)]
        ranked = sorted(zip(columns, values, strict=True), key=lambda pair: -abs(pair[1]))
        shown = [(name, f"{value:+.4f}") for name, value in ranked]
        show_table((f"row {row}", "log odds"), [*shown, ("base", f"{base:+.4f}")])


def _read_request(file: Path) -> "InferRequest":
    from clave_contracts.inference import InferRequest  # noqa: PLC0415
    from pydantic import ValidationError  # noqa: PLC0415

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailure(f"{file} cannot be read.", remedy="Name a JSON file, or - for stdin.") from error
    try:
        return InferRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Failure(
            f"{file} is no Open Inference Protocol request: {place + ': ' if place else ''}{first['msg']}.",
            remedy='Write {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]}]}.',
        ) from error


def _absent_features(status: Any, entities: dict[str, list[Any]]) -> list[str]:
    """Say for which entities a view had no values: the model answered with gaps in their place."""
    if not isinstance(status, dict):
        return []
    rows = list(zip(*entities.values(), strict=False))
    lines = []
    for row, keys in enumerate(rows):
        absent = [f"{view} ({states[row]})" for view, states in status.items() if states[row] != "PRESENT"]
        if absent:
            named = ", ".join(f"{name}={key}" for name, key in zip(entities, keys, strict=True))
            lines.append(
                f"{named} has no features in {', '.join(absent)}; the model answered with gaps in their place."
            )
    return lines


def send_feedback(
    session: Session,
    *,
    prediction_id: Annotated[str, typer.Argument(help="Id that the prediction's answer carried.")],
    outcome: Annotated[float, typer.Argument(help="What really happened: 0 or 1, or a value.")],
    row: Annotated[int, typer.Option(min=0, help="Row of the request.")] = 0,
) -> None:
    """Tell the outcome of a prediction."""

    async def ask(client: "AsyncClient") -> "FeedbackResult":
        from clave_contracts.monitor import FeedbackItem  # noqa: PLC0415

        return await client.send_feedback([FeedbackItem(prediction_id=prediction_id, row=row, outcome=outcome)])

    answer = session.ask(ask)
    session.show(answer, {"joined": answer.joined, "pending": answer.pending, "duplicates": answer.duplicates})
    if answer.pending:
        say(f"No prediction {prediction_id} (row {row}) has arrived yet; the outcome joins it if it comes.")
    if answer.refused:
        raise Refused(f"The outcome was not taken: {answer.refused[0]}")
