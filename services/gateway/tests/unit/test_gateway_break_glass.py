"""An incident commander changes something outside of its window, from the request's header to the policy's answer."""

from collections.abc import AsyncIterator

import httpx
import pytest
from clave_common.access import Caller, governed
from clave_common.access.decision_point import LocalDecisionPoint
from clave_common.access.enforcement import Access, install_access
from clave_common.access.middleware import AccessMiddleware
from clave_common.access.snapshot import Snapshot
from clave_common.access.verification import Presented
from clave_common.problems import install_problem_handlers
from clave_testing.policies import engine, sample_bundle
from fastapi import FastAPI

NIGHT = 1794988799.0
"""The last second before Wednesday's window opens."""


class Signed:
    """Whoever calls is an incident commander who showed a second factor."""

    async def verify(self, presented: Presented) -> Caller:
        amr = ("pwd", "mfa") if presented.authorization else ("pwd",)
        return Caller("user:ivan", "user", "acme", "oidc", NIGHT + 60, amr=amr, source_ip="10.1.2.3")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    bundle = sample_bundle()
    held = Snapshot(1, NIGHT, {}, bundle)
    access = Access(LocalDecisionPoint(engine(bundle), lambda: held, now=lambda: NIGHT))
    install_access(app, access)
    install_problem_handlers(app)

    @app.delete("/deployment")
    async def delete(
        caller: Caller = governed(
            "inference:deployment.delete", resource_id="endpoints/fraud", properties={"namespace": "Production"}
        ),
    ) -> str:
        return "deleted"

    door = AccessMiddleware(app, verifier=Signed(), service="test", access=access)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=door), base_url="http://x") as client:
        yield client


async def test_a_ticket_and_a_reason_open_the_window_for_whoever_may(http: httpx.AsyncClient) -> None:
    ticket = {"clave-break-glass": "INC-12345 the model answers NaN", "authorization": "x"}
    assert (await http.delete("/deployment", headers=ticket)).status_code == 200
    for glass in ("", "INC-12345", "INC-12345 short", "JIRA-1 the model answers NaN", "x" * 9000):
        answer = await http.delete("/deployment", headers={**ticket, "clave-break-glass": glass})
        assert (answer.status_code, answer.json()["reasons"]) == (403, ["outside_change_window"]), glass
    single = await http.delete("/deployment", headers={"clave-break-glass": ticket["clave-break-glass"]})
    assert single.json()["reasons"] == ["mfa_required", "outside_change_window"]


async def test_one_requests_ticket_serves_no_other(http: httpx.AsyncClient) -> None:
    ticket = {"clave-break-glass": "INC-12345 the model answers NaN", "authorization": "x"}
    assert (await http.delete("/deployment", headers=ticket)).status_code == 200
    assert (await http.delete("/deployment", headers={"authorization": "x"})).status_code == 403
