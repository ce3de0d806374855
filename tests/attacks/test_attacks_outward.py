"""Attack 5: nothing that a caller names makes a service call an address that the operator did not allow.

The session's stack lets webhooks reach one address of this machine and the name `localhost`, which leads to another
one: as a name does that was somebody's when it was listed and leads inside when it is used.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx
import pytest
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.stack import WEBHOOK_RECEIVER, Stack

pytestmark = pytest.mark.stack
INSIDE = ("127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0")
REDIRECTS = (300, 301, 302, 303, 307, 308)
WEBHOOKS = "/api/registry/v1/webhooks"


@dataclass
class Listener:
    """Answers everybody alike on a port of this machine, and remembers what it heard."""

    answer: bytes
    port: int = 0
    heard: list[bytes] = field(default_factory=list)


@contextmanager
def listening(address: str, answer: bytes = b"") -> Iterator[Listener]:
    found = Listener(answer)
    with socket.create_server((address, 0)) as server:
        found.port = server.getsockname()[1]

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    found.heard.append(connection.recv(65536))
                    connection.sendall(found.answer)

        thread = threading.Thread(target=listen)
        thread.start()
        yield found
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def canary() -> Iterator[Listener]:
    """A listener that nothing may call."""
    with listening("127.0.0.1") as found:
        yield found


@pytest.fixture
def doors(stack: Stack) -> Iterator[list[httpx.Client]]:
    """The registry, through the edge and at its own port."""
    bases = (stack.url, stack.services["registry"]["http"])
    clients = [httpx.Client(base_url=base, headers=stack.headers, timeout=PATIENCE_S) for base in bases]
    yield clients
    for client in clients:
        client.close()


def delivered(client: httpx.Client, urls: list[str]) -> list[list[dict[str, Any]]]:
    """Make a webhook for each url, ping all, and give the attempts of each one's first delivery; none when refused."""
    made = [client.post(WEBHOOKS, json={"url": url, "events": ["RolloutChanged"]}) for url in urls]
    assert {answer.status_code for answer in made} <= {201, 403, 422}, [answer.text for answer in made]
    ones = [f"{WEBHOOKS}/{answer.json()['id']}" if answer.status_code == 201 else None for answer in made]
    for one in filter(None, ones):
        assert client.post(f"{one}/ping").status_code == 202

    def attempts(one: str) -> list[dict[str, Any]]:
        return [each for row in client.get(f"{one}/deliveries").json()["deliveries"] for each in row["attempts"]]

    wait_until(lambda: all(attempts(one) for one in ones if one), what="a try to deliver each")
    found = [attempts(one) if one else [] for one in ones]
    for one in filter(None, ones):
        assert client.delete(one).status_code == 204
    return found


def test_no_webhook_reaches_this_machine(doors: list[httpx.Client], canary: Listener) -> None:
    urls = [f"{scheme}://{host}:{canary.port}/" for host in INSIDE for scheme in ("https", "http")]
    for client in doors:
        for url, tried in zip(urls, delivered(client, urls), strict=True):
            assert bool(tried) == ("localhost" in url)
            assert all(each["error"].startswith("host_not_allowed") for each in tried), tried
    assert canary.heard == []


def test_a_receiver_that_redirects_leads_nowhere(doors: list[httpx.Client], canary: Listener) -> None:
    place = f"http://127.0.0.1:{canary.port}/"
    told = f"location: {place}\r\nrefresh: 0; url={place}\r\ncontent-length: 0\r\nconnection: close"
    with ExitStack() as opened:
        receivers = [
            opened.enter_context(listening(WEBHOOK_RECEIVER, f"HTTP/1.1 {status} X\r\n{told}\r\n\r\n".encode()))
            for status in REDIRECTS
        ]
        urls = [f"http://{WEBHOOK_RECEIVER}:{receiver.port}/" for receiver in receivers]
        for client in doors:
            tried = [(each[0]["status"], each[0]["error"]) for each in delivered(client, urls)]
            assert tried == [(status, "redirects are not followed") for status in REDIRECTS]
        assert [len(receiver.heard) for receiver in receivers] == [len(doors)] * len(REDIRECTS)
    assert canary.heard == []


def test_an_allowed_webhook_is_not_moved_inside(doors: list[httpx.Client], canary: Listener) -> None:
    for client in doors:
        made = client.post(WEBHOOKS, json={"url": f"http://{WEBHOOK_RECEIVER}:1/", "events": ["RolloutChanged"]})
        one = f"{WEBHOOKS}/{made.json()['id']}"
        moved = client.patch(one, json={"url": f"http://127.0.0.1:{canary.port}/"})
        assert (moved.status_code, moved.json()["code"]) == (403, "host_not_allowed")
        assert client.delete(one).status_code == 204
    assert canary.heard == []


def test_no_source_of_a_version_is_fetched(doors: list[httpx.Client], canary: Listener) -> None:
    base = "/api/2.0/mlflow"
    for client in doors:
        name = f"source-{uuid4().hex[:8]}"
        assert client.post(f"{base}/registered-models/create", json={"name": name}).status_code == 200
        for host in INSIDE:
            for scheme in ("http", "s3", "hdfs"):
                place = f"{scheme}://{host}:{canary.port}/model"
                made = client.post(f"{base}/model-versions/create", json={"name": name, "source": place})
                assert made.status_code in {200, 400}, made.text
                experiment = {"name": f"{place} {uuid4().hex}", "artifact_location": place}
                assert client.post(f"{base}/experiments/create", json=experiment).status_code in {200, 400}
        versions = client.get(f"{base}/model-versions/search", params={"filter": f"name = '{name}'"}).json()
        for version in versions.get("model_versions", []):
            asked = {"name": name, "version": version["version"]}
            assert client.get(f"{base}/model-versions/get-download-uri", params=asked).status_code < 500
    assert canary.heard == []
