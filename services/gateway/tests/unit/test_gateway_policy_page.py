"""The page "Who may do what" says what the shipped policy says, and every reason is explained."""

import re
from pathlib import Path

from clave_gateway.domain.explanations import REMEDIES
from clave_gateway.policy_page import policy_page
from clave_testing.policies import POLICIES, shipped_bundle

PAGE = Path(__file__).parents[4] / "docs" / "who-may-do-what.md"


def test_the_page_is_the_policys() -> None:
    made = policy_page(shipped_bundle().data)
    assert PAGE.read_text() == made, "run: python -m clave_gateway policy-page > docs/who-may-do-what.md"


def test_every_reason_of_the_policy_has_a_remedy() -> None:
    text = (POLICIES / "clave" / "authz.rego").read_text()
    assert set(re.findall(r'reasons contains "(\w+)"', text)) == set(REMEDIES)
