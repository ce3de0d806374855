"""Deleting or weakening a line of the policy is noticed by the policy's tests.

A mutant is a line deleted, or a comparison turned around. It survives if it compiles and every test of
the `test_gateway_policy*.py` named in TEST_FILES still passes. Lines that cannot matter are named in
REDUNDANT with the reason why; type guards are left to the fuzz.
CLAVE_TEST_POLICY_MUTANTS sets how many mutants are tried (default 10; ``all`` takes seven minutes).
"""

import importlib.util
import itertools
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from clave_common.errors import ClaveError
from clave_gateway.policy_files import read_modules
from clave_testing import policies

# Lines without which nothing changes, and why they stay.
REDUNDANT: dict[str, str] = {
    "startswith(name, prefix)": "every action's name has a colon, so a name without the prefix is refused below",
    'asked.tenant != "*"': "nobody is of tenant *, but a service's calls are; stated for the reader",
    "default act := {}": "an action that the catalogue lacks has no flags in either form; stated for the reader",
    "default demands := {}": "an action that the catalogue lacks demands nothing in either form; stated for the reader",
    "default groups := []": "what is no list has no members either; stated for the reader",
    "input.context.time > 1000000000": "its boundary second lies in 2001",
}
TYPE_GUARD = re.compile(r"^is_(string|number|array|object|boolean)\(")
"""Deleting one is noticed by the fuzz over odd values; the cases need not pin each."""
TEST_FILES = ("test_gateway_policy", "test_gateway_policy_details", "test_gateway_policy_lists")
SWAPS = ((" == ", " != "), (" >= ", " > "), (" <= ", " < "), (" > ", " >= "), (" < ", " <= "), ("not ", ""))


def mutants() -> Iterator[tuple[str, int, str, str]]:
    """Every mutant as (file, line number, what was done, text of the module)."""
    for name, text in sorted(read_modules(policies.POLICIES / "clave").items()):
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if not line.strip() or line.lstrip().startswith(("#", "package", "import")) or line.strip() in {"}", "{"}:
                continue
            rest = (lines[:number], lines[number + 1 :])
            yield name, number + 1, f"deleted: {line.strip()}", "\n".join([*rest[0], *rest[1]])
            for old, new in SWAPS:
                if old in line and not line.startswith("reasons contains"):
                    swapped = line.replace(old, new, 1)
                    yield name, number + 1, f"now: {swapped.strip()}", "\n".join([*rest[0], swapped, *rest[1]])


def load_tests(name: str) -> ModuleType:
    """A fresh copy of one file of the policy's tests; it builds its engines from whatever `policies` reads."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location("policy_tests_under_mutation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def calls(module: ModuleType) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Every test with every set of its parameters."""
    for name, test in vars(module).items():
        if not name.startswith("test_") or not callable(test):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for values in itertools.product(*(parameters(mark) for mark in marks)):
            yield test, {name: value for given in values for name, value in given.items()}


def parameters(mark: pytest.Mark) -> list[dict[str, Any]]:
    """The sets of parameters of one mark."""
    names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
    return [dict(zip(names, [values] if len(names) == 1 else values, strict=True)) for values in mark.args[1]]


async def killed_by(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The first test that notices a mutant; None when none does."""
    modules = {**read_modules(policies.POLICIES / "clave"), name: text}
    with monkeypatch.context() as patched:
        patched.setattr(policies, "read_modules", lambda _folder: modules)
        shipped = policies.shipped_bundle
        patched.setattr(policies, "shipped_bundle", lambda: type(shipped())(modules=modules, data=shipped().data))
        try:
            modules_of_tests = [load_tests(file) for file in TEST_FILES]
        except ClaveError:
            return "it does not compile"
        for test, arguments in (call for module in modules_of_tests for call in calls(module)):
            try:
                outcome = test(**arguments)
                if outcome is not None:
                    await outcome
            except (AssertionError, ClaveError, KeyError, TypeError, pytest.fail.Exception):
                return str(test.__name__)
    return None


async def test_no_mutant_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    every = list(mutants())
    wanted = os.environ.get("CLAVE_TEST_POLICY_MUTANTS", "10")
    chosen = every if wanted == "all" else random.Random(7).sample(every, int(wanted))
    survivors = []
    for name, number, what, text in chosen:
        line = re.sub(r"^(deleted|now): ", "", what)
        if line in REDUNDANT or TYPE_GUARD.match(line):
            continue
        if await killed_by(name, text, monkeypatch) is None:
            survivors.append(f"{name}:{number} {what}")
    assert not survivors, "\n" + "\n".join(survivors)
