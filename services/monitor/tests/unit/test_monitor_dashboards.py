"""Rules and dashboards name series that exist, and dashboards are as their generator writes them."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml
from clave_monitor.runtime.metrics import Metrics
from prometheus_client import CollectorRegistry

DEPLOY = Path(__file__).parents[4] / "deploy"
OTHERS = {  # of inference and the gateway, whose own tests hold them
    "clave_inference_duration_seconds",
    "clave_predictions",
    "clave_prediction_score",
    "clave_prediction_log_waiting",
    "clave_inference_queued_rows",
    "clave_inference_model_version",
    "clave_audit_entries_forged",
}
SUFFIX = re.compile(r"_(total|bucket|count|sum)$")


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("clave_dashboards", DEPLOY / "grafana" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["clave_dashboards"] = module
    spec.loader.exec_module(module)
    return module


def known_series():
    registry = CollectorRegistry()
    Metrics(registry)
    return {SUFFIX.sub("", family.name) for family in registry.collect()} | OTHERS


def unknown_series(expression):
    """Name the series of an expression that nobody exports; recorded ones (with colons) are left out."""
    names = re.findall(r"(?<![:\w])clave_[a-z0-9_]+(?![:\w])", expression)
    return {name for name in names if SUFFIX.sub("", name) not in known_series()}


def test_dashboards_are_as_generated(generator):
    for dashboard in generator.DASHBOARDS:
        stored = (DEPLOY / "grafana" / "dashboards" / f"{dashboard.uid}.json").read_text()
        assert stored == generator.rendered(dashboard), "run: python deploy/grafana/generate.py"


def test_dashboards_show_only_series_that_exist(generator):
    for dashboard in generator.DASHBOARDS:
        expressions = [query for row in dashboard.rows.values() for panel in row for query in panel.queries.values()]
        for expression in [*expressions, *dashboard.variables.values()]:
            assert not unknown_series(expression), expression


def test_rules_use_only_series_that_exist():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "clave.rules.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        assert not unknown_series(rule["expr"]), rule
        assert set(re.findall(r"\b[a-z]+:[a-z_]+:[a-z0-9_]+", rule["expr"])) <= recorded


def test_inhibited_alerts_exist():
    rules = yaml.safe_load((DEPLOY / "prometheus" / "clave.rules.yml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    routes = yaml.safe_load((DEPLOY / "prometheus" / "alertmanager.yml").read_text())
    for rule in routes["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            if not matcher.startswith("alertname"):
                continue
            pattern = re.search(r'"(.*)"', matcher).group(1)
            assert any(re.fullmatch(pattern, name) for name in names), matcher
