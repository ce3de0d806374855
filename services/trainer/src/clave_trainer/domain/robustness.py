"""What the world may do to a row before it reaches the model: noise, gaps, values out of range."""

import numpy as np

from clave_trainer.domain.arrays import Rows


def with_noise(rows: Rows, *, share_of_spread: float, seed: int) -> Rows:
    """Add normal noise to every feature that takes many values.

    Args:
        rows: Feature values, shape (n, features), NaN where missing.
        share_of_spread: Standard deviation of the noise as a share of the feature's own.
        seed: Of the generator.

    Returns:
        A copy; features of at most ten distinct values (flags, codes) are left alone.
    """
    generator = np.random.default_rng(seed)
    noisy = rows.copy()
    for column in range(rows.shape[1]):
        values = rows[:, column]
        present = values[~np.isnan(values)]
        if np.unique(present).size <= 10:  # noqa: PLR2004 - a code, not a measurement
            continue
        scale = float(present.std()) * share_of_spread
        noisy[:, column] += np.asarray(generator.normal(0.0, scale, rows.shape[0]), dtype=np.float32)
    return noisy


def with_gaps(rows: Rows, *, share: float, seed: int) -> Rows:
    """Lose a share of all cells, independently.

    Args:
        rows: Feature values, shape (n, features).
        share: Probability that a cell is lost, in [0, 1].
        seed: Of the generator.

    Returns:
        A copy with NaN in the lost cells.
    """
    gapped = rows.copy()
    gapped[np.random.default_rng(seed).random(rows.shape) < share] = np.nan
    return gapped


def edge_rows(rows: Rows, thresholds: dict[int, Rows], *, count: int, seed: int) -> Rows:
    """Make rows where converters go wrong: on the split points, beside them, missing, huge.

    Args:
        rows: Real rows to start from, shape (n, features), n at least 1.
        thresholds: For each feature that the model splits on, its split points.
        count: Rows to make.
        seed: Of the generator.

    Returns:
        Shape (count, features): real rows whose cells were moved exactly onto a split point, one float to
        either side of it, to NaN, to zero or to the ends of the float32 range.
    """
    generator = np.random.default_rng(seed)
    made = rows[generator.integers(0, rows.shape[0], count)].copy()
    extremes = np.array([0.0, -0.0, np.nan, 3.0e38, -3.0e38], dtype=np.float32)
    for column in range(rows.shape[1]):
        points = thresholds.get(column, np.zeros(0, dtype=np.float32))
        beside = [points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(-np.inf))]
        choices = np.concatenate([*beside, extremes]).astype(np.float32)
        touched = generator.random(count) < 0.5  # noqa: PLR2004 - half of the cells stay real
        made[touched, column] = generator.choice(choices, int(touched.sum()))
    return made
