"""A list shows what the policy lets its caller see, whoever asks and whatever the names look like."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from clave_common.access import Caller, governed
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.enforcement import Access
from clave_common.access.filters import visible_row, visible_to
from clave_common.access.policy_bundle import PolicyBundle
from clave_common.access.snapshot import Snapshot
from clave_common.access.verification import Presented
from clave_common.service_app import create_service_app
from clave_testing.policies import engine, shipped_bundle
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from sqlalchemy import Column, MetaData, Table, Text, create_engine, insert, literal, select

pytestmark = pytest.mark.integration
models = Table("models", MetaData(), Column("tenant", Text), Column("name", Text), schema="registry")
ROWS = [("acme", "churn"), ("acme", "churn_2"), ("acme", "fraud"), ("acme", "f%_"), ("rival", "churn")]


def bound(*patterns: str, tenant: str = "acme", role: str = "viewer") -> dict[str, Any]:
    return {"role": role, "tenant": tenant, "namespaces": ["*"], "resources": list(patterns)}


BINDINGS = {
    "user:all": [bound("**")],
    "user:one": [bound("models/churn")],
    "user:odd": [bound("models/f%_"), bound("models/churn/**")],
    "user:platform": [bound("**", tenant="*")],
    "user:elsewhere": [bound("**", tenant="rival")],
    "user:nobody": [],
}


class Named:
    """Takes the credential for the name."""

    async def verify(self, presented: Presented) -> Caller | None:
        name, _, scopes = (presented.authorization or "").partition(" ")
        narrowed = tuple(scopes.split(",")) if scopes else ("**",)
        return Caller(name, "user", "acme", "api_key", 2e9, scopes=narrowed, source_ip="127.0.0.1")


@pytest.fixture
def service(service_database: Callable[[str], str]) -> Any:
    shipped = shipped_bundle()
    bundle = PolicyBundle(shipped.modules, {**shipped.data, "bindings": BINDINGS})
    snapshot = Snapshot(1, 0.0, MappingProxyType({}), bundle)
    access = Access(LocalDecisionPoint(engine(bundle), lambda: snapshot))
    database = create_engine(service_database("registry").replace("postgresql://", "postgresql+psycopg://"))
    router = APIRouter()

    @router.get("/models")
    def listed(caller: Caller = governed("registry:model.list", listing=True)) -> dict[str, Any]:
        condition = visible_to(caller, tenant=models.c.tenant, resource_id=literal("models/") + models.c.name)
        statement = select(models.c.tenant, models.c.name).where(condition)
        compiled = statement.compile(database)
        assert "churn" not in str(compiled), "values travel as bound parameters"
        with database.connect() as connection:
            rows = sorted(tuple(row) for row in connection.execute(statement))
        same = sorted(row for row in ROWS if visible_row(caller, f"models/{row[1]}"))
        assert [name for tenant, name in rows if tenant == "acme"] == [n for t, n in same if t == "acme"]
        return {"names": [f"{tenant}/{name}" for tenant, name in rows]}

    with database.begin() as connection:
        models.drop(connection, checkfirst=True)
        models.create(connection)
        connection.execute(insert(models), [{"tenant": tenant, "name": name} for tenant, name in ROWS])
    yield create_service_app(
        service="listing",
        version="0",
        description="",
        routers=[router],
        access=access,
        verifier=Named(),
        checks={},
        registry=CollectorRegistry(),
    )
    with database.begin() as connection:
        models.drop(connection)
    database.dispose()


@pytest.mark.parametrize(
    ("who", "names"),
    [
        ("user:all", ["acme/churn", "acme/churn_2", "acme/f%_", "acme/fraud"]),
        ("user:one", ["acme/churn"]),
        ("user:odd", ["acme/f%_"]),
        ("user:platform", ["acme/churn", "acme/churn_2", "acme/f%_", "acme/fraud", "rival/churn"]),
    ],
)
async def test_each_caller_sees_the_rows_that_its_roles_reach(service: Any, who: str, names: list[str]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://x") as http:
        answer = await http.get("/models", headers={"authorization": who})
    assert (answer.status_code, answer.json()) == (200, {"names": names})


@pytest.mark.parametrize("who", ["user:nobody", "user:elsewhere", "user:all registry:run.read"])
async def test_whoever_may_see_no_row_may_not_ask(service: Any, who: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://x") as http:
        answer = await http.get("/models", headers={"authorization": who})
    assert answer.status_code == 403, answer.text
