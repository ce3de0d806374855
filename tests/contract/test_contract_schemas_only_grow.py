"""What crosses a boundary only grows: the committed snapshot names every model's fields and which are required."""

import importlib
import inspect
import json
import os
from pathlib import Path

import pytest
from pydantic import BaseModel

MODULES = ("events", "features", "registry", "trainer", "monitor", "gateway", "inference")
SNAPSHOT = Path(__file__).with_name("schemas.json")


def schemas() -> dict[str, dict[str, bool]]:
    found = {}
    for module in MODULES:
        loaded = importlib.import_module(f"clave_contracts.{module}")
        for name, model in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(model, BaseModel) and f"{model.__module__}.".startswith(f"{loaded.__name__}."):
                found[f"{module}.{name}"] = {
                    field: info.is_required() for field, info in sorted(model.model_fields.items())
                }
    return found


def test_no_model_or_field_disappears_and_no_request_field_becomes_required():
    now = schemas()
    if os.environ.get("CLAVE_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    before = json.loads(SNAPSHOT.read_text())
    gone = [
        f"{model}.{field}" for model, fields in before.items() for field in fields if field not in now.get(model, {})
    ]
    assert gone == []
    required = [
        f"{model}.{field}"
        for model, fields in before.items()
        for field, was_required in fields.items()
        if now[model][field] and not was_required
    ]
    assert required == []


@pytest.mark.parametrize("module", MODULES)
def test_new_models_are_in_the_snapshot(module):
    before = set(json.loads(SNAPSHOT.read_text()))
    new = {name for name in schemas() if name.startswith(f"{module}.")} - before
    assert new == set(), "run the test once with CLAVE_UPDATE_SNAPSHOTS=1 and review the difference"
