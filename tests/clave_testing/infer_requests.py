"""Predictions that tests of the infer route ask for: rows of four numbers, one of them missing."""

import json
from typing import Any

import httpx

from clave_testing.patience import PATIENCE_S

HEADERS = {"authorization": "Bearer good"}
ROW = [0.1, 0.2, None, 0.4]


def request_body(rows: int = 1, **more: Any) -> dict[str, Any]:
    """Rows as JSON, with more members of the request."""
    tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": ROW * rows}
    return {"inputs": [tensor], **more}


def ask(server: Any, body: Any, *, path: str = "/v2/models/churn/infer", **options: Any) -> httpx.Response:
    """Post a body, bytes as they are, to a running server."""
    headers = {**HEADERS, **options.pop("headers", {})}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(server.url + path, content=content, headers=headers, timeout=PATIENCE_S, **options)
