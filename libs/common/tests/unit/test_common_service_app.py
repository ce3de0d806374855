import httpx
import pytest
from clave_common.access import Access, Caller, Decision, Resource, governed
from clave_common.access.routes import UngovernedRoute
from clave_common.access.verification import Presented
from clave_common.errors import InvalidArgument, NotFound, Unauthenticated
from clave_common.service_app import create_service_app
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response


class KeyedVerifier:
    async def verify(self, presented: Presented):
        if presented.authorization is None:
            return None
        if presented.authorization != "Bearer good":
            raise Unauthenticated("Unknown key.")
        return Caller("user:ana", "user", "default", "api_key", 2e9)


class ListedDecisions:
    def __init__(self, *allowed: str):
        self.allowed = allowed

    async def visible(self, caller, action):
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller, action, resource: Resource, context):
        allow = action in self.allowed
        return Decision(allow, () if allow else ("no_grant",), "t", "dec_1", "fake")


def application(router: APIRouter, *allowed: str, checks=None):
    return create_service_app(
        service="registry",
        version="0",
        description="",
        routers=[router],
        access=Access(ListedDecisions(*allowed)),
        verifier=KeyedVerifier(),
        checks=checks or {},
        registry=CollectorRegistry(),
        body_bytes_max=1024,
    )


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://t")


@pytest.fixture
def router():
    router = APIRouter()

    @router.get("/things/{name}")
    async def read(name: str, caller: Caller = governed("registry:model.read", resource_id="models/{name}")):
        if name == "missing":
            raise NotFound(f"There is no thing {name}.", name=name)
        if name == "broken":
            raise RuntimeError("secret detail")
        return {"by": caller.subject_id}

    @router.post("/forgotten")
    async def forgotten(caller: Caller = governed("registry:model.create", in_operation=True)):
        return {"done": True}

    @router.post("/bodies")
    async def bodies(body: dict, caller: Caller = governed("registry:model.read")):
        return body

    return router


GOOD = {"authorization": "Bearer good"}


async def test_a_route_without_an_action_keeps_the_service_from_starting():
    router = APIRouter()

    @router.get("/naked")
    async def naked():
        return {}

    with pytest.raises(UngovernedRoute, match="naked"):
        application(router)


async def test_no_credential_is_401_and_names_the_remedy(router):
    async with client(application(router, "registry:model.read")) as http:
        answer = await http.get("/things/a")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "clave keys create" in answer.json()["detail"]


async def test_a_wrong_credential_is_401(router):
    async with client(application(router, "registry:model.read")) as http:
        answer = await http.get("/things/a", headers={"authorization": "Bearer bad"})
    assert answer.status_code == 401


async def test_two_authorization_headers_are_refused(router):
    headers = [("authorization", "Bearer good"), ("authorization", "Bearer good")]
    async with client(application(router, "registry:model.read")) as http:
        answer = await http.get("/things/a", headers=headers)
    assert answer.status_code == 401


async def test_an_allowed_action_answers_and_a_refused_one_gives_every_reason(router):
    async with client(application(router, "registry:model.read")) as http:
        assert (await http.get("/things/a", headers=GOOD)).json() == {"by": "user:ana"}
    async with client(application(router)) as http:
        answer = await http.get("/things/a", headers=GOOD)
    assert answer.status_code == 403
    assert answer.json()["reasons"] == ["no_grant"]
    assert answer.json()["decision_id"] == "dec_1"


async def test_an_answer_that_nobody_decided_is_withheld(router):
    async with client(application(router, "registry:model.create")) as http:
        answer = await http.post("/forgotten", headers=GOOD)
    assert answer.status_code == 500
    assert "done" not in answer.text


async def test_domain_errors_become_problems_and_unknown_ones_only_an_id(router):
    async with client(application(router, "registry:model.read")) as http:
        missing = await http.get("/things/missing", headers=GOOD)
        broken = await http.get("/things/broken", headers=GOOD)
        unknown_path = await http.get("/nowhere", headers=GOOD)
    assert (missing.status_code, missing.json()["name"]) == (404, "missing")
    assert broken.status_code == 500
    assert "secret" not in broken.text
    assert broken.json()["error_id"].startswith("err_")
    assert unknown_path.status_code == 404


async def test_bodies_over_the_limit_are_413_announced_or_chunked(router):
    async def chunks():
        for _ in range(4):
            yield b" " * 512

    async with client(application(router, "registry:model.read")) as http:
        announced = await http.post("/bodies", headers=GOOD, content=b"x" * 2000)
        chunked = await http.post("/bodies", headers=GOOD, content=chunks())
        malformed = await http.post("/bodies", headers=GOOD, content=b"[")
    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert malformed.status_code == 422


async def test_ready_names_what_is_missing_and_health_needs_no_credential(router):
    async def away():
        raise InvalidArgument("The database does not answer.")

    async with client(application(router, checks={"database": away})) as http:
        live, ready = await http.get("/v2/health/live"), await http.get("/v2/health/ready")
        metrics = await http.get("/metrics")
    assert live.json() == {"live": True, "ready": True}
    assert ready.status_code == 503
    assert ready.json()["missing"] == {"database": "The database does not answer."}
    assert metrics.status_code == 200


async def test_requests_are_counted_by_the_route_that_took_them_and_health_is_not(router):
    app = application(router, "registry:model.read")
    async with client(app) as http:
        for name in ("a", "missing"):
            await http.get(f"/things/{name}", headers=GOOD)
        await http.get("/nowhere", headers=GOOD)
        await http.get("/v2/health/live")
        shown = (await http.get("/metrics")).text
    counted = {line for line in shown.splitlines() if line.startswith("clave_registry_http_requests_total{")}
    assert counted == {
        'clave_registry_http_requests_total{handler="/things/{name}",method="GET",status="2xx"} 1.0',
        'clave_registry_http_requests_total{handler="/things/{name}",method="GET",status="4xx"} 1.0',
        'clave_registry_http_requests_total{handler="none",method="GET",status="4xx"} 1.0',
    }


async def test_a_route_of_a_request_and_its_caller_alone_is_decided_and_refused_like_any_other():
    router = APIRouter()

    @router.get("/plain")
    async def plain(request: Request, caller: Caller = governed("registry:model.read")) -> Response:
        if "broken" in request.query_params:
            raise NotFound("There is nothing here.")
        return Response(caller.subject_id)

    @router.get("/threaded")
    def threaded(request: Request, caller: Caller = governed("registry:model.read")) -> Response:
        return Response(request.url.path)

    async with client(application(router, "registry:model.read")) as http:
        assert (await http.get("/threaded", headers=GOOD)).text == "/threaded"
        answers = [await http.get("/plain", headers=GOOD), await http.get("/plain?broken=1", headers=GOOD)]
        answers += [await http.get("/plain"), await http.post("/plain", headers=GOOD)]
    async with client(application(router)) as http:
        answers.append(await http.get("/plain", headers=GOOD))
    assert [answer.status_code for answer in answers] == [200, 404, 401, 405, 403]
    assert answers[0].text == "user:ana"


async def test_no_path_is_redirected_because_nobody_decided_that(router):
    async with client(application(router, "registry:model.read")) as http:
        for path in ("/things/a/", "/metrics/", "/v2/health/live/"):
            for headers in ({}, GOOD):
                answer = await http.get(path, headers=headers)
                assert (answer.status_code, "location" in answer.headers) == (404, False), path


async def test_a_websocket_is_closed_before_it_opens(router):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "websocket", "path": "/things/a", "headers": [(b"authorization", b"Bearer good")]}
    await application(router)(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
