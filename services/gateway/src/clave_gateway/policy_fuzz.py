"""Asks engines thousands of spoilt questions: they must agree, never fail, and never allow with a reason against it.

A question is a worked case with one to four values dropped or swapped for odd ones, the same ones for the same seed.
"""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clave_common.access.engine import PolicyEngine
from clave_common.errors import ClaveError

SEED = 20261122
_FAILURES_MAX = 20
_ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 1e308, 10**18, "", " ", "*", "**", "user:admin", "Production", "acme",
    "models/../x", "models/fraud\n",
    "\uff41\uff43\uff4d\uff45", [], [None], [1, "x"], ["**"], {}, {"a": 1}, [[]], [{"by": None}],
    [{"name": 1}], [{"name": "x", "classification": None}],
]  # fmt: skip


@dataclass(slots=True)
class FuzzReport:
    """What the fuzz found.

    Attributes:
        engines: Names of those that were asked; one alone is checked for failures and contradictions only.
        failures: Questions on which they failed, contradicted themselves or each other; at most 20 are kept.
    """

    engines: list[str]
    asked: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether something was asked and nothing was wrong."""
        return self.asked > 0 and not self.failures


async def fuzz(
    engines: Sequence[PolicyEngine], cases: Sequence[Mapping[str, Any]], *, inputs: int, seed: int = SEED
) -> FuzzReport:
    """Ask every engine the same spoilt questions.

    Args:
        engines: Loaded with the same bundle.
        cases: Worked cases to spoil.
        inputs: Questions to ask.
        seed: Chooses them.
    """
    chance = random.Random(seed)  # noqa: S311 - chooses test inputs, not secrets
    report = FuzzReport([engine.name for engine in engines])
    while report.asked < inputs and len(report.failures) < _FAILURES_MAX:
        question = spoilt(chance, cases)
        report.asked += 1
        answers = [await _answer(engine, question) for engine in engines]
        if any(answer != answers[0] for answer in answers) or _wrong(answers[0]):
            report.failures.append({"input": question, "answers": answers})
    return report


def spoilt(chance: random.Random, cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Spoil one worked case."""
    asked: dict[str, Any] = copy.deepcopy(dict(chance.choice(cases)["input"]))
    for _ in range(chance.randint(1, 4)):
        holder, key = chance.choice([*_places(asked)])
        if isinstance(holder, dict) and chance.random() < 0.3:  # noqa: PLR2004 - three in ten values are dropped
            del holder[key]
        else:
            holder[key] = copy.deepcopy(chance.choice(_ODD))
        if not asked:
            break
    return asked


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside a document, as (container, key)."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    yield from ((value, key) for key in keys)
    for key in keys:
        yield from _places(value[key])


async def _answer(engine: PolicyEngine, question: dict[str, Any]) -> dict[str, Any]:
    try:
        document = await engine.decide(question)
        return {name: document[name] for name in ("allow", "reasons", "obligations")}
    except (ClaveError, KeyError) as error:
        return {"failed": type(error).__name__}


def _wrong(answer: dict[str, Any]) -> bool:
    return "failed" in answer or (answer["allow"] is True) != (answer["reasons"] == [])
