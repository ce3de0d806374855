"""Explanations that are refused as 404 charge the limit of refusals, and whoever is over it learns of no decision."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clave_common.settings import PeerSettings
from clave_testing.inner_gateway import InnerGateway, inner_gateway
from clave_testing.patience import eventually

pytestmark = pytest.mark.integration
BURST = 3


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InnerGateway]:
    peers = PeerSettings(refusals_per_minute=1, refusals_burst=BURST)
    async with inner_gateway(tmp_path, peers=peers) as served:
        yield served


async def test_asking_for_other_peoples_decisions_is_held_back_as_asking_for_none(gateway: InnerGateway) -> None:
    eve, vic = [await gateway.key_of(name, "viewer") for name in ("eve", "vic")]
    refused = await gateway.send("POST", "/keys", {"name": "x", "role": "viewer"}, key=eve)
    assert refused.status_code == 403, refused.text
    decision = refused.json()["decision_id"]
    hers, none = (f"/decisions/{found}" for found in (decision, "dec_" + "0" * 26))
    await eventually(
        lambda: gateway.stored("select id from gateway.decisions where id = %s", decision), what="the log of decisions"
    )
    answers = [(await gateway.send("GET", path, key=vic)).status_code for path in (hers, none) * 4]
    decided = answers.count(404)  # a key that is not known yet may have been refused before
    assert answers == [404] * decided + [429] * (8 - decided)
    assert 0 < decided <= BURST + 1
    told = [(await gateway.send("GET", path, key=vic)).json() for path in (hers, none)]
    assert {(answer["code"], answer["limit"], *sorted(answer)) for answer in told} == {
        ("rate_limited", "refusals", *sorted(told[0]))
    }
    assert (await gateway.send("GET", "/whoami", key=vic)).status_code == 200  # allowed before
    counted = await gateway.http.get("/metrics")
    assert 'clave_access_held_back_total{subject_type="user"}' in counted.text
