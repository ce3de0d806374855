"""Comparing a challenger with the champion, for whoever advances a rollout."""

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from clave_common.database import Database
from clave_contracts.monitor import Analysis, ArmFigures

from clave_monitor.domain.canary import Arm, CanaryPolicy, Guardrail, analyse
from clave_monitor.storage import monitors, predictions
from clave_monitor.storage.predictions import ArmRow

_ROWS_MAX = 20_000
_EARLIER_ROWS_MAX = 2_000


class Comparison:
    """Analyses a rollout's two arms."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def analyse(
        self,
        *,
        endpoint: str,
        challenger: int,
        champion: int | None,
        since: datetime,
        policy: CanaryPolicy,
    ) -> Analysis:
        """Compare what both versions did since a time.

        A champion that answered too little since then (a canary with nearly all the traffic) is judged by
        its latest earlier predictions as well; the reasons say so.

        Args:
            endpoint: The endpoint.
            challenger: Version under test.
            champion: Version to compare with; the endpoint's live one when None.
            since: Begin of the step.
            policy: What the challenger has to stand.
        """
        async with self._database.transaction() as tx:
            if champion is None:
                known = await monitors.endpoint(tx, endpoint)
                champion = known.live_version if known else None
            new = await predictions.arm_rows(tx, endpoint=endpoint, version=challenger, since=since, limit=_ROWS_MAX)
            old: list[ArmRow] = []
            borrowed = False
            if champion is not None and champion != challenger:
                old = await predictions.arm_rows(tx, endpoint=endpoint, version=champion, since=since, limit=_ROWS_MAX)
                if len(old) < policy.rows_min:
                    borrowed = True
                    old = await predictions.arm_rows(
                        tx, endpoint=endpoint, version=champion, since=None, limit=_EARLIER_ROWS_MAX
                    )
        found = await asyncio.to_thread(analyse, _arm(old), _arm(new), policy)
        reasons = list(found.reasons)
        if borrowed and old:
            reasons.append(f"the champion answered too little since then: its latest {len(old)} rows stand in")
        return Analysis(
            endpoint=endpoint,
            since=since,
            champion=_figures(champion, old) if champion is not None and old else None,
            challenger=_figures(challenger, new),
            verdict=found.verdict.value,
            reasons=reasons,
            checks=[_check(guardrail) for guardrail in found.guardrails]
            + [{"name": "score_distance", "value": found.score_distance, "decides": False}],
        )


def _arm(rows: Sequence[ArmRow]) -> Arm:
    answered = [row for row in rows if row.error is None]
    scores = [row.score for row in answered if row.score is not None and math.isfinite(row.score)]
    return Arm(
        requests=len(rows),
        errors=len(rows) - len(answered),
        latency_ms=np.array([row.latency_ms for row in answered if row.latency_ms is not None]),
        scores=np.array(scores),
        broken_scores=len(answered) - len(scores),
        losses=_losses(answered),
    )


def _losses(rows: Sequence[ArmRow]) -> Any:
    """Return the Brier loss of labelled rows, shape (labels,)."""
    pairs = [(row.score, row.outcome) for row in rows if row.score is not None and row.outcome in (0.0, 1.0)]
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return (np.clip(values[:, 0], 0.0, 1.0) - values[:, 1]) ** 2


def _figures(version: int, rows: Sequence[ArmRow]) -> ArmFigures:
    arm = _arm(rows)
    return ArmFigures(
        version=version,
        rows=arm.requests,
        errors=arm.errors,
        labels=len(arm.losses),
        loss_mean=float(arm.losses.mean()) if len(arm.losses) else None,
        latency_ms_p50=float(np.quantile(arm.latency_ms, 0.5)) if len(arm.latency_ms) else None,
        latency_ms_p99=float(np.quantile(arm.latency_ms, 0.99)) if len(arm.latency_ms) else None,
        score_mean=float(arm.scores.mean()) if len(arm.scores) else None,
    )


def _check(guardrail: Guardrail) -> dict[str, Any]:
    return {
        "name": guardrail.name,
        "champion": guardrail.champion,
        "challenger": guardrail.challenger,
        "evidence": guardrail.evidence,
        "limit": guardrail.limit,
        "n": list(guardrail.rows),
        "failed": guardrail.failed,
        "decides": True,
    }
