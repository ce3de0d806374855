"""The page "Who may do what" says what the shipped policy says, and every reason is explained."""

import re
from pathlib import Path

from clave_gateway.domain.explanations import REMEDIES, rules_of
from clave_gateway.policy_page import policy_page
from clave_testing.policies import POLICIES, shipped_bundle

PAGE = Path(__file__).parents[4] / "docs" / "who-may-do-what.md"


def test_the_page_is_the_policys() -> None:
    made = policy_page(shipped_bundle().data)
    assert PAGE.read_text() == made, "run: python -m clave_gateway policy-page > docs/who-may-do-what.md"


def test_every_reason_of_the_policy_has_a_remedy() -> None:
    text = (POLICIES / "clave" / "authz.rego").read_text()
    assert set(re.findall(r'reasons contains "(\w+)"', text)) == set(REMEDIES)


def test_every_reason_names_the_rule_that_did_not_hold() -> None:
    modules = shipped_bundle().modules
    named = rules_of(REMEDIES, modules)
    assert set(named) == set(REMEDIES)
    for reason, place in named.items():
        where, rule = place.split(" ")
        name, line = where.split(":")
        assert modules[name].splitlines()[int(line) - 1].startswith(rule), reason
    assert named["separation_of_duties"].startswith("release.rego:")
    assert named["separation_of_duties"].endswith(" sod_ok")
    assert named["no_grant"].endswith(" granted")
    assert rules_of(["no such reason"], modules) == {}
