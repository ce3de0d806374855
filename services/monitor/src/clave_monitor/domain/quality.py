"""Data quality: missing, infinite and unseen values against the reference.

A change of these rates is no drift: it is usually a broken join, a renamed column or a new category.
Rules: a 2 x 2 chi-square test per column and check, Bonferroni over columns and checks at one false alarm in
`run_length_windows`, AND a rate that moved by at least `rate_change_min`. While quality is broken the model's
drift and estimated performance are not to be acted upon.
"""

from dataclasses import dataclass
from enum import StrEnum

from clave_monitor.domain.counters import Counts, Sketch, finite_bins, infinite, missing, unseen
from clave_monitor.domain.evidence import rate_p_value


class Check(StrEnum):
    """What was counted."""

    MISSING = "missing"
    INFINITE = "infinite"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class QualityPolicy:
    """When a rate counts as broken.

    Attributes:
        run_length_windows: Average number of windows between false alarms, at least.
        rate_change_min: Smallest change of a rate that matters, in (0, 1].
    """

    run_length_windows: float = 1000.0
    rate_change_min: float = 0.02


@dataclass(frozen=True)
class Violation:
    """One column's rate moved; rates in [0, 1]."""

    column: str
    check: Check
    reference_rate: float
    current_rate: float
    p_value: float


def violations(sketch: Sketch, window: Counts, policy: QualityPolicy) -> tuple[Violation, ...]:
    """List what is broken in a window.

    Args:
        sketch: The reference.
        window: Counters of the window, shape (columns, SLOTS).
        policy: When a rate counts as broken.
    """
    found = []
    limit = 1.0 / policy.run_length_windows / max(1, len(sketch.columns) * len(Check))
    for i, column in enumerate(sketch.columns):
        old, new = sketch.counts[i], window[i]
        m, n = int(old.sum()), int(new.sum())
        pairs = {
            Check.MISSING: (int(missing(old)), int(missing(new))),
            Check.INFINITE: (int(infinite(old)), int(infinite(new))),
            Check.UNSEEN: (0, unseen(new, column)) if finite_bins(old).any() else (0, 0),
        }
        for check, (before, now) in pairs.items():
            p = rate_p_value(reference=before, reference_rows=m, current=now, current_rows=n)
            before_rate, now_rate = before / max(m, 1), now / max(n, 1)
            if p < limit and abs(now_rate - before_rate) >= policy.rate_change_min:
                found.append(Violation(column.name, check, before_rate, now_rate, p))
    return tuple(found)
