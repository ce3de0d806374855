"""Webhooks: where they may go, how they are signed, when they are tried again, and what a name may not lead to."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from clave_common.errors import InvalidArgument
from clave_registry.domain.webhook import (
    ATTEMPTS_MAX,
    PAUSE_S_MAX,
    AllowList,
    HostNotAllowed,
    InvalidWebhookUrl,
    Outcome,
    derived_secret,
    outcome_of,
    parsed_target,
    pause_s,
    signature,
)
from clave_registry.runtime.webhook_sender import WebhookSender
from hypothesis import given
from hypothesis import strategies as st

PUBLIC = "93.184.215.14"


def test_a_url_is_read_with_its_usual_port_and_its_query() -> None:
    target = parsed_target("https://Hooks.Example.org./in?a=1")
    assert (target.scheme, target.host, target.port, target.path) == ("https", "hooks.example.org", 443, "/in?a=1")
    assert target.authority == "hooks.example.org"
    assert parsed_target("http://[::1]:8080").authority == "[::1]:8080"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://hooks.example.org/",
        "https:///nowhere",
        "https://user:pw@hooks.example.org/",
        "https://hooks.example.org/#x",
        "https://hooks.example.org:0/",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org/a b",
        "https://hooks.example.org\\@evil.org/",
        "https://hooks.example.org/\r\nX: y",
        "https://h\u00f6oks.example.org/",
        "https://[::1/",
        "https://x.example.org/" + "a" * 2000,
        "file:///etc/passwd",
        "",
    ],
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(InvalidWebhookUrl):
        parsed_target(url)


def test_only_listed_hosts_are_allowed() -> None:
    allowed = AllowList.of("hooks.example.org, *.corp.example", "")
    allowed.require_host(parsed_target("https://hooks.example.org/"))
    allowed.require_host(parsed_target("https://a.b.corp.example/"))
    for url in ("https://example.org/", "https://corp.example/", "https://evilcorp.example/", "https://127.0.0.1/"):
        with pytest.raises(HostNotAllowed):
            allowed.require_host(parsed_target(url))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fc00::1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
    ],
)
def test_a_listed_name_is_no_pass_into_private_networks(address: str) -> None:
    allowed, target = AllowList.of("h.example.org", ""), parsed_target("https://h.example.org/")
    with pytest.raises(HostNotAllowed):
        allowed.require_addresses(target, [PUBLIC, address])
    allowed.require_addresses(target, [PUBLIC])


def test_listed_networks_may_be_reached_and_only_they_by_plain_http() -> None:
    allowed = AllowList.of("h.example.org", "10.0.0.0/8, fd00::/8")
    plain = parsed_target("http://h.example.org/")
    allowed.require_addresses(plain, ["10.1.2.3", "fd00::1"])
    with pytest.raises(HostNotAllowed):
        allowed.require_addresses(plain, [PUBLIC])
    with pytest.raises(HostNotAllowed):
        allowed.require_addresses(plain, [])
    with pytest.raises(InvalidArgument):
        AllowList.of("h", "10.0.0.1/8")


def test_a_delivery_is_signed_as_standard_webhooks_says() -> None:
    # The example of the specification: key, id, time and body give this signature.
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    given_body = b'{"test": 2432232314}'
    found = signature(secret, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=given_body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_differ_by_webhook_and_rotation_and_are_32_bytes() -> None:
    secrets = {derived_secret(b"k", webhook, generation) for webhook in ("a", "b") for generation in (1, 2)}
    assert len(secrets) == 4
    raw = base64.b64decode(derived_secret(b"k", "a", 1).removeprefix("whsec_"))
    assert raw == hmac.new(b"k", b"a:1", hashlib.sha256).digest()


def test_attempts_end_in_delivery_in_giving_up_or_at_once_when_gone() -> None:
    assert outcome_of(204, attempts=1) is Outcome.DELIVERED
    assert outcome_of(302, attempts=1) is Outcome.PENDING
    assert outcome_of(None, attempts=ATTEMPTS_MAX - 1) is Outcome.PENDING
    assert outcome_of(500, attempts=ATTEMPTS_MAX) is Outcome.FAILED
    assert outcome_of(410, attempts=1) is Outcome.GONE


@given(attempts=st.integers(1, ATTEMPTS_MAX - 1), delivery=st.text(max_size=30))
def test_pauses_grow_and_stay_within_their_bounds(attempts: int, delivery: str) -> None:
    pause = pause_s(attempts, delivery_id=delivery)
    assert 4.5 <= pause <= PAUSE_S_MAX * 1.1
    assert pause_s(attempts + 1, delivery_id=delivery) >= pause


class Receiver:
    """A plain HTTP server that answers with one status and remembers what it got."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.requests: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        writer.write(f"HTTP/1.1 {self.status}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(status: str) -> AsyncIterator[Receiver]:
    receiver = Receiver(status)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


def answering(*answers: list[str]) -> tuple[Callable[[str, int], Awaitable[list[str]]], list[str]]:
    """A resolver that gives one answer after the other, as a rebinding name does."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


async def test_the_name_is_resolved_once_and_the_checked_address_is_used() -> None:
    allowed = AllowList.of("hooks.example.org", "127.0.0.0/8")
    async with receiving("200 OK") as receiver:
        resolve, asked = answering(["127.0.0.1"], ["10.0.0.1"])
        sender = WebhookSender(allowed, resolve=resolve)
        target = parsed_target(f"http://hooks.example.org:{receiver.port}/in?x=1")
        attempt = await sender.send(target, b"{}", {"webhook-id": "e1"})
    assert (attempt.status, attempt.error) == (200, "")
    assert asked == ["hooks.example.org"]
    (request,) = receiver.requests
    assert request.startswith(b"POST /in?x=1 HTTP/1.1\r\n")
    assert f"host: hooks.example.org:{receiver.port}".encode() in request.lower()
    assert request.endswith(b"\r\n\r\n{}")


async def test_a_name_that_turns_private_is_not_connected_to() -> None:
    async with receiving("200 OK") as receiver:
        resolve, _ = answering(["127.0.0.1"])
        sender = WebhookSender(AllowList.of("hooks.example.org", ""), resolve=resolve)
        attempt = await sender.send(parsed_target(f"https://hooks.example.org:{receiver.port}/"), b"{}", {})
    assert attempt.status is None
    assert attempt.error.startswith("host_not_allowed")
    assert receiver.requests == []


async def test_redirects_are_not_followed_and_refused_connections_are_an_answer() -> None:
    allowed = AllowList.of("127.0.0.1", "127.0.0.0/8")
    async with receiving("302 Found\r\nlocation: http://169.254.169.254/") as receiver:
        sender = WebhookSender(allowed)
        attempt = await sender.send(parsed_target(f"http://127.0.0.1:{receiver.port}/"), b"{}", {})
        assert (attempt.status, len(receiver.requests)) == (302, 1)
        gone = receiver.port
    attempt = await WebhookSender(allowed).send(parsed_target(f"http://127.0.0.1:{gone}/"), b"{}", {})
    assert attempt.status is None
    assert "ConnectError" in attempt.error
