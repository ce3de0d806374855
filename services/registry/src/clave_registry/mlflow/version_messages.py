"""Writes a model version in MLflow's form."""

from collections.abc import Sequence

from clave_registry.mlflow.messages import Message, milliseconds, pairs
from clave_registry.storage.records import AliasRow, ShownVersion, VersionRow


def by_version(aliases: Sequence[AliasRow]) -> dict[tuple[str, int], list[str]]:
    """Sort the names of aliases by the version (model id, number) that they name."""
    sorted_out: dict[tuple[str, int], list[str]] = {}
    for alias in aliases:
        sorted_out.setdefault((alias.model_id, alias.version), []).append(alias.alias)
    return sorted_out


def version_message(model: str, row: VersionRow | ShownVersion, aliases: Sequence[str]) -> Message:
    """Write a model version; its number is a string, its status READY once it is there at all."""
    message: Message = {
        "name": model,
        "version": str(row.version),
        "creation_timestamp": milliseconds(row.created_at),
        "last_updated_timestamp": milliseconds(row.updated_at),
        "user_id": row.created_by,
        "current_stage": row.legacy_stage,
        "description": row.description,
        "source": row.source or f"models:/{model}/{row.version}",
        "run_id": row.run_id,
        "run_link": row.run_link,
        "status": "READY",
        "tags": pairs(row.tags),
        "aliases": list(aliases),
    }
    return {**message, "model_id": row.logged_model_id} if row.logged_model_id else message
