"""A registered version as an OpenLineage run event: which job, run, training sets and model belong together.

Source: OpenLineage spec 2-0-2, RunEvent; facets DatasetVersionDatasetFacet, SchemaDatasetFacet, JobTypeJobFacet,
InputStatisticsInputDatasetFacet. What the standard has no facet for goes into ``clave_modelVersion``.
"""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

PRODUCER = "urn:clave:registry:1"
SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
_RUN_NAMESPACE = uuid.UUID("5f3c1b0e-7d0a-5d0b-9a51-0c1a7e0f2d11")


def run_event(
    *,
    model: str,
    version: int,
    manifest_digest: str,
    lineage: Mapping[str, Any],
    params: Mapping[str, Any],
    at: datetime,
) -> dict[str, Any]:
    """Write the event that says how a version came to be.

    Args:
        model: Name of the registered model.
        version: Its number.
        manifest_digest: sha256 over the version's artifacts.
        lineage: As it was registered.
        params: Hyperparameters.
        at: When it was registered, aware UTC.

    Returns:
        A RunEvent of type COMPLETE. The run's id is a UUID derived from the run's own id, so that every sender of the
        same run names it alike.
    """
    run_id = str(lineage.get("run_id") or f"models/{model}/versions/{version}")
    return {
        "eventType": "COMPLETE",
        "eventTime": at.isoformat(),
        "producer": PRODUCER,
        "schemaURL": SCHEMA,
        "run": {
            "runId": str(uuid.uuid5(_RUN_NAMESPACE, run_id)),
            "facets": {
                "clave_modelVersion": {
                    **_facet("https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"),
                    "runId": run_id,
                    "manifestDigest": manifest_digest,
                    "parameters": dict(params),
                    "trigger": lineage.get("trigger"),
                    "codeVersion": lineage.get("code_version"),
                    "environmentDigest": lineage.get("environment_digest"),
                    "retrainingDecisionId": lineage.get("retraining_decision_id"),
                }
            },
        },
        "job": {
            "namespace": "clave.trainer",
            "name": str(lineage.get("pipeline") or f"register/{model}").partition("@")[0],
            "facets": {
                "jobType": {
                    **_facet(f"{_FACETS}/2-0-3/JobTypeJobFacet.json#/$defs/JobTypeJobFacet"),
                    "processingType": "BATCH",
                    "integration": "CLAVE",
                    "jobType": "TRAINING",
                }
            },
        },
        "inputs": [_input(dataset) for dataset in lineage.get("datasets") or []] + _parent(model, lineage),
        "outputs": [_model(model, version)],
    }


def _facet(schema: str) -> dict[str, str]:
    return {"_producer": PRODUCER, "_schemaURL": schema}


def _version(value: str) -> dict[str, str]:
    schema = f"{_FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
    return {**_facet(schema), "datasetVersion": value}


def _input(dataset: Mapping[str, Any]) -> dict[str, Any]:
    facets: dict[str, Any] = {"version": _version(str(dataset["digest"]))}
    if dataset.get("columns"):
        facets["schema"] = {
            **_facet(f"{_FACETS}/1-1-1/SchemaDatasetFacet.json#/$defs/SchemaDatasetFacet"),
            "fields": [{"name": name} for name in dataset["columns"]],
        }
    statistics = f"{_FACETS}/1-0-0/InputStatisticsInputDatasetFacet.json#/$defs/InputStatisticsInputDatasetFacet"
    return {
        "namespace": "clave.features",
        "name": f"training-sets/{dataset['name']}",
        "facets": facets,
        "inputFacets": {"inputStatistics": {**_facet(statistics), "rowCount": dataset.get("rows")}},
    }


def _parent(model: str, lineage: Mapping[str, Any]) -> list[dict[str, Any]]:
    parent = lineage.get("parent_version")
    return [] if parent is None else [_model(model, int(parent))]


def _model(model: str, version: int) -> dict[str, Any]:
    return {"namespace": "clave.registry", "name": f"models/{model}", "facets": {"version": _version(str(version))}}
