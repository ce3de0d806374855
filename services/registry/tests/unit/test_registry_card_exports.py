"""Cards in the words of others say what the card says, and the bill of materials is valid CycloneDX."""

import json
from typing import Any

import pytest
import yaml
from clave_registry.cards.annex_iv import HEADINGS, annex_iv, annex_iv_markdown
from clave_registry.cards.exports import SAGEMAKER_CHARACTERS_MAX, hugging_face, model_card_toolkit, sagemaker
from clave_registry.cards.mlbom import cyclonedx_card, ml_bom
from clave_registry.cards.rendering import render_html, render_markdown
from clave_registry.domain.card import build_card
from clave_registry.domain.card_diff import card_diff
from clave_registry.domain.card_slices import slice_rows, wilson_interval
from clave_registry.domain.openlineage import run_event
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from registry_card_facts import facts

ARTIFACTS = [{"path": "model.onnx", "digest": "b" * 64, "size": 10, "media_type": "application/octet-stream"}]
SLICES = [
    {"attribute": "female", "group": "1", "rows": 200, "selection_rate": 0.25, "true_positive_rate": 0.5,
     "positive_rate": 0.3},
    {"groups": {"female": "1", "senior": "1"}, "rows": 40, "selection_rate": 0.4, "auc": 0.81},
]  # fmt: skip


def card(**changes: Any) -> dict[str, Any]:
    evaluation = dict(facts().evaluation or {})
    evaluation["slices"] = SLICES
    evaluation["champion"] = {"version": 2, "metrics": {"auc": 0.82, "brier": 0.1}, "rows": 1409}
    evaluation["gates"] = [
        *evaluation["gates"],
        {"gate": "auc_min", "verdict": "passed", "detail": "", "estimate": 0.84, "low": 0.81, "high": 0.87, "n": 1409},
    ]
    texts = {
        "overview": "Who leaves?",
        "intended_use": "Retention: offers",
        "limitations": ["One quarter"],
        "ethical_considerations": "No gender among the inputs",
        "owners": ["analytics"],
    }
    return build_card(facts(**{"evaluation": evaluation, "texts": texts, **changes}))


BARE = build_card(facts(evaluation=None, texts={}, lineage={}, signature={}, params={}, links={}))


@pytest.mark.parametrize("made", [card(), BARE], ids=["full", "bare"])
def test_the_bill_of_materials_is_valid_cyclonedx(made: dict[str, Any]) -> None:
    bom = ml_bom(made, ARTIFACTS)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom))
    assert fault is None, fault
    assert bom["serialNumber"] == ml_bom(made, ARTIFACTS)["serialNumber"]
    refs = {component["bom-ref"] for component in bom["components"]}
    assert set(bom["dependencies"][0]["dependsOn"]) == refs


def test_the_bill_of_materials_names_files_data_and_card() -> None:
    bom = ml_bom(card(), ARTIFACTS)
    model = bom["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": "f" * 64}]
    assert [(c["type"], c["hashes"][0]["content"]) for c in bom["components"]] == [
        ("file", "b" * 64),
        ("data", "a" * 64),
    ]
    metrics = cyclonedx_card(card())["quantitativeAnalysis"]["performanceMetrics"]
    gate = next(metric for metric in metrics if metric["type"] == "auc_min")
    assert gate["confidenceInterval"] == {"lowerBound": "0.81", "upperBound": "0.87"}


def test_figures_carry_run_data_gate_interval_and_n() -> None:
    metric = next(m for m in card()["performance"]["metrics"] if m["name"] == "auc")
    evidence = metric["evidence"]
    assert evidence["run"] == "/api/trainer/v1/runs/run_1"
    assert (evidence["dataset_digests"], evidence["rows"]) == (["a" * 64], 1409)
    assert [(g["gate"], g["low"], g["high"], g["n"]) for g in evidence["gates"]] == [("auc_min", 0.81, 0.87, 1409)]


def test_slices_and_intersections_have_intervals_and_stand_on_the_page() -> None:
    single, crossed = card()["performance"]["slices"]
    assert (single["slice"], single["intersection"]) == ("female = 1", False)
    assert (crossed["slice"], crossed["intersection"]) == ("female = 1, senior = 1", True)
    rate = next(one for one in single["figures"] if one["name"] == "true_positive_rate")
    assert rate["n"] == 60
    assert rate["low"] < 0.5 < rate["high"]
    assert "| female = 1, senior = 1 | 40 | selection\\_rate | 0.4 |" in render_markdown(card())
    assert "female = 1, senior = 1" in render_html(card())


@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_the_interval_of_a_share_holds_it_and_stays_within_bounds(n: int, share: float) -> None:
    low, high = wilson_interval(share, n)
    assert 0.0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1.0


def test_slices_of_unknown_shape_are_shown_as_they_are() -> None:
    (row,) = slice_rows([{"name": "night", "accuracy": 0.9}])
    assert (row["slice"], row["rows"], row["figures"][0]["estimate"]) == ("slice = night", None, 0.9)


def test_the_card_compares_with_the_champion_on_the_same_rows() -> None:
    compared = card()["performance"]["against_champion"]
    row = next(row for row in compared["metrics"] if row["name"] == "auc")
    assert (row["this"], row["other"]) == (0.8391, 0.82)
    assert row["difference"] == pytest.approx(0.0191)
    assert "Against the champion (version 2" in render_markdown(card())


def test_two_cards_are_compared_part_by_part() -> None:
    other = card(version=2, params={"max_depth": 4}, texts={"intended_use": "Everything"})
    found = card_diff(card(), other)
    changed = {change["path"]: (change["this"], change["other"]) for change in found["changes"]}
    assert changed["parameters.max_depth"] == (5, 4)
    assert changed["usage.intended_use"] == ("Retention: offers", "Everything")
    assert "features" not in changed
    assert found["same_rows"]["version"] == 2


def test_model_card_toolkit_gets_every_figure_with_its_interval() -> None:
    shown = model_card_toolkit(card())
    assert shown["schema_version"] == "0.0.2"
    metrics = shown["quantitative_analysis"]["performance_metrics"]
    assert {"type": "auc", "value": "0.8391", "slice": "test"} in metrics
    gate = next(metric for metric in metrics if metric["type"] == "auc_min")
    assert gate["confidence_interval"] == {"lower_bound": "0.81", "upper_bound": "0.87"}
    assert shown["considerations"]["use_cases"][0] == {"description": "Retention: offers"}


def test_hugging_face_gets_a_yaml_head_that_reads_back() -> None:
    text = hugging_face(card(texts={"intended_use": "a: b\n---\nc"}), "# Card")
    _, head, body = text.split("---\n", 2)
    meta = yaml.safe_load(head)
    result = meta["model-index"][0]["results"][0]
    assert result["task"] == {"type": "tabular-classification"}
    assert {"type": "auc", "value": 0.8391, "name": "auc (test)"} in result["metrics"]
    assert result["dataset"]["revision"] == "a" * 64
    assert body.strip() == "# Card"
    bare = yaml.safe_load(hugging_face(BARE, "").split("---\n")[1])
    assert bare["model-index"][0]["results"] == []


def test_sagemaker_gets_its_sections_within_its_size() -> None:
    shown = sagemaker(card())
    assert shown["model_overview"]["model_version"] == 3
    assert shown["intended_uses"]["risk_rating"] == "High"
    groups = {group["name"]: group["metric_data"] for group in shown["evaluation_details"][0]["metric_groups"]}
    assert {"name": "auc", "type": "number", "value": 0.8391} in groups["test"]
    assert "n = 1409" in groups["gate"][-1]["notes"]
    assert len(json.dumps(shown)) < SAGEMAKER_CHARACTERS_MAX
    assert sagemaker(BARE)["evaluation_details"] == []


def test_the_annex_iv_draft_has_the_nine_headings_and_says_what_is_owed() -> None:
    document = annex_iv(card())
    assert [section["heading"] for section in document["sections"]] == list(HEADINGS)
    assert document["sections"][0]["known"]["Intended purpose"] == "Retention: offers"
    assert document["sections"][7]["owed"] != []
    assert "Intended purpose" in annex_iv(BARE)["sections"][0]["owed"]
    text = annex_iv_markdown(annex_iv(card(texts={"intended_use": "<script>x</script>"})))
    assert sum(line.startswith("## ") for line in text.splitlines()) == 9
    assert "<script>" not in text.replace("\\<", "")


def test_openlineage_events_of_one_run_share_their_run_id() -> None:
    def event(version: int, run: str) -> dict[str, Any]:
        lineage = {**facts().lineage, "run_id": run, "pipeline": "churn@3", "parent_version": 1}
        made = facts()
        return run_event(
            model="churn",
            version=version,
            manifest_digest="f" * 64,
            lineage=lineage,
            params={"max_depth": 5},
            at=made.created_at,
        )

    one = event(2, "run_1")
    assert one["run"]["runId"] == event(3, "run_1")["run"]["runId"] != event(2, "run_2")["run"]["runId"]
    assert one["job"]["name"] == "churn"
    names = [(entry["name"], entry["facets"]["version"]["datasetVersion"]) for entry in one["inputs"]]
    assert names == [("training-sets/churn", "a" * 64), ("models/churn", "1")]
    assert one["outputs"][0]["facets"]["version"]["datasetVersion"] == "2"
    assert all("_producer" in facet and "_schemaURL" in facet for facet in one["run"]["facets"].values())
