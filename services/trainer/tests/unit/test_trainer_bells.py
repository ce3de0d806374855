"""What counts as a bell, and what is made of one."""

import base64
import json

import pytest
from clave_trainer.doorbell import DOORBELL, broker_url
from clave_trainer.runtime.bell_transport import ITEM_BYTES_MAX, BellTransport, bell, fault_of, hear_bells_only
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, transport

TREE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (b"", "no_json"),
        (b"not json", "no_json"),
        (b"\xff\xfe", "no_json"),
        (b"[" * 10_000, "no_json"),
        (b"null", "no_message"),
        (b"[]", "no_message"),
        (b'{"headers": null}', "no_message"),
        (b'{"headers": ["task"]}', "no_message"),
        (b'{"headers": {"task": ["clave_trainer.doorbell"]}}', "another_task"),
        (b'{"headers": {"task": "os.system"}, "body": "e30="}', "another_task"),
        (b" " * (ITEM_BYTES_MAX + 1), "too_large"),
    ],
)
def test_what_is_no_bell_is_told_by_a_word(item: bytes, why: str) -> None:
    assert fault_of(item) == why


@given(TREE)
def test_every_document_is_judged(document: object) -> None:
    assert fault_of(json.dumps({"headers": document}).encode()) in {"no_json", "no_message", "another_task"}


def test_a_bell_is_made_anew_with_nothing_of_what_came() -> None:
    made = bell("trainer.light")
    assert fault_of(made) is None
    document = json.loads(made)
    assert document["headers"]["task"] == DOORBELL
    assert document["properties"]["delivery_info"]["routing_key"] == "trainer.light"
    assert json.loads(base64.b64decode(document["body"]))[:2] == [[], {}]
    assert json.loads(bell("trainer.light"))["properties"]["delivery_tag"] != document["properties"]["delivery_tag"]


@pytest.mark.parametrize("url", ["redis://:p@redis:6379/0", "rediss://redis:6379/1", "unix://u:p@/run/v.sock?db=0"])
def test_brokers_are_heard_by_address_and_by_socket(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(transport, "_transport_cache", {})
    for scheme in ("redis", "rediss"):
        monkeypatch.setitem(transport.TRANSPORT_ALIASES, scheme, transport.TRANSPORT_ALIASES[scheme])
    hear_bells_only()
    assert Connection(broker_url(url)).get_transport_cls() is BellTransport
