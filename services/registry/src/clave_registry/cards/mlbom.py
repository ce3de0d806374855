"""A version as CycloneDX 1.6: its model card, and the bill of materials of everything it was made of.

Source: CycloneDX specification 1.6 (ECMA-424), ``component.modelCard`` and ``component.data``.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from clave_registry.cards.exports import Card, figures_of

SPEC = "1.6"
_NAMESPACE = uuid.UUID("0d9b7f57-9f55-5b5e-8a40-1a6a6cbe7c2e")


def cyclonedx_card(card: Card) -> dict[str, Any]:
    """Write a card as CycloneDX's ``modelCard``."""
    details, usage, limits = card["model_details"], card["usage_notes"], card["limitations"]
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised"},
        "task": details["task"] or "unknown",
        "modelArchitecture": details["algorithm"] or "unknown",
        "datasets": [{"ref": _data_ref(data)} for data in details["training_data"]],
        "inputs": [{"format": f"{tensor['name']}: {tensor['datatype']}"} for tensor in details["inputs"]],
        "outputs": [{"format": f"{tensor['name']}: {tensor['datatype']}"} for tensor in details["outputs"]],
    }
    considerations: dict[str, Any] = {
        "useCases": [text for text in [usage["intended_use"], *usage["notes"]] if text],
        "technicalLimitations": list(limits["stated"]) + list(limits["found"]),
        "ethicalConsiderations": [{"name": text} for text in [limits["ethical_considerations"]] if text],
        "fairnessAssessments": [
            {"groupAtRisk": f"{row['attribute']} {row.get('group') or ''}".strip(), "harms": _judged(row)}
            for row in card["performance"]["fairness"]
        ],
    }
    return {
        "bom-ref": f"card:{details['id']}",
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [_metric(figure) for figure in figures_of(card)]},
        "considerations": considerations,
    }


def _judged(row: Mapping[str, Any]) -> str:
    interval = f" ({row['low']:.4g} to {row['high']:.4g})" if row.get("low") is not None and row.get("high") else ""
    estimate = "not measured" if row.get("estimate") is None else f"{row['estimate']:.4g}{interval}"
    return f"{row['metric']}: {estimate}; {row.get('verdict') or 'not judged'}"


def _metric(figure: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": figure["type"], "value": str(figure["value"]), "slice": figure["slice"]}
    if figure.get("low") is not None and figure.get("high") is not None:
        shown["confidenceInterval"] = {"lowerBound": str(figure["low"]), "upperBound": str(figure["high"])}
    return shown


def ml_bom(card: Card, artifacts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the bill of materials of a version.

    Args:
        card: Its card.
        artifacts: Its files: ``path``, ``digest``, ``size``, ``media_type``.

    Returns:
        A CycloneDX document; the same version and card give the same serial number.
    """
    details, governance = card["model_details"], card["governance"]
    files = [_file(details["id"], artifact) for artifact in artifacts]
    data = [_data(entry) for entry in details["training_data"]]
    ref = f"model:{details['id']}"
    model = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": details["model"],
        "version": str(details["version"]),
        "description": details["overview"],
        "hashes": [_sha256(details["manifest_digest"])],
        "modelCard": cyclonedx_card(card),
        "properties": _properties(
            {
                "clave:status": governance["status"],
                "clave:risk_class": governance["risk_class"],
                "clave:approved_by": governance["approved_by"],
                "clave:run_id": governance["run_id"],
                "clave:code_version": governance["code_version"],
                "clave:environment_digest": governance["environment_digest"],
                "clave:parent_version": governance["parent_version"],
                **{f"clave:parameter:{name}": value for name, value in sorted(details["parameters"].items())},
            }
        ),
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, details['id'] + details['manifest_digest'])}",
        "version": 1,
        "metadata": {
            "timestamp": details["created_at"],
            "tools": {"components": [{"type": "application", "name": "clave-registry"}]},
            "component": model,
        },
        "components": files + data,
        "dependencies": [
            {"ref": ref, "dependsOn": [component["bom-ref"] for component in files + data]},
            *({"ref": component["bom-ref"]} for component in files + data),
        ],
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": name, "value": str(value)} for name, value in values.items() if value is not None]


def _file(owner: str, artifact: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{owner}/{artifact['path']}",
        "name": artifact["path"],
        "mime-type": artifact["media_type"].partition(";")[0],
        "hashes": [_sha256(artifact["digest"])],
        "properties": _properties({"clave:size": artifact["size"]}),
    }


def _data_ref(data: Mapping[str, Any]) -> str:
    return f"data:{data['name']}@{data['digest']}"


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "clave:rows": data.get("rows"),
        "clave:as_of": data.get("as_of"),
        "clave:feature_service": data.get("feature_service"),
        "clave:consent_policy": data.get("consent_policy"),
        **{f"clave:feature_view:{name}": version for name, version in (data.get("feature_views") or {}).items()},
    }
    return {
        "type": "data",
        "bom-ref": _data_ref(data),
        "name": data["name"],
        "hashes": [_sha256(data["digest"])],
        "data": [{"type": "dataset", "name": data["name"]}],
        "properties": _properties(facts),
    }
