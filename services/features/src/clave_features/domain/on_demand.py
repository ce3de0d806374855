"""Computes a view's on-demand features from its stored ones, for a column or for one row alike."""

from collections.abc import Mapping, Sequence

from clave_features.domain.definitions import View
from clave_features.domain.expressions import Column


def computed(view: View, names: Sequence[str], stored: Mapping[str, Column], rows: int) -> dict[str, Column]:
    """Compute on-demand features, each input before what needs it.

    Args:
        view: Declares them.
        names: The on-demand features wanted.
        stored: Stored inputs as float64, shape (rows,), NaN where null.
        rows: Number of rows.

    Returns:
        One column of shape (rows,) per name, NaN where null.
    """
    columns = dict(stored)
    open_ends = list(names)
    while open_ends:
        one = view.feature(open_ends[-1])
        if one.name in columns or one.expression is None:
            open_ends.pop()
            continue
        waiting = [name for name in sorted(one.expression.inputs) if name not in columns]
        if waiting:
            open_ends.extend(waiting)
            continue
        columns[one.name] = one.expression.evaluate(columns, rows)
        open_ends.pop()
    return {name: columns[name] for name in names}
