"""MLflow's search grammar: what it takes, and where it says it went wrong."""

import time

import pytest
from clave_registry.domain.filters import BadFilter, Condition, Kind, parse_filter, parse_order
from clave_registry.mlflow.grammars import MODEL_VERSIONS, REGISTERED_MODELS, RUNS
from clave_registry.mlflow.sources import (
    FolderSource,
    ForeignSource,
    LoggedModelSource,
    RunSource,
    VersionSource,
    parse_source,
)
from hypothesis import given
from hypothesis import strategies as st


def test_conditions_of_every_kind_are_read() -> None:
    source = (
        "metrics.`val auc` >= 0.5 and params.depth = '3' AND tag.mlflow.user LIKE 'a%' "
        "AND run_id IN ('x', \"y\") AND attributes.status != 'FAILED' AND tags.k IS NOT NULL AND start_time > 17"
    )
    assert parse_filter(source, RUNS) == [
        Condition(Kind.METRIC, "val auc", ">=", 0.5),
        Condition(Kind.PARAM, "depth", "=", "3"),
        Condition(Kind.TAG, "mlflow.user", "LIKE", "a%"),
        Condition(Kind.ATTRIBUTE, "run_id", "IN", ("x", "y")),
        Condition(Kind.ATTRIBUTE, "status", "!=", "FAILED"),
        Condition(Kind.TAG, "k", "IS NOT NULL", None),
        Condition(Kind.ATTRIBUTE, "start_time", ">", 17.0),
    ]
    assert parse_filter("  ", RUNS) == []


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ("name", 4),
        ("name =", 6),
        ("name = x", 7),
        ("name = 5", 7),
        ("name = 'a' OR name = 'b'", 11),
        ("name = 'a' AND", 14),
        ("name > 'a'", 5),
        ("nope = 'a'", 0),
        ("metrics.x > 1", 0),
        ("name IN 'a'", 8),
        ("name IN ()", 9),
        ("(name = 'a')", 0),
        ("name = 'a' ; drop", 11),
        ("name = 'a", 7),
    ],
)
def test_a_refusal_names_the_position(source: str, position: int) -> None:
    with pytest.raises(BadFilter) as caught:
        parse_filter(source, REGISTERED_MODELS)
    assert caught.value.facts["position"] == position


def test_orders_are_read_and_a_key_comes_once() -> None:
    (first, second) = parse_order(["version_number DESC", "name"], MODEL_VERSIONS)
    assert (first.key, first.descending, second.key, second.descending) == ("version_number", True, "name", False)
    for terms in (["name", "name DESC"], ["name sideways"], ["nope"], [""]):
        with pytest.raises(BadFilter):
            parse_order(terms, MODEL_VERSIONS)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(source: str) -> None:
    position = 0
    try:
        parse_filter(source, RUNS)
    except BadFilter as refusal:
        position = refusal.facts["position"]
    assert 0 <= position <= len(source)


@pytest.mark.parametrize(
    "bomb", ["a" * 20_000, "(" * 20_000, "name = '" + "%" * 19_000, "a." * 10_000, " " * 19_999 + "x"]
)
def test_no_text_takes_long(bomb: str) -> None:
    started = time.process_time()
    with pytest.raises(BadFilter):
        parse_filter(bomb, RUNS)
    assert time.process_time() - started < 0.5


def test_sources_are_read_strictly() -> None:
    model = "m-" + "0" * 32
    assert parse_source(f"models:/{model}") == LoggedModelSource(model)
    assert parse_source("models:/churn/3") == VersionSource("churn", 3)
    assert parse_source("runs:/abc/path/model") == RunSource("abc", "path/model")
    assert parse_source("mlflow-artifacts:/0/r/artifacts/m") == FolderSource("0/r/artifacts/m")
    assert parse_source("mlflow-artifacts://host:1/0/r/artifacts/m") == FolderSource("0/r/artifacts/m")
    assert parse_source("s3://bucket/key") == ForeignSource("s3://bucket/key")
