"""Every route of the own API shows an example, and every example is what its model takes or gives."""

from pathlib import Path
from typing import Any, cast

import pytest
from clave_common.access import Access
from clave_common.blobstore import LocalBlobStore
from clave_common.database import Database
from clave_contracts.registry import API
from clave_registry.api.examples import EXAMPLES, with_examples
from clave_registry.app import Settings, wire
from clave_registry.storage.mlflow.tables import metadata
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[APIRoute]:
    folder: Path = tmp_path_factory.mktemp("registry")
    settings = Settings.model_validate(
        {
            "http_port": 47322,
            "database_url": "postgresql://nobody@localhost/nothing",
            "redis_url": "unix:///nowhere",
            "data_dir": folder,
            "secrets_dir": folder,
            "blob_url": f"file://{folder}/blobs",
        }
    )
    absent = cast("Any", None)
    wired = wire(
        settings,
        database=Database("postgresql://nobody@localhost/nothing", metadata, service="registry"),
        store=LocalBlobStore(folder / "blobs"),
        access=Access(absent),
        source=absent,
        membership=absent,
        webhook_key=b"k",
    )
    found = [route for router in wired.routers for route in router.routes if isinstance(route, APIRoute)]
    return [route for route in found if route.path.startswith(API)]


def test_every_route_has_an_example_and_every_example_a_route(routes: list[APIRoute]) -> None:
    keys = {(method, route.path) for route in routes for method in route.methods or ()}
    assert keys - set(EXAMPLES) == set()
    assert set(EXAMPLES) - keys == set()


def test_requests_and_answers_are_what_their_models_say(routes: list[APIRoute]) -> None:
    for route in routes:
        for method in route.methods or ():
            example = EXAMPLES[method, route.path]
            if isinstance(route.response_model, type) and issubclass(route.response_model, BaseModel):
                assert example.answer is not None, route.path
                strict = route.response_model.model_validate(example.answer)
                unknown = set(example.answer) - set(type(strict).model_fields)
                assert unknown == set(), (route.path, unknown)
            body = route.body_field
            if body is not None:
                assert example.request is not None, route.path
                TypeAdapter(body.field_info.annotation).validate_python(example.request)


def test_the_document_shows_them(routes: list[APIRoute]) -> None:
    app = FastAPI()
    for route in routes:
        app.router.routes.append(route)
    path = app.openapi()["paths"][f"{API}/lineage/entity"]["post"]
    shown = path["requestBody"]["content"]["application/json"]
    assert shown["example"] == {"keys": {"customer_id": "7590-VHVEG"}}
    assert "schema" in shown
    answer = path["responses"]["200"]["content"]["application/json"]
    assert answer["example"]["must_retrain"][0]["endpoint"] == "churn"


def test_examples_are_put_on_once(routes: list[APIRoute]) -> None:
    before = [route.openapi_extra for route in routes]
    with_examples([])
    assert [route.openapi_extra for route in routes] == before
