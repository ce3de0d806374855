"""Writes a model version in MLflow's form."""

from collections.abc import Sequence

from clave_registry.mlflow.messages import Message, milliseconds, pairs
from clave_registry.storage.records import AliasRow, VersionRow


def version_message(model: str, row: VersionRow, aliases: Sequence[AliasRow]) -> Message:
    """Write a model version; its number is a string, its status READY once it is there at all."""
    own = [a.alias for a in aliases if (a.model_id, a.version) == (row.model_id, row.version)]
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
        "aliases": own,
    }
    return {**message, "model_id": row.logged_model_id} if row.logged_model_id else message
