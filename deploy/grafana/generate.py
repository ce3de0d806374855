# ruff: noqa: INP001 - a program of its own, no package
"""Writes the dashboards beside it: ``python deploy/grafana/generate.py``. Nobody edits the JSON by hand.

A dashboard is a list of rows, a row a list of panels; places are computed. A test holds the files against
this program and every series against the services' own.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_WIDTH, _HEIGHT = 24, 8
_MODEL = '{endpoint=~"$endpoint", model_version=~"$version"}'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: PromQL by legend.
        unit: Grafana's name of the unit.
        limit: A red line, where one is fixed.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    description: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: rows of panels, and the variables that they use."""

    uid: str
    title: str
    rows: dict[str, list[Panel]]
    variables: dict[str, str] = field(default_factory=dict)


def labelled(series: str, **labels: str) -> str:
    """Select a monitor's series of the chosen endpoint and version."""
    extra = "".join(f', {name}="{value}"' for name, value in labels.items())
    return f"{series}{_MODEL[:-1]}{extra}}}"


MODELS = Dashboard(
    uid="clave-models",
    title="clave: models",
    variables={
        "endpoint": "label_values(clave_monitor_window_rows, endpoint)",
        "version": 'label_values(clave_monitor_window_rows{endpoint=~"$endpoint"}, model_version)',
    },
    rows={
        "Performance": [
            Panel(
                "Realised, estimated, reference: AUC",
                {
                    "realised": labelled("clave_realised_performance", metric="auc"),
                    "estimated": labelled("clave_estimated_performance", metric="auc"),
                    "reference": labelled("clave_reference_performance", metric="auc"),
                },
                "percentunit",
                description="The estimate is blind to concept drift; realised figures stand on labelled rows only.",
            ),
            Panel(
                "Realised, estimated, reference: Brier score",
                {
                    "realised": labelled("clave_realised_performance", metric="brier"),
                    "estimated": labelled("clave_estimated_performance", metric="brier"),
                    "reference": labelled("clave_reference_performance", metric="brier"),
                },
            ),
            Panel(
                "Evidence of harm and its limit (powers of ten)",
                {
                    "evidence": labelled("clave_performance_harm_log10"),
                    "limit": labelled("clave_performance_harm_limit_log10"),
                },
            ),
        ],
        "Drift": [
            Panel(
                "Evidence (powers of ten)",
                {"{{scope}}": labelled("clave_drift_evalue_log10")},
                limit=3.0,
                description="At 3 the evidence has fired; false alarms are 1,000 windows apart on average, at least.",
            ),
            Panel(
                "Effect, at least",
                {"{{scope}}": labelled("clave_drift_effect_lcb_max")},
                limit=0.05,
                description="Lower confidence bound on the greatest distance; drift needs evidence and effect.",
            ),
            Panel(
                "Features that moved most in the last window",
                {"{{feature}}": f"topk(8, {labelled('clave_drift_effect')})"},
                kind="bargauge",
            ),
        ],
        "Data and labels": [
            Panel(
                "Data-quality violations per window",
                {
                    "{{feature}} {{check}}": f"increase({labelled('clave_data_quality_violations_total')}[1h])",
                },
            ),
            Panel("Label coverage", {"coverage": labelled("clave_label_coverage_ratio")}, "percentunit"),
            Panel(
                "Label delay",
                {
                    "p50": "histogram_quantile(0.5, sum by (le) "
                    f"(rate({labelled('clave_label_delay_seconds_bucket')}[1h])))",
                    "p90": "histogram_quantile(0.9, sum by (le) "
                    f"(rate({labelled('clave_label_delay_seconds_bucket')}[1h])))",
                },
                "s",
            ),
        ],
        "Fairness and decisions": [
            Panel(
                "Widest difference between groups",
                {"{{attribute}}: {{metric}}": labelled("clave_fairness_gap")},
                "percentunit",
            ),
            Panel(
                "Decisions",
                {"{{decision}}: {{reason}}": f"increase({labelled('clave_retrain_decisions_total')}[1h])"},
            ),
            Panel(
                "Rows that wait for a window",
                {"waiting": labelled("clave_monitor_waiting_rows"), "window": labelled("clave_monitor_window_rows")},
            ),
        ],
    },
)

INFERENCE = Dashboard(
    uid="clave-inference",
    title="clave: inference",
    variables={"endpoint": "label_values(clave_inference_duration_seconds_count, endpoint)"},
    rows={
        "Traffic": [
            Panel(
                "Requests by version and arm",
                {
                    "v{{version}} {{arm}}": "sum by (version, arm) "
                    '(rate(clave_inference_duration_seconds_count{endpoint=~"$endpoint"}[1m]))',
                },
                "reqps",
            ),
            Panel(
                "Rows by version",
                {"v{{version}}": 'sum by (version) (rate(clave_predictions_total{endpoint=~"$endpoint"}[1m]))'},
            ),
            Panel(
                "Answers by code",
                {
                    "{{code}}": "sum by (code) "
                    '(rate(clave_inference_duration_seconds_count{endpoint=~"$endpoint"}[1m]))',
                },
                "reqps",
            ),
        ],
        "Latency and errors": [
            Panel(
                "Latency",
                {
                    f"p{int(100 * q)}": f"histogram_quantile({q}, sum by (le) "
                    '(rate(clave_inference_duration_seconds_bucket{endpoint=~"$endpoint"}[5m])))'
                    for q in (0.5, 0.9, 0.99)
                },
                "s",
            ),
            Panel(
                "Share of errors",
                {
                    "5 m": 'endpoint:clave_inference_errors:ratio_rate5m{endpoint=~"$endpoint"}',
                    "1 h": 'endpoint:clave_inference_errors:ratio_rate1h{endpoint=~"$endpoint"}',
                },
                "percentunit",
                limit=0.001,
            ),
            Panel(
                "Scores given",
                {
                    "median": "histogram_quantile(0.5, sum by (le) "
                    '(rate(clave_prediction_score_bucket{endpoint=~"$endpoint"}[5m])))',
                },
                "percentunit",
            ),
        ],
        "Inside": [
            Panel("Rows that wait", {"queued": "clave_inference_queued_rows"}),
            Panel("Prediction records not yet on the stream", {"waiting": "clave_prediction_log_waiting"}),
            Panel("Loaded versions", {"{{model}} {{version}} {{state}}": "clave_inference_model_version"}),
        ],
    },
)

DASHBOARDS = (MODELS, INFERENCE)


def rendered(dashboard: Dashboard) -> str:
    """Write a dashboard as Grafana reads it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in dashboard.rows.items():
        panels.append({"type": "row", "title": title, "gridPos": _place(0, top, _WIDTH, 1), "id": len(panels) + 1})
        width = _WIDTH // len(row)
        for i, panel in enumerate(row):
            panels.append(_panel(panel, len(panels) + 1, _place(i * width, top + 1, width, _HEIGHT)))
        top += 1 + _HEIGHT
    body = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["clave"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_variable(name, query) for name, query in dashboard.variables.items()]},
        "panels": panels,
    }
    return json.dumps(body, indent=1) + "\n"


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    custom = {"thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": custom if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
            for i, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.uid}.json").write_text(rendered(dashboard))


if __name__ == "__main__":
    main()
