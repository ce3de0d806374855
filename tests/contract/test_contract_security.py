"""The page on security names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", PAGE)))
FILES = {path.name: path for folder in ("tests", "libs", "services") for path in (ROOT / folder).rglob("test_*.py")}


@pytest.mark.parametrize(("file", "test"), NAMED, ids=["::".join(each) for each in NAMED])
def test_a_named_test_exists(file, test):
    assert file in FILES
    assert re.search(rf"def {test}\b", FILES[file].read_text())


def test_every_attack_has_its_line():
    numbers = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, 21))
    assert len(NAMED) > 40
