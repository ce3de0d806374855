"""Attacks on a running stack, through the edge and at the services' own ports: no answer without a decision."""

import asyncio
import base64
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
from clave_common.access.service_tokens import ServiceTokenMinter
from clave_testing.patience import BUSY_S, PATIENCE_S
from clave_testing.stack import Stack

pytestmark = pytest.mark.stack
API = "/api/gateway/v1"
SERVICES = ("gateway", "registry", "features", "inference", "monitor", "trainer")
# What anybody may ask: health, metrics (on the service's own port only), the OpenAPI documents.
OPEN = re.compile(r"^/(v2/health/(live|ready)|metrics|api/[a-z]+/v1/openapi\.json)$")
PARAMETER = re.compile(r"\{[^}]+\}")


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def viewer(stack: Stack, http: httpx.AsyncClient) -> dict[str, str]:
    """A fresh application that may look and nothing else."""
    body = {"name": f"attacker-{uuid4().hex[:8]}", "role": "viewer"}
    made = await http.post(f"{stack.url}{API}/keys", json=body, headers=stack.headers)
    assert made.status_code == 201, made.text
    return dict(made.json())


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def routes(stack: Stack, http: httpx.AsyncClient) -> list[tuple[str, str, str]]:
    """Every documented route of every service, as (service, method, path)."""
    found = []
    for service in SERVICES:
        document = await http.get(f"{stack.services[service]['http']}/api/{service}/v1/openapi.json")
        assert document.status_code == 200, (service, document.text)
        for path, operations in document.json()["paths"].items():
            concrete = PARAMETER.sub("1", path)
            found += [(service, method.upper(), concrete) for method in operations if not OPEN.match(path)]
    return found


async def test_no_route_answers_without_a_credential(stack: Stack, http: httpx.AsyncClient) -> None:
    every = await routes(stack, http)
    assert len(every) > 80
    for service, method, path in every:
        direct = await http.request(method, stack.services[service]["http"] + path)
        assert direct.status_code in {401, 404}, (service, method, path, direct.status_code, direct.text[:200])
        assert direct.status_code == 401 or "models/1" in path or path.startswith("/v2"), (method, path)
        edge = await http.request(method, stack.url + path)
        assert edge.status_code in {401, 404}, (method, path, edge.status_code)


async def test_identity_headers_of_strangers_mean_nothing(stack: Stack, http: httpx.AsyncClient) -> None:
    spoofed = {
        "x-clave-principal": "user:admin",
        "x-clave-subject": "user:admin",
        "x-clave-on-behalf-of": "user:admin",
        "x-forwarded-user": "admin",
        "x-remote-user": "admin",
        "x-envoy-external-address": "127.0.0.1",
        "x-forwarded-for": "127.0.0.1",
        "cookie": "session=admin",
    }
    for base in (stack.url, stack.services["gateway"]["http"]):
        answer = await http.get(f"{base}{API}/keys", headers=spoofed)
        assert answer.status_code == 401


async def test_a_viewer_stays_a_viewer_whatever_it_claims(
    stack: Stack, http: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    claims = {**bearer(viewer["key"]), "x-clave-on-behalf-of": "user:admin"}
    for base in (stack.url, stack.services["gateway"]["http"]):
        me = await http.get(f"{base}{API}/whoami", headers=claims)
        assert me.json()["subject"] == viewer["principal"]
        for method, path, body in (
            ("GET", "/keys", None),
            ("POST", "/keys", {"name": "x", "role": "admin"}),
            ("POST", "/bindings", {"subject": viewer["principal"], "role": "admin"}),
            ("PUT", "/lockdown", {"on": True, "reason": "because I can"}),
            ("POST", "/policies", {"note": "mine"}),
            ("POST", "/policies/rollback", None),
            ("GET", "/audit", None),
            ("GET", "/snapshot", None),
        ):
            answer = await http.request(method, f"{base}{API}{path}", json=body, headers=claims)
            assert answer.status_code == 403, (method, path, answer.text)


async def test_tokens_of_services_work_for_one_audience_only(stack: Stack, http: httpx.AsyncClient) -> None:
    secrets = stack.data_dir / "secrets"
    minter = ServiceTokenMinter.from_file("trainer", secrets / "trainer.pem")
    token = minter.token("gateway")
    own = await http.get(f"{stack.services['gateway']['http']}{API}/whoami", headers=bearer(token))
    assert own.status_code in {200, 403}
    for service in ("registry", "features", "monitor", "trainer"):
        answer = await http.get(f"{stack.services[service]['http']}{probe(service)}", headers=bearer(token))
        assert answer.status_code == 401, (service, answer.text)
    header, claims, signature = token.split(".")
    forged = {
        "none": ".".join([b64({"alg": "none", "kid": "trainer"}), claims, ""]),
        "hs256": ".".join([b64({"alg": "HS256", "kid": "trainer"}), claims, signature]),
        "another kid": ".".join([b64({"alg": "Ed25519", "kid": "registry"}), claims, signature]),
        "embedded key": ".".join(
            [b64({"alg": "Ed25519", "jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AA"}}), claims, signature]
        ),
        "kid path": ".".join([b64({"alg": "Ed25519", "kid": "../../../etc/passwd"}), claims, signature]),
        "longer life": ".".join([header, b64({**read64(claims), "exp": int(time.time()) + 9_999}), signature]),
    }
    for name, text in forged.items():
        answer = await http.get(f"{stack.services['gateway']['http']}{API}/whoami", headers=bearer(text))
        assert answer.status_code == 401, (name, answer.text)


def probe(service: str) -> str:
    """A read that any viewer may make."""
    return {
        "gateway": f"{API}/whoami",
        "registry": "/api/registry/v1/models",
        "features": "/api/features/v1/views",
        "monitor": "/api/monitor/v1/alerts",
        "trainer": "/api/trainer/v1/pipelines",
    }[service]


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def read64(part: str) -> dict[str, object]:
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


async def test_a_revoked_key_is_refused_by_every_service(
    stack: Stack, http: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    services = ("gateway", "registry", "features", "monitor", "trainer")

    async def status(service: str) -> int:
        url = stack.services[service]["http"] + probe(service)
        return (await http.get(url, headers=bearer(viewer["key"]))).status_code

    assert {service: await status(service) for service in services} == dict.fromkeys(services, 200)
    done = await http.delete(f"{stack.url}{API}/keys/{viewer['id']}", headers=stack.headers)
    assert done.status_code == 204
    revoked_at = time.monotonic()
    waiting = set(services)
    while waiting:
        waiting -= {service for service in waiting if await status(service) == 401}
        assert time.monotonic() - revoked_at < BUSY_S, f"{waiting} still accept the key"
        await asyncio.sleep(0.02)


async def test_unknown_fields_are_refused_not_assigned(stack: Stack, http: httpx.AsyncClient) -> None:
    for path, body in (
        ("/keys", {"name": "x", "role": "viewer", "tenant": "other", "mac": "0", "created_by": "user:x"}),
        ("/bindings", {"subject": "app:x", "role": "viewer", "tenant": "*"}),
        ("/policies", {"note": "x", "signature": "x", "origin": "shipped"}),
    ):
        answer = await http.post(f"{stack.url}{API}{path}", json=body, headers=stack.headers)
        assert answer.status_code == 422, (path, answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/api/registry/v1/blobs/..%2f..%2f..%2fetc%2fpasswd",
        "/api/registry/v1/blobs/%2e%2e/%2e%2e/etc/passwd",
        "/api/registry/v1/blobs/%252e%252e%252fetc%252fpasswd",
        "/api/registry/v1/blobs/....//....//etc/passwd",
        "/api/registry/v1/blobs/%00",
        "/api/registry/v1/blobs/\\..\\..\\etc\\passwd",
        "/api/gateway/v1/keys/..%2f..%2fadmin.key",
        "/api/gateway/v1/decisions/..%2f..%2f..%2fetc%2fpasswd",
        "/api/gateway/v1/audit/entries/..%2f..%2fsecrets/proof",
        "/api/2.0/mlflow-artifacts/artifacts/..%2f..%2f..%2fetc%2fpasswd",
    ],
)
async def test_no_path_leads_out_of_its_folder(stack: Stack, http: httpx.AsyncClient, path: str) -> None:
    for base in (stack.url, stack.services["registry"]["http"], stack.services["gateway"]["http"]):
        answer = await http.get(base + path, headers=stack.headers)
        assert 400 <= answer.status_code < 500, (base, path, answer.status_code)
        assert "root:" not in answer.text


HOSTILE = [
    "' OR 1=1 --",
    "'; drop table gateway.audit_log; --", "%", "\\", "(a+)+$" + "a" * 30 + "!",
    "\x1b[31m\r\nSet-Cookie: x=1",
    "{{7*7}}", "<script>alert(1)</script>", "\u202eadmin", "\x00", "x" * 299, "$(id)", "${jndi:ldap://x}", "../../etc",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_filters_find_nothing_and_break_nothing(stack: Stack, http: httpx.AsyncClient, text: str) -> None:
    for parameter in ("actor", "action", "resource"):
        started = time.monotonic()
        answer = await http.get(f"{stack.url}{API}/audit", params={parameter: text}, headers=stack.headers)
        assert answer.status_code in {200, 400, 422}, answer.text
        assert answer.status_code != 200 or answer.json()["records"] == []
        assert time.monotonic() - started < 5
        assert "set-cookie" not in answer.headers
    whole = await http.post(f"{stack.url}{API}/audit/verify", headers=stack.headers)
    assert whole.json()["ok"], whole.text


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b'{"name": ' + b"1" * 100_000 + b"}",
        b'{"name": NaN, "role": Infinity}',
        b'{"name": 1e400}',
        b"{" + b",".join(b'"k%d":1' % number for number in range(50_000)) + b"}",
        b'{"name":"a","name":"b","role":"viewer","role":"admin","name":7}',
        b"\xff\xfe\x00",
        b"",
    ],
    ids=[
        "deep list",
        "deep object",
        "long number",
        "long field",
        "nan",
        "1e400",
        "many keys",
        "twice",
        "no utf8",
        "empty",
    ],
)
async def test_odd_bodies_are_refused_quickly(stack: Stack, http: httpx.AsyncClient, body: bytes) -> None:
    headers = {**stack.headers, "content-type": "application/json"}
    for path in (f"{API}/keys", f"{API}/bindings", "/access/v1/evaluation"):
        started = time.monotonic()
        answer = await http.post(stack.url + path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text[:300])
        assert time.monotonic() - started < 5


async def test_a_body_over_the_limit_is_refused(stack: Stack, http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 1024 * 1024

    for base in (stack.url, stack.services["gateway"]["http"]):
        try:
            answer = await http.post(f"{base}{API}/keys", content=endless(), headers=stack.headers)
        except httpx.TransportError:
            continue  # cut off in the middle is as good
        assert answer.status_code == 413, answer.text


def listeners(stack: Stack) -> Iterator[tuple[str, int]]:
    for url in (stack.url, *(stack.services[service]["http"] for service in SERVICES)):
        parts = urlsplit(url)
        yield parts.hostname or "127.0.0.1", parts.port or 80


RAW = {
    "both lengths": b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 6\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "two lengths": b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 6\r\nContent-Length: 0\r\n\r\nGET / ",
    "space before colon": b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length : 6\r\n\r\nGET / ",
    "folded": b"GET %s HTTP/1.1\r\nHost: %s\r\nX: a\r\n b\r\n\r\n",
    "nul": b"GET %s HTTP/1.1\r\nHost: %s\r\nX: a\x00b\r\n\r\n",
    "odd encoding": b"POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "trace": b"TRACE %s HTTP/1.1\r\nHost: %s\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: %s%s\r\n\r\n",
    "websocket": b"GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "http 1.0": b"GET %s HTTP/1.0\r\nHost: %s\r\n\r\n",
    "two credentials": b"GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_ambiguous_requests_are_never_answered_with_success(stack: Stack, name: str) -> None:
    for host, port in listeners(stack):
        request = RAW[name] % (f"{API}/keys".encode(), f"{host}:{port}".encode())
        with socket.create_connection((host, port), timeout=PATIENCE_S) as connection:
            connection.settimeout(3)
            connection.sendall(request)
            try:
                answer = connection.recv(4096)
            except (TimeoutError, ConnectionError):
                continue
        status = answer.split(b" ")[1:2]
        assert not status or status[0][:1] in {b"4", b"5"}, (name, port, answer[:200])


async def test_refusals_tell_neither_stack_nor_query(stack: Stack, http: httpx.AsyncClient) -> None:
    for path in (f"{API}/keys/%27", f"{API}/audit?since=x", f"{API}/policies/99999999999999999999", f"{API}/nothing"):
        answer = await http.get(stack.url + path, headers=stack.headers)
        for word in ("Traceback", "sqlalchemy", "psycopg", "SELECT", "/site-packages/"):
            assert word not in answer.text, (path, answer.text)


def test_secrets_are_readable_by_their_owner_only(stack: Stack) -> None:
    files = [path for path in Path(stack.data_dir / "secrets").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path


async def test_no_log_holds_a_credential(stack: Stack, http: httpx.AsyncClient, viewer: dict[str, str]) -> None:
    await http.get(f"{stack.url}{API}/whoami", headers=bearer(viewer["key"]))
    secret = viewer["key"].split("_", 3)[3][:20]
    for path in (stack.data_dir / "logs").glob("*"):
        text = path.read_text(errors="replace")
        assert secret not in text, path
        assert stack.admin_key not in text, path
