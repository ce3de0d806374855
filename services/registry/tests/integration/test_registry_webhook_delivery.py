"""Webhooks from the change that causes an event to the receiver's door, through outbox, stream and delivery log."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from clave_common.background import Background
from clave_common.clock import SystemClock
from clave_common.outbox import OutboxRelay
from clave_common.redis_client import connect_redis
from clave_common.streams import Entry, StreamConsumer
from clave_registry.domain.webhook import AllowList
from clave_registry.runtime.webhook_sender import WebhookSender
from clave_registry.services.webhook_deliveries import WebhookDeliveries
from clave_testing.patience import PATIENCE_S
from clave_testing.servers import new_redis
from registry_bench import API, Bench, register
from sqlalchemy import text

pytestmark = pytest.mark.integration
HOOKS = f"{API}/webhooks"


class Receiver:
    """A receiver on loopback: answers with `status`, keeps headers and body of what came."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.came = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append((headers, body))
        self.came.set()
        writer.write(f"HTTP/1.1 {self.status} X\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(address: str, port: int = 0) -> AsyncIterator[Receiver]:
    found = Receiver()
    server = await asyncio.start_server(found.serve, address, port)
    found.url = f"http://{address}:{server.sockets[0].getsockname()[1]}/hook"
    async with server:
        yield found


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving("127.0.0.1") as found:
        yield found


async def created(bench: Bench, receiver: Receiver, **fields: Any) -> dict[str, Any]:
    answer = await bench.call("user:eve", "POST", HOOKS, {"url": receiver.url, **fields}, expect=201)
    webhook: dict[str, Any] = answer.json()
    return webhook


async def consumed(bench: Bench) -> None:
    """Hand the outbox's events to the webhooks as the stream would."""
    rows = await bench.rows("select id, body from registry.outbox where stream = 'clave.events.registry' order by seq")
    entries = [Entry("clave.events.registry", b"0", row["id"], bytes(row["body"])) for row in rows]
    await bench.wired.deliveries.handle(entries)


async def delivered(bench: Bench) -> None:
    await consumed(bench)
    while await bench.wired.deliveries.deliver_due():
        pass


async def make_due(bench: Bench) -> None:
    async with bench.database.transaction() as tx:
        await tx.session.execute(text("update registry.webhook_deliveries set next_at = now() where status='pending'"))


async def log(bench: Bench, webhook: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    answer = await bench.call("user:eve", "GET", f"{HOOKS}/{webhook['id']}/deliveries", params=params, expect=200)
    found: list[dict[str, Any]] = answer.json()["deliveries"]
    return found


def signed_by(secret: str, headers: dict[str, str], body: bytes) -> bool:
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
    return expected in headers["webhook-signature"].split(" ")


async def test_a_registered_version_reaches_the_receiver_once_and_signed(bench: Bench, receiver: Receiver) -> None:
    webhook = await created(bench, receiver, events=["ModelVersionRegistered"])
    await register(bench)
    await delivered(bench)
    await delivered(bench)  # the stream gives an event at least once; it is delivered once
    ((headers, body),) = receiver.received
    event = orjson.loads(body)
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert (event["specversion"], event["type"]) == ("1.0", "ModelVersionRegistered")
    assert event["data"]["model"] == "churn"
    assert headers["webhook-id"] == event["id"]
    assert signed_by(webhook["secret"], headers, body)
    (entry,) = await log(bench, webhook)
    assert (entry["status"], entry["attempts"][0]["status"], entry["next_at"]) == ("delivered", 200, None)


async def test_events_go_through_outbox_and_stream(bench: Bench, receiver: Receiver) -> None:
    redis = connect_redis(new_redis())
    await created(bench, receiver)
    await register(bench)
    while await OutboxRelay(bench.database, redis, None).relay_once():
        pass
    consumer = StreamConsumer(
        redis, streams=["clave.events.registry"], group="registry-webhooks", consumer="t", block_ms=50
    )
    background = Background()
    background.add("events", lambda: consumer.run(bench.wired.deliveries.handle, background, "events"))
    background.add("webhooks", lambda: bench.wired.deliveries.run(background))
    async with background, asyncio.timeout(PATIENCE_S):
        await receiver.came.wait()
    await redis.aclose()
    assert orjson.loads(receiver.received[0][1])["type"] == "ModelVersionRegistered"


async def test_a_failing_receiver_is_tried_again_with_a_pause_and_then_gets_the_same_event(
    bench: Bench, receiver: Receiver
) -> None:
    webhook = await created(bench, receiver)
    receiver.status = 503
    await register(bench)
    await delivered(bench)
    (waiting,) = await log(bench, webhook)
    assert (waiting["status"], [a["status"] for a in waiting["attempts"]]) == ("pending", [503])
    assert waiting["next_at"] > waiting["attempts"][0]["at"]
    assert await bench.wired.deliveries.deliver_due() == 0
    receiver.status = 200
    await make_due(bench)
    await delivered(bench)
    (done,) = await log(bench, webhook)
    assert (done["status"], [a["status"] for a in done["attempts"]]) == ("delivered", [503, 200])
    assert receiver.received[0][1] == receiver.received[1][1]
    assert receiver.received[0][0]["webhook-id"] == receiver.received[1][0]["webhook-id"]


async def test_a_receiver_that_is_gone_switches_its_webhook_off(bench: Bench, receiver: Receiver) -> None:
    webhook = await created(bench, receiver)
    receiver.status = 410
    await register(bench)
    await delivered(bench)
    shown = (await bench.call("user:eve", "GET", f"{HOOKS}/{webhook['id']}", expect=200)).json()
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "the receiver answered 410 Gone")
    (failed,) = await log(bench, webhook, status="failed")
    receiver.status = 200
    await bench.call("user:eve", "PATCH", f"{HOOKS}/{webhook['id']}", {"enabled": True}, expect=200)
    await bench.call("user:eve", "POST", f"{HOOKS}/{webhook['id']}/deliveries/{failed['id']}/redeliver", expect=202)
    await delivered(bench)
    assert [entry["status"] for entry in await log(bench, webhook)] == ["delivered"]


async def test_after_a_rotation_both_secrets_hold_for_a_while(bench: Bench, receiver: Receiver) -> None:
    webhook = await created(bench, receiver)
    again = (await bench.call("user:eve", "POST", f"{HOOKS}/{webhook['id']}/rotate-secret", expect=200)).json()
    assert again["secret"] != webhook["secret"]
    await bench.call("user:eve", "POST", f"{HOOKS}/{webhook['id']}/ping", expect=202)
    await delivered(bench)
    ((headers, body),) = receiver.received
    assert orjson.loads(body)["type"] == "WebhookPinged"
    assert signed_by(webhook["secret"], headers, body)
    assert signed_by(again["secret"], headers, body)
    shown = (await bench.call("user:eve", "GET", f"{HOOKS}/{webhook['id']}", expect=200)).json()
    assert shown["secret"] is None
    stored = await bench.rows("select to_jsonb(w)::text as text from registry.webhooks w")
    assert again["secret"] not in stored[0]["text"]


async def test_a_webhook_hears_only_what_it_asked_for(bench: Bench, receiver: Receiver) -> None:
    await created(bench, receiver, events=["ModelAliasChanged"], model="other")
    await created(bench, receiver, events=["ModelAliasChanged"], model="churn")
    await register(bench)
    await bench.call("user:eve", "PUT", f"{API}/models/churn/aliases/champion", {"version": 1}, expect=200)
    await bench.call("user:eve", "DELETE", f"{API}/models/churn/aliases/champion", expect=204)
    await delivered(bench)
    events = [orjson.loads(body) for _, body in receiver.received]
    assert sorted(event["data"]["version"] or 0 for event in events) == [0, 1]
    assert {event["type"] for event in events} == {"ModelAliasChanged"}


async def test_openlineage_receivers_get_run_events(bench: Bench, receiver: Receiver) -> None:
    await created(bench, receiver, format="openlineage")
    await register(bench)
    await bench.call("user:ana", "POST", f"{API}/models/churn/versions/1/submit", {}, expect=200)
    await delivered(bench)
    ((_, body),) = receiver.received
    event = orjson.loads(body)
    assert event["eventType"] == "COMPLETE"
    assert event["inputs"][0]["facets"]["version"]["datasetVersion"] == "a" * 64
    assert event["outputs"][0]["name"] == "models/churn"


async def test_a_name_that_leads_inside_after_it_was_registered_reaches_nobody(bench: Bench) -> None:
    """DNS rebinding: the name led to an allowed address, and leads to this machine when it is asked again."""
    answers, asked = ["127.0.0.9", "127.0.0.1"], list[str]()

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return [answers[len(asked) - 1]]

    sender = WebhookSender(AllowList.of("*.example.org", "127.0.0.9/32"), resolve=resolve)
    deliveries = WebhookDeliveries(bench.database, SystemClock(), sender, key=b"under test")
    async with receiving("127.0.0.9") as outside:
        port = urlsplit(outside.url).port or 0
        async with receiving("127.0.0.1", port) as canary:
            outside.url = f"http://hooks.example.org:{port}/"
            webhook = await created(bench, outside)
            for _ in answers:
                await bench.call("user:eve", "POST", f"{HOOKS}/{webhook['id']}/ping", expect=202)
                await deliveries.deliver_due()
            tries = [each["attempts"][0] for each in await log(bench, webhook)]
    assert asked == ["hooks.example.org"] * 2
    assert sorted(each["status"] or 0 for each in tries) == [0, 200]
    assert [each["error"][:16] for each in tries if each["error"]] == ["host_not_allowed"]
    assert (len(outside.received), canary.received) == (1, [])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"url": "https://evil.example.com/"}, 403, "host_not_allowed"),
        ({"url": "https://169.254.169.254/latest"}, 403, "host_not_allowed"),
        ({"url": "https://user:pw@a.example.org/"}, 422, "invalid_webhook_url"),
        ({"url": "gopher://a.example.org/"}, 422, "invalid_webhook_url"),
        ({"url": "https://a.example.org/", "surprise": 1}, 422, None),
        ({"url": "https://a.example.org/", "events": ["Nonsense"]}, 422, None),
        ({"url": "https://a.example.org/" + "x" * 2000}, 422, None),
    ],
)
async def test_bad_webhooks_are_refused(bench: Bench, body: dict[str, Any], status: int, code: str | None) -> None:
    answer = await bench.call("user:eve", "POST", HOOKS, body)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code
    assert (await bench.call("user:eve", "GET", HOOKS, expect=200)).json()["webhooks"] == []


async def test_only_who_may_manages_webhooks_and_a_stale_state_is_not_changed(bench: Bench) -> None:
    body = {"url": "https://a.example.org/in"}
    await bench.call("user:ana", "POST", HOOKS, body, expect=403)
    await bench.call("user:vic", "GET", HOOKS, expect=403)
    headers = {"idempotency-key": "hook-1"}
    first = (await bench.call("user:eve", "POST", HOOKS, body, headers=headers, expect=201)).json()
    second = (await bench.call("user:eve", "POST", HOOKS, body, headers=headers, expect=409)).json()
    assert (second["code"], second["id"]) == ("secret_shown_once", first["id"])
    other = await bench.call("user:eve", "POST", HOOKS, {**body, "description": "x"}, headers=headers)
    assert other.status_code == 422
    path = f"{HOOKS}/{first['id']}"
    tag = (await bench.call("user:eve", "GET", path, expect=200)).headers["etag"]
    await bench.call("user:eve", "PATCH", path, {"description": "b"}, headers={"if-match": tag}, expect=200)
    stale = await bench.call("user:eve", "DELETE", path, headers={"if-match": tag})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_if_match")
    await bench.call("user:eve", "DELETE", path, expect=204)
    await bench.call("user:eve", "GET", path, expect=404)
