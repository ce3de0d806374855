"""Operations that log metrics, params and tags to a run."""

import math
from typing import Any

from clave_common.access import Caller
from clave_common.errors import InvalidArgument
from clave_common.pages import decode_token, encode_token
from sqlalchemy import RowMapping

from clave_registry.mlflow import messages
from clave_registry.mlflow.context import Context, page_size
from clave_registry.mlflow.messages import Message
from clave_registry.mlflow.runs import NAME_TAG, active_run, run_of
from clave_registry.mlflow.values import (
    PARAM_CHARACTERS_MAX,
    RUN_TAG_CHARACTERS_MAX,
    Fields,
    MissingParameter,
    as_number,
    checked_key,
    key_values,
)
from clave_registry.storage.mlflow import runs as rows

METRICS_MAX = 1_000
PARAMS_MAX = 100
TAGS_MAX = 100
HISTORY_MAX = 1_000_000


class Metrics:
    """Log values to runs and read their histories."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def log_metric(self, caller: Caller, fields: Fields) -> Message:
        """Log one value of a metric."""
        value = self._metric(fields)
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            await rows.add_metrics(tx, row["run_id"], [value])
        return {}

    async def log_parameter(self, caller: Caller, fields: Fields) -> Message:
        """Log one param; it never changes afterwards."""
        params = key_values([fields], what="param", length_max=PARAM_CHARACTERS_MAX, cut=True)
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            merged = merged_params(row, params)
            if merged != row["params"]:
                await rows.change(tx, row["run_id"], params=merged)
        return {}

    async def log_batch(self, caller: Caller, fields: Fields) -> Message:
        """Log many values in one transaction: all of them or none."""
        given = {name: fields.items(name) for name in ("metrics", "params", "tags")}
        _require_batch(given)
        values = [self._metric(entry) for entry in given["metrics"]]
        params = key_values(given["params"], what="param", length_max=PARAM_CHARACTERS_MAX, cut=True)
        tags = key_values(given["tags"], what="tag", length_max=RUN_TAG_CHARACTERS_MAX, cut=True)
        if len(params) != len(given["params"]):
            raise InvalidArgument("Duplicate parameter keys have been submitted.", field="params")
        async with self._context.database.transaction() as tx:
            row = await active_run(tx, caller, fields)
            changes: dict[str, Any] = {}
            if params:
                changes["params"] = merged_params(row, params)
            if tags:
                changes["tags"] = {**row["tags"], **tags}
                changes["run_name"] = tags.get(NAME_TAG, row["run_name"])
            if changes:
                await rows.change(tx, row["run_id"], **changes)
            await rows.add_metrics(tx, row["run_id"], values)
        return {}

    async def history(self, caller: Caller, fields: Fields) -> Message:
        """List the values of a metric."""
        key = fields.text("metric_key")
        size = page_size(fields.integer("max_results", HISTORY_MAX), most=HISTORY_MAX)
        token = fields.optional("page_token")
        async with self._context.database.transaction() as tx:
            row = await run_of(tx, caller, fields)
            query = f"history:{row['run_id']}:{key}"
            after = decode_token(token, query=query, kinds=(int, int, float, bool)) if token else None
            found = await rows.history(tx, row["run_id"], key, after=after, limit=size + 1)
        answer: Message = {"metrics": [messages.metric(each, run_id=row["run_id"]) for each in found[:size]]}
        if len(found) > size:
            last = found[size - 1]
            position = [last["timestamp"], last["step"], last["value"], last["is_nan"]]
            answer["next_page_token"] = encode_token(position, query=query)
        return answer

    def _metric(self, fields: Fields) -> dict[str, Any]:
        raw = fields.raw("value")
        if raw is None:
            raise MissingParameter("Missing value for required parameter 'value'.", field="value")
        value = as_number("value", raw)
        return {
            "key": checked_key(fields.text("key"), what="metric"),
            "value": 0.0 if math.isnan(value) else value,
            "is_nan": math.isnan(value),
            "timestamp": fields.integer("timestamp", self._context.now_ms()),
            "step": fields.integer("step", 0),
            "model_id": fields.optional("model_id"),
            "dataset_name": fields.optional("dataset_name"),
            "dataset_digest": fields.optional("dataset_digest"),
        }


def merged_params(row: RowMapping, params: dict[str, str]) -> dict[str, str]:
    """Add params to a run's.

    Raises:
        InvalidArgument: One of them is there with another value.
    """
    for key, value in params.items():
        before = row["params"].get(key)
        if before is not None and before != value:
            raise InvalidArgument(
                f"Changing param values is not allowed. Param with key='{key}' was already logged with "
                f"value='{before[:200]}' for run ID='{row['run_id']}'. Attempted logging new value '{value[:200]}'.",
                field=key,
            )
    return {**row["params"], **params}


def _require_batch(given: dict[str, list[Fields]]) -> None:
    for name, most in (("metrics", METRICS_MAX), ("params", PARAMS_MAX), ("tags", TAGS_MAX)):
        if len(given[name]) > most:
            raise InvalidArgument(
                f"A batch logging request can contain at most {most} {name}. Got {len(given[name])} {name}.",
                field=name,
                limit=most,
            )
    total = sum(len(entries) for entries in given.values())
    if total > METRICS_MAX:
        raise InvalidArgument(
            f"A batch logging request can contain at most {METRICS_MAX} entries. Got {total} entries.",
            limit=METRICS_MAX,
        )
