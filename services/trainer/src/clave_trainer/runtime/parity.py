"""The proof that an exported graph answers as the booster does, on real rows and on the worst ones.

Tolerance is relative to the largest prediction (never below 1), because float32 sums of large values carry
large absolute noise. A label may differ only where the score lies within the tolerance of the threshold.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnxruntime
import xgboost
from clave_common.errors import FailedPrecondition

from clave_trainer.domain.arrays import Floats, Rows
from clave_trainer.domain.robustness import edge_rows, with_gaps
from clave_trainer.runtime.booster_json import read_learner, split_points

ROWS_MIN = 10_000
TOLERANCE = 1e-5
_CHUNK_ROWS = 50_000


class ParityBroken(FailedPrecondition):
    """The exported graph does not answer as the booster does."""

    code = "parity_broken"


@dataclass(frozen=True, slots=True)
class ParityProof:
    """What was compared and how far it differed.

    Attributes:
        rows_real: Rows of the training set, as they are.
        rows_made: Rows with gaps and on split points.
        rows_with_missing: Compared rows with at least one missing value.
        difference_max: Largest absolute difference of a prediction.
        difference_relative: The same over max(1, largest prediction).
        tolerance: What the relative difference had to stay below.
        labels_different: Rows whose label differs though the score is clear of the threshold.
    """

    rows_real: int
    rows_made: int
    rows_with_missing: int
    difference_max: float
    difference_relative: float
    tolerance: float
    labels_different: int

    @property
    def holds(self) -> bool:
        """Whether the export may be trusted."""
        return self.difference_relative <= self.tolerance and self.labels_different == 0

    def as_facts(self) -> dict[str, Any]:
        """Render for a report."""
        return {**asdict(self), "holds": self.holds}


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    """Open a graph for one thread on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def compared_rows(real: Rows, document: bytes | bytearray, *, seed: int) -> tuple[Rows, Rows]:
    """Choose the rows of the proof: every real one, and made ones until there are enough.

    Args:
        real: Real rows, shape (n, features), n at least 1.
        document: The booster's JSON, for its split points.
        seed: Of the made rows.

    Returns:
        Real rows and made rows; at least `ROWS_MIN` together and at least 4,000 made.
    """
    count = max(4_000, ROWS_MIN - real.shape[0])
    edges = edge_rows(real, split_points(read_learner(document)), count=count - count // 2, seed=seed)
    picked = real[np.random.default_rng(seed).integers(0, real.shape[0], count // 2)]
    return real, np.concatenate([with_gaps(picked, share=0.2, seed=seed), edges])


def prove(
    booster: xgboost.Booster, model: bytes, real: Rows, *, threshold: float, tolerance: float = TOLERANCE, seed: int = 0
) -> ParityProof:
    """Compare a graph with the booster it came from.

    Args:
        booster: Already cut to the rounds that the graph holds.
        model: The serialised graph.
        real: Real rows, shape (n, features).
        threshold: Score from which the label is 1, for binary graphs.
        tolerance: Largest relative difference allowed.
        seed: Of the made rows.

    Returns:
        The figures; the caller decides by `ParityProof.holds`.
    """
    rows_real, rows_made = compared_rows(real, booster.save_raw("json"), seed=seed)
    rows = np.ascontiguousarray(np.concatenate([rows_real, rows_made]), dtype=np.float32)
    wanted = np.asarray(booster.inplace_predict(rows, missing=np.nan), dtype=np.float64)
    got, labels = _answers(session_of(model), rows)
    if got.ndim == 2 and wanted.ndim == 1:  # noqa: PLR2004 - probabilities [rows, 2] against a score per row
        got = got[:, -1]
    difference = float(np.abs(got - wanted).max())
    scale = max(1.0, float(np.abs(wanted).max()))
    different = 0
    if labels is not None:
        clear = np.abs(wanted - threshold) > tolerance
        different = int((labels.astype(bool) != (wanted >= threshold))[clear].sum())
    return ParityProof(
        rows_real=rows_real.shape[0],
        rows_made=rows_made.shape[0],
        rows_with_missing=int(np.isnan(rows).any(axis=1).sum()),
        difference_max=difference,
        difference_relative=difference / scale,
        tolerance=tolerance,
        labels_different=different,
    )


def _answers(session: onnxruntime.InferenceSession, rows: Rows) -> tuple[Floats, Floats | None]:
    names = [output.name for output in session.get_outputs()]
    starts = range(0, rows.shape[0], _CHUNK_ROWS)
    parts = [session.run(names, {"input": rows[start : start + _CHUNK_ROWS]}) for start in starts]
    joined = dict(zip(names, (np.concatenate(each) for each in zip(*parts, strict=True)), strict=True))
    labels = joined.pop("label", None)
    (prediction,) = joined.values()
    if prediction.ndim == 2 and prediction.shape[1] == 1:  # noqa: PLR2004
        prediction = prediction[:, 0]
    return np.asarray(prediction, dtype=np.float64), labels
