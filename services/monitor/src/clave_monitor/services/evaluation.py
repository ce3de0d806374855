"""Evaluation: waiting predictions become windows, new labels become evidence, both become a report and a decision.

One transaction per round holds the monitor's row, takes at most a few windows and labels, and marks what it took:
killed anywhere, the next round takes exactly what is left. Any number of processes may evaluate.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from clave_common.clock import Clock
from clave_common.database import Database, Transaction

from clave_monitor.domain.counters import Counts
from clave_monitor.domain.drift import DriftPolicy
from clave_monitor.domain.retraining import Decision
from clave_monitor.runtime.metrics import Metrics
from clave_monitor.runtime.references import NoReference, Reference, ReferenceSource
from clave_monitor.services import looks
from clave_monitor.services.alerting import AlertName, raise_alert, resolve_alert
from clave_monitor.services.announcing import announce, raise_alerts
from clave_monitor.services.deciding import Finding, decide_and_record
from clave_monitor.services.policies import policy_of
from clave_monitor.services.rounds import Round
from clave_monitor.services.rows import feature_table
from clave_monitor.services.state import MonitorState, restored
from clave_monitor.storage import alerts, monitors, predictions
from clave_monitor.storage.predictions import ScoredRow
from clave_monitor.storage.records import EndpointRow, Key, MonitorRow, WaitingRows

_WINDOWS_PER_ROUND = 8
_LABELS_PER_ROUND = 5_000
_LABELLED_SHOWN = 2_000
_ESTIMATE_ROWS_MIN = 1_000
_FORCED_ROWS_MIN = 20
_COUNTED_MAX = 10_000
_SHOWN_FOR = timedelta(minutes=10)
_ASK_AGAIN_AFTER = timedelta(seconds=60)
"""A version without a reference may get one with its next registration only; no need to ask at every tick."""


class Evaluation:
    """Evaluates monitors."""

    def __init__(self, database: Database, references: ReferenceSource, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._references = references
        self._clock = clock
        self._metrics = metrics
        self._ask_again: dict[Key, datetime] = {}

    async def due(self) -> list[Key]:
        """List monitors for which a round would find something to do."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            endpoints = {row.name: row for row in await monitors.all_endpoints(tx)}
            largest = max((policy_of(row.policy).window_rows for row in endpoints.values()), default=0)
            waiting = await predictions.waiting(tx, most=max(largest, _COUNTED_MAX))
        for one in waiting:
            self._metrics.waiting(one.key, one.rows)
        return [one.key for one in waiting if _is_due(one, endpoints.get(one.key.endpoint), now)]

    async def evaluate(self, key: Key, *, force: bool = False) -> int:
        """Run rounds until nothing is left that can be evaluated now.

        Args:
            key: The monitor.
            force: Close a window that is not full yet, and decide even if nothing new came.

        Returns:
            Windows closed.

        Raises:
            Unavailable: The registry or the database is away; nothing was taken.
        """
        if not force and self._ask_again.get(key, self._clock.now()) > self._clock.now():
            return 0
        try:
            reference = await self._references.load(key)
        except NoReference as problem:
            self._ask_again[key] = self._clock.now() + _ASK_AGAIN_AFTER
            await self._note_problem(key, problem.detail)
            return 0
        namespace = await self._references.namespace(key.endpoint)
        closed = 0
        while True:
            done = await self._round(key, reference, force=force, namespace=namespace)
            closed += done.windows
            if not done.more:
                return closed

    async def reconsider(self) -> None:
        """Decide again where a cause stands and something else was waited for: time, a run's end, an answer."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await alerts.resolve_departed(tx, at=now)
            live = [row for row in await monitors.all_endpoints(tx) if row.live is not None]
            stored = {row.key: row for row in await monitors.all_monitors(tx)}
        recent = {key for key, row in stored.items() if row.last_window_at and row.last_window_at > now - _SHOWN_FOR}
        self._metrics.keep_only(recent | {row.live for row in live if row.live is not None})
        for endpoint in live:
            monitor = stored.get(endpoint.live) if endpoint.live else None
            if monitor is not None and monitor.report and _has_cause(restored(monitor.state), endpoint):
                await self._decide(monitor.key)

    async def _decide(self, key: Key) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            monitor = await monitors.lock(tx, key, at=now)
            endpoint = await monitors.endpoint(tx, key.endpoint)
            labels = monitor.labels + (await predictions.not_taken_yet(tx, key))[1]
            policy = policy_of(endpoint.policy if endpoint else {})
            finding = Finding(key, now, restored(monitor.state), monitor.report, labels)
            decision = await decide_and_record(tx, finding, policy)
        self._count(key, decision)

    def _count(self, key: Key, decision: Decision | None) -> None:
        if decision is not None:
            self._metrics.decided(key, decision=decision.outcome.value, reason=decision.reason.value)

    async def _round(self, key: Key, reference: Reference, *, force: bool, namespace: str | None) -> Round:
        async with self._database.transaction() as tx:
            now = self._clock.now()
            monitor = await monitors.lock(tx, key, at=now)
            if namespace is not None:
                await monitors.note_namespace(tx, key.endpoint, namespace)
            work = _start(key, now, reference, monitor, await monitors.endpoint(tx, key.endpoint))
            await self._close_windows(tx, work, force=force)
            await self._count_labels(tx, work)
            if work.windows or work.labels or force:
                await self._conclude(tx, work)
        if work.windows or work.labels or force:
            self._metrics.show(key, work.report, period_s=work.policy.window_s_max)
        return work

    async def _close_windows(self, tx: Transaction, work: Round, *, force: bool) -> None:
        depth = max(DriftPolicy().horizons)
        history = await monitors.latest_counters(tx, work.key, reference_digest=work.reference.digest, limit=depth)
        for _ in range(_WINDOWS_PER_ROUND):
            rows = await predictions.next_window_rows(tx, work.key, limit=work.policy.window_rows)
            if not _closes(rows, work, force=force):
                return
            counters = await asyncio.to_thread(_count, work.reference, rows)
            history = [*history, counters][-depth:]
            look = await asyncio.to_thread(
                looks.judge_window,
                work.reference,
                history,
                work.state,
                policy=work.policy,
                first_at=min(row.at for row in rows),
            )
            window_id = await monitors.add_window(
                tx,
                work.key,
                counters=counters,
                number=work.monitor.windows + work.windows + 1,
                rows=len(rows),
                first_at=min(row.at for row in rows),
                last_at=max(row.at for row in rows),
                closed_at=work.at,
                reference_digest=work.reference.digest,
                result=_window_result(look),
            )
            await predictions.take_into_window(tx, rows, window_id)
            work.last_window = window_id
            self._take_look(work, look, rows=len(rows))
        work.more = True

    def _take_look(self, work: Round, look: looks.WindowLook, *, rows: int) -> None:
        work.state, work.last_look = look.state, look
        work.windows += 1
        work.rows += rows
        work.newly_gated |= set(look.newly_gated)
        for scope in look.newly_fired:
            self._metrics.alarm(work.key, scope.value)
        for violation in look.violations:
            self._metrics.violation(work.key, feature=violation.column, check=violation.check.value)
        work.report |= {
            "at": work.at.isoformat(),
            "window_rows": rows,
            "features": look.features,
            "data_quality": [
                {
                    "feature": v.column,
                    "check": v.check.value,
                    "reference_rate": v.reference_rate,
                    "current_rate": v.current_rate,
                    "p_value": v.p_value,
                }
                for v in look.violations
            ],
            "scopes": {
                scope.value: {
                    "state": drift.state.value,
                    "evidence_log10": drift.evidence.log10,
                    "effect_low": drift.effect_lower_bound,
                    "named": list(drift.named),
                }
                for scope, drift in look.scopes.items()
            },
        }

    async def _count_labels(self, tx: Transaction, work: Round) -> None:
        rows = await predictions.uncounted_labels(tx, work.key, limit=_LABELS_PER_ROUND)
        if not rows:
            return
        judged = await asyncio.to_thread(looks.judge_labels, work.reference, rows, work.state, policy=work.policy)
        await predictions.mark_counted(tx, rows)
        work.state, work.newly_harmed = judged.state, judged.newly_harmed
        work.labels = len(rows)
        work.more = work.more or len(rows) == _LABELS_PER_ROUND
        if judged.newly_harmed:
            self._metrics.alarm(work.key, "residual")
        self._metrics.label_delays(work.key, [_delay_s(row) for row in rows if row.labelled_at])

    async def _conclude(self, tx: Transaction, work: Round) -> None:
        """Bring the report up to date, raise what has to be raised, and decide."""
        labelled = await predictions.latest_labelled(tx, work.key, limit=_LABELLED_SHOWN)
        size = max(_ESTIMATE_ROWS_MIN, 2 * work.policy.window_rows)
        scores = await predictions.latest_scores(tx, work.key, limit=size)
        guess = await asyncio.to_thread(looks.estimated, work.reference, scores, work.policy)
        work.state = replace(work.state, estimate_dropped=bool(guess and guess.dropped))
        rows_left, labels_left = await predictions.not_taken_yet(tx, work.key)
        rows = work.monitor.rows + work.rows + rows_left
        labels = work.monitor.labels + work.labels + labels_left
        figures = looks.performance_figures(work.reference, guess, labelled)
        work.report["performance"] = figures | _label_figures(work, labelled, rows=rows, labels=labels)
        work.report["fairness"] = await asyncio.to_thread(looks.fairness_figures, work.reference, labelled)
        await monitors.change(
            tx,
            work.key,
            at=work.at,
            state=work.state.stored(),
            report=work.report,
            reference_digest=work.reference.digest,
            reference_problem=None,
            windows=work.monitor.windows + work.windows,
            rows=work.monitor.rows + work.rows,
            labels=work.monitor.labels + work.labels,
            last_window_at=work.at if work.windows else work.monitor.last_window_at,
        )
        if work.last_window is not None and work.last_look is not None:
            result = _window_result(work.last_look) | _at_the_time(work.report)
            await monitors.set_result(tx, work.last_window, result)
        await resolve_alert(tx, work.key, AlertName.NO_REFERENCE, at=work.at)
        await announce(tx, work)
        if work.live:
            await raise_alerts(tx, work)
            finding = Finding(work.key, work.at, work.state, work.report, labels)
            decision = await decide_and_record(tx, finding, work.policy)
            self._count(work.key, decision)

    async def _note_problem(self, key: Key, problem: str) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await monitors.lock(tx, key, at=now)
            await monitors.change(tx, key, at=now, reference_problem=problem)
            await raise_alert(tx, key, AlertName.NO_REFERENCE, at=now, summary=problem, evidence={})


def _start(key: Key, now: datetime, reference: Reference, monitor: MonitorRow, endpoint: EndpointRow | None) -> Round:
    same = monitor.reference_digest in (None, reference.digest)
    return Round(
        key=key,
        at=now,
        reference=reference,
        policy=policy_of(endpoint.policy if endpoint else {}),
        monitor=monitor,
        state=restored(monitor.state) if same else MonitorState(),
        live=endpoint is not None and endpoint.live == key,
        report=dict(monitor.report) if same else {},
    )


def _has_cause(state: MonitorState, endpoint: EndpointRow) -> bool:
    limit = policy_of(endpoint.policy).harm_false_alarm_labels
    return state.harm.proven(limit) or (state.estimate_dropped and state.gated)


def _is_due(waiting: WaitingRows, endpoint: EndpointRow | None, now: datetime) -> bool:
    policy = policy_of(endpoint.policy if endpoint else {})
    if waiting.uncounted_labels or waiting.rows >= policy.window_rows:
        return True
    aged = waiting.oldest_at is not None and waiting.oldest_at <= now - timedelta(seconds=policy.window_s_max)
    return waiting.rows >= _FORCED_ROWS_MIN and aged


def _closes(rows: Sequence[ScoredRow], work: Round, *, force: bool) -> bool:
    if len(rows) >= work.policy.window_rows:
        return True
    if len(rows) < _FORCED_ROWS_MIN:
        return False
    aged = min(row.at for row in rows) <= work.at - timedelta(seconds=work.policy.window_s_max)
    return force or aged


def _count(reference: Reference, rows: Sequence[ScoredRow]) -> Counts:
    return reference.sketch.count(feature_table(rows), rows=len(rows))


def _delay_s(row: ScoredRow) -> float:
    arrived = row.labelled_at or row.at
    return (arrived - row.at).total_seconds()


def _label_figures(work: Round, labelled: Sequence[ScoredRow], *, rows: int, labels: int) -> dict[str, Any]:
    delays = sorted(_delay_s(row) for row in labelled)
    harm, limit = work.state.harm, work.policy.harm_false_alarm_labels
    return {
        "labels": labels,
        "label_coverage": labels / rows if rows else 0.0,
        "label_delay_s_p50": delays[len(delays) // 2] if delays else None,
        "harm_evidence_log10": harm.log10,
        "harm_limit_log10": replace(harm, latched=limit).log10,
        "harmed": harm.proven(limit),
    }


def _window_result(look: looks.WindowLook) -> dict[str, Any]:
    return {
        "features": look.features,
        "scopes": {
            scope.value: {
                "state": drift.state.value,
                "e_value": drift.e_value,
                "evidence_log10": drift.evidence.log10,
                "effect_low": drift.effect_lower_bound,
                "named": list(drift.named),
            }
            for scope, drift in look.scopes.items()
        },
        "data_quality": [{"feature": v.column, "check": v.check.value} for v in look.violations],
    }


def _at_the_time(report: dict[str, Any]) -> dict[str, Any]:
    """Keep performance and fairness with the window at whose end they were so: their history."""
    performance, fairness = report["performance"], report["fairness"]
    kept = ("realised", "estimated", "labels", "label_coverage", "label_delay_s_p50", "harm_evidence_log10")
    return {
        "performance": {name: performance[name] for name in kept},
        "fairness": {
            name: {part: found[part] for part in ("verdict", "gaps", "parity_ratio")}
            for name, found in fairness.items()
        },
    }
