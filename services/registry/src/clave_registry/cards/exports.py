"""A card in the words of others: Google's Model Card Toolkit, Hugging Face, SageMaker.

Nothing is added on the way: what a form has no place for is left out, and what the card does not say stays empty.

Sources: Model Card Toolkit, schema v0.0.2; Hugging Face Hub, model card metadata (``model-index``); Amazon SageMaker,
model card JSON schema.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from clave_registry.domain.card_diff import judged_split

Card = Mapping[str, Any]
SAGEMAKER_CHARACTERS_MAX = 100_000
_RISK_RATING = {"minimal": "Low", "limited": "Medium", "high": "High"}
_HF_TASK = {
    "binary": "tabular-classification",
    "multiclass": "tabular-classification",
    "regression": "tabular-regression",
    "ranking": "tabular-regression",
}


def figures_of(card: Card) -> Iterator[dict[str, Any]]:
    """Give every figure of a card: its type, value, slice, interval and n, where it has them."""
    performance = card["performance"]
    for metric in performance["metrics"]:
        for split, value in metric["values"].items():
            if value is not None:
                yield {"type": metric["name"], "value": value, "slice": split, "low": None, "high": None}
    judged = [(gate["gate"], "gate", gate) for gate in performance["gates"]]
    judged += [(row["metric"], _compared_groups(row), row) for row in performance["fairness"]]
    judged += [(one["name"], row["slice"], one) for row in performance["slices"] for one in row["figures"]]
    for kind, part, row in judged:
        if row.get("estimate") is not None:
            yield {**_figure(row), "type": kind, "slice": part}


def _compared_groups(row: Mapping[str, Any]) -> str:
    attribute = str(row["attribute"])
    return f"{attribute}: {row['group']} to {row['reference']}" if row.get("group") else attribute


def _figure(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": row["estimate"], "low": row.get("low"), "high": row.get("high"), "n": row.get("n")}


def model_card_toolkit(card: Card) -> dict[str, Any]:
    """Write a card as Model Card Toolkit reads it (schema 0.0.2)."""
    details, usage, limits = card["model_details"], card["usage_notes"], card["limitations"]
    performance = card["performance"]
    compared = performance.get("against_champion")
    return {
        "schema_version": "0.0.2",
        "model_details": {
            "name": card["title"],
            "overview": details["overview"],
            "owners": [{"name": owner} for owner in details["owners"]],
            "version": {
                "name": str(details["version"]),
                "date": details["created_at"][:10],
                "diff": f"compared with version {compared['version']}" if compared else "",
            },
            "references": [{"reference": target} for _, target in sorted(card["links"].items())],
        },
        "model_parameters": {
            "model_architecture": details["algorithm"],
            "input_format": _tensors(details["inputs"]),
            "output_format": _tensors(details["outputs"]),
            "data": [
                {
                    "name": data["name"],
                    "description": f"{data['rows']} rows, sha256 {data['digest']}",
                    "link": card["links"].get(f"training set {data['name']}", ""),
                }
                for data in details["training_data"]
            ],
        },
        "quantitative_analysis": {"performance_metrics": [_toolkit_metric(figure) for figure in figures_of(card)]},
        "considerations": {
            "use_cases": [{"description": text} for text in [usage["intended_use"], *usage["notes"]] if text],
            "limitations": [{"description": text} for text in limits["stated"] + limits["found"]],
            "ethical_considerations": [
                {"name": text, "mitigation_strategy": ""} for text in [limits["ethical_considerations"]] if text
            ],
        },
    }


def _tensors(tensors: list[Mapping[str, Any]]) -> str:
    return ", ".join(f"{tensor['name']}: {tensor['datatype']} {tensor['shape']}" for tensor in tensors)


def _toolkit_metric(figure: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"type": figure["type"], "value": str(figure["value"]), "slice": figure["slice"]}
    if figure.get("low") is None or figure.get("high") is None:
        return shown
    interval = {"lower_bound": str(figure["low"]), "upper_bound": str(figure["high"])}
    return {**shown, "confidence_interval": interval}


def hugging_face(card: Card, markdown: str) -> str:
    """Write a card as a Hugging Face README: a YAML head with ``model-index``, then the card in Markdown."""
    details, performance = card["model_details"], card["performance"]
    task = _HF_TASK.get(details["task"] or "binary", "tabular-classification")
    split = judged_split(performance["splits"])
    data = details["training_data"][0] if details["training_data"] else {"name": "unknown", "digest": ""}
    metrics = [
        {"type": metric["name"], "value": metric["values"][split], "name": f"{metric['name']} ({split})"}
        for metric in performance["metrics"]
        if split and metric["values"].get(split) is not None
    ]
    results = [
        {
            "task": {"type": task},
            "dataset": {"name": data["name"], "type": data["name"], "split": split, "revision": data["digest"]},
            "metrics": metrics,
        }
    ]
    head: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": sorted({"tabular", "onnx", f"risk-{card['governance']['risk_class']}"}),
        "datasets": [one["name"] for one in details["training_data"]],
        "metrics": [metric["type"] for metric in metrics],
        "model-index": [{"name": details["id"], "results": results if metrics else []}],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{markdown}"


def sagemaker(card: Card) -> dict[str, Any]:
    """Write a card as SageMaker's model cards take it."""
    details, usage, limits = card["model_details"], card["usage_notes"], card["limitations"]
    governance = card["governance"]
    return {
        "model_overview": {
            "model_name": details["model"],
            "model_id": details["id"],
            "model_version": details["version"],
            "model_description": details["overview"][:1024],
            "model_creator": details["created_by"],
            "model_owner": ", ".join(details["owners"]),
            "problem_type": details["task"] or "",
            "algorithm_type": details["algorithm"],
            "model_artifact": [f"sha256:{details['manifest_digest']}"],
        },
        "intended_uses": {
            "purpose_of_model": details["overview"],
            "intended_uses": usage["intended_use"],
            "risk_rating": _RISK_RATING.get(governance["risk_class"], "Unknown"),
            "explanations_for_risk_rating": f"risk class '{governance['risk_class']}' of the registered model",
        },
        "training_details": {
            "training_observations": usage["retrain_when"],
            "training_job_details": {
                "training_datasets": [f"{data['name']} sha256:{data['digest']}" for data in details["training_data"]],
                "training_environment": {"container_image": []},
                "hyper_parameters": [
                    {"name": name, "value": str(value)} for name, value in sorted(details["parameters"].items())
                ],
            },
        },
        "evaluation_details": _sagemaker_evaluation(card),
        "additional_information": {
            "ethical_considerations": limits["ethical_considerations"],
            "caveats_and_recommendations": "\n".join(limits["stated"] + limits["found"] + usage["notes"]),
            "custom_details": {
                "status": governance["status"],
                "approved_by": governance["approved_by"] or "",
                "run": card["links"].get("run", ""),
            },
        },
    }


def _sagemaker_evaluation(card: Card) -> list[dict[str, Any]]:
    if not card["performance"]["evaluated"]:
        return []
    groups: dict[str, list[dict[str, Any]]] = {}
    for figure in figures_of(card):
        entry = {"name": figure["type"], "type": "number", "value": figure["value"]}
        if figure.get("low") is not None and figure.get("high") is not None:
            entry["notes"] = f"95 % interval {figure['low']:.6g} to {figure['high']:.6g}, n = {figure.get('n')}"
        groups.setdefault(figure["slice"], []).append(entry)
    return [
        {
            "name": "evaluation",
            "evaluation_observation": f"{card['performance']['rows'] or 'unknown'} rows",
            "datasets": [f"sha256:{data['digest']}" for data in card["model_details"]["training_data"]],
            "metric_groups": [{"name": name, "metric_data": data} for name, data in groups.items()],
        }
    ]
