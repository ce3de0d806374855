"""Training parameters: which there are, what they may be, and what stands where none is given.

Only parameters listed here reach XGBoost, so a definition can neither ask for a device that is not there nor name
an objective that no export reproduces. `rounds`, `early_stopping_rounds`, `threshold_rule`, `threshold` and
`false_negative_cost` are clave's own.
"""

from dataclasses import dataclass
from typing import Any

from clave_common.errors import InvalidArgument


class BadParameter(InvalidArgument):
    """A parameter is unknown or out of its range."""

    code = "bad_parameter"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The closed range of a numeric parameter."""

    low: float
    high: float
    whole: bool = False


NUMERIC: dict[str, Bounds] = {
    "rounds": Bounds(1, 20_000, whole=True),
    "early_stopping_rounds": Bounds(0, 2_000, whole=True),
    "max_depth": Bounds(1, 20, whole=True),
    "eta": Bounds(1e-4, 1.0),
    "learning_rate": Bounds(1e-4, 1.0),
    "subsample": Bounds(0.05, 1.0),
    "colsample_bytree": Bounds(0.05, 1.0),
    "colsample_bylevel": Bounds(0.05, 1.0),
    "colsample_bynode": Bounds(0.05, 1.0),
    "min_child_weight": Bounds(0.0, 1e6),
    "gamma": Bounds(0.0, 1e6),
    "reg_alpha": Bounds(0.0, 1e6),
    "reg_lambda": Bounds(0.0, 1e6),
    "max_bin": Bounds(2, 65_536, whole=True),
    "max_leaves": Bounds(0, 65_536, whole=True),
    "max_delta_step": Bounds(0.0, 1e6),
    "scale_pos_weight": Bounds(1e-6, 1e6),
    "num_parallel_tree": Bounds(1, 64, whole=True),
    "seed": Bounds(0, 2**31 - 1, whole=True),
    "threshold": Bounds(1e-6, 1 - 1e-6),
    "false_negative_cost": Bounds(1e-3, 1e6),
    "robustness_noise": Bounds(0.0, 1.0),
    "robustness_missing": Bounds(0.0, 1.0),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "objective": ("binary:logistic",),
    "tree_method": ("hist", "approx", "exact"),
    "grow_policy": ("depthwise", "lossguide"),
    "booster": ("gbtree", "dart"),
    "threshold_rule": ("fixed", "f1", "youden", "cost"),
}
DEFAULTS: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "rounds": 400,
    "early_stopping_rounds": 30,
    "max_depth": 4,
    "eta": 0.06,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 5,
    "threshold_rule": "fixed",
    "threshold": 0.5,
    "false_negative_cost": 1.0,
    "robustness_noise": 0.1,
    "robustness_missing": 0.05,
}
CLAVES_OWN = frozenset(
    {
        "rounds",
        "early_stopping_rounds",
        "threshold_rule",
        "threshold",
        "false_negative_cost",
        "robustness_noise",
        "robustness_missing",
    }
)
_LISTS = frozenset({"monotone_constraints"})


def check_parameters(params: dict[str, Any]) -> None:
    """Refuse unknown parameters and values out of range.

    Raises:
        BadParameter: Names the parameter and what it may be.
    """
    for name, value in params.items():
        if name in CHOICES:
            if value not in CHOICES[name]:
                raise BadParameter(
                    f"params.{name} may be {', '.join(CHOICES[name])}, not {value!r}.", field=f"params.{name}"
                )
        elif name in NUMERIC:
            _check_number(name, value, NUMERIC[name])
        elif name in _LISTS:
            _check_constraints(name, value)
        else:
            known = ", ".join(sorted({*CHOICES, *NUMERIC, *_LISTS}))
            raise BadParameter(f"params.{name} is unknown. Known are {known}.", field=f"params.{name}")


def _check_number(name: str, value: Any, bounds: Bounds) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not bounds.low <= value <= bounds.high or (bounds.whole and value != int(value)):
        kind = "a whole number" if bounds.whole else "a number"
        raise BadParameter(
            f"params.{name} is {kind} from {bounds.low:g} to {bounds.high:g}, not {value!r}.",
            field=f"params.{name}",
            low=bounds.low,
            high=bounds.high,
        )


def _check_constraints(name: str, value: Any) -> None:
    if not isinstance(value, dict) or any(sign not in (-1, 0, 1) for sign in value.values()):
        raise BadParameter(f"params.{name} maps a feature to -1, 0 or 1, not {value!r}.", field=f"params.{name}")


def check_shares(split: dict[str, float]) -> None:
    """Refuse a split that is not three shares above 0 with the sum 1.

    Raises:
        BadParameter: The split is another.
    """
    names = {"train", "validation", "test"}
    if set(split) != names or any(share <= 0 for share in split.values()) or abs(sum(split.values()) - 1) > 1e-6:  # noqa: PLR2004
        raise BadParameter(
            f"split has the shares train, validation and test, each above 0, with the sum 1; not {split!r}.",
            field="split",
        )


def effective(pipeline: dict[str, Any], run: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """Lay the run's parameters over the pipeline's over the defaults."""
    return {"seed": seed, **DEFAULTS, **pipeline, **run}
