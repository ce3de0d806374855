"""Writes MLflow's messages: ids and versions as strings, non-finite numbers quoted, what is empty left out."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

Message = dict[str, Any]


class Row(Protocol):
    """Anything that gives a column by its name."""

    def __getitem__(self, key: str, /) -> Any:
        """Give a column."""
        ...


def milliseconds(moment: datetime) -> int:
    """Write a time as epoch milliseconds."""
    return int(moment.timestamp() * 1000)


def pairs(values: Mapping[str, str]) -> list[Message]:
    """Write tags or params."""
    return [{"key": key, "value": value} for key, value in sorted(values.items())]


def experiment(row: Row) -> Message:
    """Write an experiment."""
    return {
        "experiment_id": str(row["id"]),
        "name": row["name"],
        "artifact_location": row["artifact_location"],
        "lifecycle_stage": row["lifecycle_stage"],
        "creation_time": row["creation_time"],
        "last_update_time": row["last_update_time"],
        "tags": pairs(row["tags"]),
    }


def run_info(row: Row) -> Message:
    """Write a run's head."""
    info = {
        "run_id": row["run_id"],
        "run_uuid": row["run_id"],
        "run_name": row["run_name"],
        "experiment_id": str(row["experiment_id"]),
        "user_id": row["user_id"],
        "status": row["status"],
        "start_time": row["start_time"],
        "artifact_uri": row["artifact_uri"],
        "lifecycle_stage": row["lifecycle_stage"],
    }
    return info if row["end_time"] is None else {**info, "end_time": row["end_time"]}


def metric(row: Row, *, run_id: str | None = None) -> Message:
    """Write one value of a metric."""
    message: Message = {
        "key": row["key"],
        "value": "NaN" if row["is_nan"] else row["value"],
        "timestamp": row["timestamp"],
        "step": row["step"],
    }
    for name in ("model_id", "dataset_name", "dataset_digest"):
        if row[name]:
            message[name] = row[name]
    return message if run_id is None else {**message, "run_id": run_id}


def run(row: Row, *, metrics: Sequence[Row], datasets: Sequence[Row] = (), models: Sequence[Row] = ()) -> Message:
    """Write a run with its data, inputs and outputs."""
    inputs = [{"model_id": m["model_id"]} for m in models if m["role"] == "input"]
    outputs = [{"model_id": m["model_id"], "step": m["step"]} for m in models if m["role"] == "output"]
    return {
        "info": run_info(row),
        "data": {
            "metrics": [metric(each) for each in metrics],
            "params": pairs(row["params"]),
            "tags": pairs(row["tags"]),
        },
        "inputs": {"dataset_inputs": [dataset_input(each) for each in datasets], "model_inputs": inputs},
        "outputs": {"model_outputs": outputs},
    }


def dataset_input(row: Row) -> Message:
    """Write a run's dataset."""
    dataset = {name: row[name] for name in ("name", "digest", "source_type", "source", "schema", "profile")}
    return {
        "tags": pairs(row["tags"]),
        "dataset": {name: value for name, value in dataset.items() if value},
    }


def logged_model(row: Row, *, metrics: Sequence[Row] = (), registrations: Sequence[Row] = ()) -> Message:
    """Write a logged model."""
    return {
        "info": {
            "model_id": row["model_id"],
            "experiment_id": str(row["experiment_id"]),
            "name": row["name"],
            "creation_timestamp_ms": row["creation_time"],
            "last_updated_timestamp_ms": row["last_updated_time"],
            "artifact_uri": row["artifact_uri"],
            "status": row["status"],
            "status_message": row["status_message"],
            "model_type": row["model_type"],
            "source_run_id": row["source_run_id"],
            "tags": pairs(row["tags"]),
            "registrations": [{"name": r["name"], "version": str(r["version"])} for r in registrations],
        },
        "data": {
            "params": pairs(row["params"]),
            "metrics": [metric(each, run_id=each["run_id"]) for each in metrics],
        },
    }
