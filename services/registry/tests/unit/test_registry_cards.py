"""Cards show what is known, with its interval and n, and never let a text become markup."""

from clave_registry.cards.rendering import render_html, render_markdown
from clave_registry.domain.card import build_card
from registry_card_facts import facts


def test_a_card_has_the_four_sections_with_their_figures() -> None:
    text = render_markdown(build_card(facts()))
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "## 1. Model Details",
        "## 2. Performance",
        "## 3. Limitations",
        "## 4. Usage Notes",
        "## Governance",
    ]
    lines = text.splitlines()
    assert "| auc | 0.8702 | 0.8391 |" in lines
    assert "| accuracy | – | 0.7998 |" in lines  # noqa: RUF001 - the dash for no value
    assert "| female | statistical parity ratio |  | 0.92 | 0.86 to 0.98 | 1,409 | – |  |" in lines  # noqa: RUF001 - as above
    assert any("0.74 to 0.9" in line and "1,409" in line for line in lines)
    assert "- **Rate limit**: 1000 requests/min" in lines
    assert any("interval crosses 0.8" in line for line in lines[lines.index("## 3. Limitations") :])


def test_a_card_names_what_people_still_owe() -> None:
    governance = build_card(facts())["governance"]
    assert governance["missing_fields"] == ["intended_use", "ethical_considerations"]
    assert build_card(facts(risk_class="minimal"))["governance"]["missing_fields"] == []


def test_texts_cannot_become_markup() -> None:
    nasty = "<script>alert(1)</script> [x](javascript:y) `z`\n# head | cell"
    card = build_card(facts(texts={"limitations": [nasty], "overview": nasty}))
    html = render_html(card)
    assert "<script>" not in html
    text = render_markdown(card)
    assert "<script>" not in text.replace("\\<", "")
    assert "\n# head" not in text
    assert "[x](" not in text


def test_texts_steer_no_terminal_that_a_card_is_printed_on() -> None:
    nasty = "red \x1b[31m \x9b2J \x07 \u202e end"
    card = build_card(facts(texts={"limitations": [nasty], "overview": nasty}))
    for shown in (render_html(card), render_markdown(card)):
        assert "end" in shown
        assert not set(shown) & set("\x1b\x9b\x07\u202e")


def test_a_version_without_evaluation_says_so() -> None:
    card = build_card(facts(evaluation=None, texts={}, lineage={}))
    assert card["performance"]["evaluated"] is False
    assert "not evaluated" in render_markdown(card)
    assert "not evaluated" in render_html(card)


def test_an_evaluation_from_elsewhere_needs_no_run() -> None:
    card = build_card(facts(lineage={}, links={"lineage": "/api"}))
    assert "Evaluated on 1,409 rows.\n" in render_markdown(card)
    assert render_html(card)


def test_every_group_and_every_measure_of_a_protected_attribute_gets_its_own_line() -> None:
    evaluation = dict(facts().evaluation or {})
    ratio = {"group": "1", "reference": "0", "estimate": 0.43, "low": 0.37, "high": 0.5, "n": 240}
    gap = {**ratio, "estimate": -0.1, "low": -0.2, "high": 0.0}
    evaluation["fairness"] = {
        "senior_citizen": {
            "judged_by": "statistical_parity_ratio",
            "limit": 0.8,
            "verdict": "review",
            "statistical_parity_ratio": [ratio],
            "true_positive_rate_gap": [gap],
        }
    }
    lines = render_markdown(build_card(facts(evaluation=evaluation))).splitlines()
    head = "| senior\\_citizen"
    assert f"{head} | statistical parity ratio | 1 to 0 | 0.43 | 0.37 to 0.5 | 240 | 0.8 | review |" in lines
    none = "–"  # noqa: RUF001 - the dash for no value
    assert f"{head} | gap of true positive rates | 1 to 0 | -0.1 | -0.2 to 0 | 240 | {none} |  |" in lines
