"""Train a gradient-boosted model on the CPU, reproducibly: a seed, a fixed thread count, early stopping."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost

from clave_trainer.domain.parameters import CLAVES_OWN
from clave_trainer.domain.probability import ThresholdRule, choose_threshold
from clave_trainer.runtime.frames import Frame

Report = Callable[[float, str], None]
_REPORTS = 40


@dataclass(frozen=True)
class Trained:
    """A trained booster, cut to its best round.

    Attributes:
        booster: Holds the kept rounds only.
        rounds: Their number.
        rounds_tried: Rounds before early stopping.
        threshold: Score from which a row is labelled 1, chosen on the validation split.
        log_loss: Of each round on the validation split, in nats.
        importance: Share of the total gain by feature, the sum is 1.
    """

    booster: xgboost.Booster
    rounds: int
    rounds_tried: int
    threshold: float
    log_loss: list[float]
    importance: dict[str, float]


class _Progress(xgboost.callback.TrainingCallback):
    """Reports every few rounds; training itself goes on without asking anybody."""

    def __init__(self, rounds: int, report: Report) -> None:
        self._rounds = rounds
        self._every = max(1, rounds // _REPORTS)
        self._report = report

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002 - XGBoost's signature
        """Tell how far training is; never stops it."""
        if (epoch + 1) % self._every == 0:
            loss = evals_log["validation"]["logloss"][-1]
            self._report((epoch + 1) / self._rounds, f"round {epoch + 1}, validation log loss {loss:.4f}")
        return False


def threads() -> int:
    """Return the threads that the process was given (`OMP_NUM_THREADS`, set before Python starts)."""
    return max(1, int(os.environ.get("OMP_NUM_THREADS", "1")))


def train(fit: Frame, validation: Frame, params: dict[str, Any], report: Report) -> Trained:
    """Train a binary classifier.

    Args:
        fit: Rows to learn from.
        validation: Rows that stop the training and choose the threshold.
        params: Effective parameters, see `clave_trainer.domain.parameters`.
        report: Takes progress in [0, 1] and a line for people.

    Returns:
        The booster and what is to be known about it. Equal inputs give an equal booster.
    """
    own = {name: params[name] for name in CLAVES_OWN if name in params}
    rounds = int(own["rounds"])
    settings = {
        **{name: value for name, value in params.items() if name not in CLAVES_OWN},
        "eval_metric": "logloss",
        "device": "cpu",
        "nthread": threads(),
    }
    learn, watch = _matrices(fit, validation, settings)
    history: dict[str, Any] = {}
    patience = int(own["early_stopping_rounds"])
    booster = xgboost.train(
        settings,
        learn,
        rounds,
        evals=[(watch, "validation")],
        early_stopping_rounds=patience or None,
        evals_result=history,
        verbose_eval=False,
        callbacks=[_Progress(rounds, report)],
    )
    losses = [float(loss) for loss in history["validation"]["logloss"]]
    kept = booster.best_iteration + 1 if patience else len(losses)
    booster = booster[:kept]
    scores = booster.inplace_predict(validation.rows, missing=np.nan).astype(np.float64)
    return Trained(
        booster=booster,
        rounds=kept,
        rounds_tried=len(losses),
        threshold=choose_threshold(
            validation.outcomes,
            scores,
            rule=ThresholdRule(own["threshold_rule"]),
            fixed=float(own["threshold"]),
            false_negative_cost=float(own["false_negative_cost"]),
        ),
        log_loss=losses,
        importance=_importance(booster),
    )


def _matrices(fit: Frame, validation: Frame, settings: dict[str, Any]) -> tuple[xgboost.DMatrix, xgboost.DMatrix]:
    if settings["tree_method"] != "hist":
        return tuple(  # type: ignore[return-value]  # two frames make two matrices
            xgboost.DMatrix(part.rows, part.label, feature_names=part.features) for part in (fit, validation)
        )
    bins = int(settings.get("max_bin", 256))
    learn = xgboost.QuantileDMatrix(fit.rows, fit.label, feature_names=fit.features, max_bin=bins)
    watch = xgboost.QuantileDMatrix(
        validation.rows, validation.label, feature_names=fit.features, ref=learn, max_bin=bins
    )
    return learn, watch


def _importance(booster: xgboost.Booster) -> dict[str, float]:
    scores = booster.get_score(importance_type="total_gain")
    gains = {name: float(np.sum(gain)) for name, gain in scores.items()}
    whole = sum(gains.values()) or 1.0
    return {name: gain / whole for name, gain in sorted(gains.items(), key=lambda each: -each[1])}
