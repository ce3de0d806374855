"""MLflow's search grammar: what it takes, and where it says it went wrong."""

import gc
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
        ("name = 'a' AND name LIKE 'b\\\\\\'", 29),
        ("timestamp > 1e999", 12),
        ("timestamp > -" + "9" * 400, 12),
        ("name = 'a\0'", 9),
        ("name LIKE '" + "%a" * 21 + "'", 10),
        ("tags.k ILIKE '" + "%" * 21 + "'", 13),
        ("name IN (" + ", ".join(["'a'"] * 1001) + ")", 5007),
        ("name = '" + "a" * 20_000 + "'", 20_000),
        (" AND ".join(["name = 'a'"] * 101), 1496),
    ],
)
def test_a_refusal_names_the_position(source: str, position: int) -> None:
    with pytest.raises(BadFilter) as caught:
        parse_filter(source, REGISTERED_MODELS)
    assert caught.value.facts["position"] == position


def test_patterns_and_lists_within_their_bounds_are_taken() -> None:
    for source in ("name LIKE '" + "%a" * 20 + "'", "name LIKE 'a\\\\'", "name = 'a\\'", "name = '" + "%" * 500 + "'"):
        assert len(parse_filter(source, REGISTERED_MODELS)) == 1
    (found,) = parse_filter("run_id IN (" + ",".join(f"'{n}'" for n in range(1000)) + ")", RUNS)
    assert isinstance(found.value, tuple)
    assert len(found.value) == 1000


@pytest.mark.parametrize(
    ("terms", "field", "position"),
    [
        (["name", "name DESC"], "order_by[1]", 0),
        (["name", "name sideways"], "order_by[1]", 5),
        (["nope"], "order_by[0]", 0),
        ([""], "order_by[0]", 0),
        ([f"tags.k{n}" for n in range(21)], "order_by[20]", 0),
        (["tags.`" + "x" * 1000 + "`"], "order_by[0]", 1000),
        (["tags.`a\0`"], "order_by[0]", 7),
    ],
)
def test_a_refused_order_names_the_term_and_the_position(terms: list[str], field: str, position: int) -> None:
    with pytest.raises(BadFilter) as caught:
        parse_order(terms, REGISTERED_MODELS)
    assert (caught.value.facts["field"], caught.value.facts["position"]) == (field, position)


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
    "bomb",
    [
        "a" * 20_000,
        "(" * 20_000,
        "name = '" + "%" * 19_000,
        "a." * 10_000,
        " " * 19_999 + "x",
        "(" * 10_000 + ")" * 10_000,
        "start_time > " + "1" * 19_000,
        "start_time > " + "1e" * 9_000,
        "tags.`" * 3_000,
        "run_id IN (" + "'a'," * 4_000,
        "\u00a0" * 10_000 + "'" * 9_999,
        "x" * 5_000_000,
    ],
)
def test_no_text_takes_long(bomb: str) -> None:
    gc.disable()  # what a collection costs is told by the other tests' objects
    try:
        started = time.thread_time()
        with pytest.raises(BadFilter):
            parse_filter(bomb, RUNS)
        assert time.thread_time() - started < 0.5
    finally:
        gc.enable()


def test_sources_are_read_strictly() -> None:
    model = "m-" + "0" * 32
    assert parse_source(f"models:/{model}") == LoggedModelSource(model)
    assert parse_source("models:/churn/3") == VersionSource("churn", 3)
    assert parse_source("runs:/abc/path/model") == RunSource("abc", "path/model")
    assert parse_source("mlflow-artifacts:/0/r/artifacts/m") == FolderSource("0/r/artifacts/m")
    assert parse_source("mlflow-artifacts://host:1/0/r/artifacts/m") == FolderSource("0/r/artifacts/m")
    assert parse_source("s3://bucket/key") == ForeignSource("s3://bucket/key")
