"""What another tenant serves is not there: neither described nor admitted."""

import time
from dataclasses import replace
from typing import Any

import pytest
from clave_common.access.model import Caller
from clave_inference.domain.errors import ModelUnknown
from clave_inference.services.admissions import Credential
from clave_inference.services.serving import ServingTable


def caller(tenant: str) -> Caller:
    return Caller("app:web", "app", tenant, "api_key", time.time() + 3600, key_id="k1")


async def test_only_its_own_tenant_and_services_know_of_an_endpoint(bench: Any) -> None:
    await bench.deployment.step()
    for tenant in ("default", "*"):
        described = bench.describe.seen_by(caller(tenant))
        assert (described.names(), described.ready("churn")) == (["churn"], True)
        assert described.index()
    rival = bench.describe.seen_by(caller("rival"))
    assert (rival.names(), rival.index(), rival.statistics()) == ([], [], [])
    for ask in (rival.metadata, rival.config, rival.statistics, rival.ready):
        with pytest.raises(ModelUnknown) as refused:
            ask("churn")
        assert refused.value.detail == ModelUnknown("churn").detail


async def test_a_rivals_prediction_is_refused_as_one_of_a_model_that_does_not_exist(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.deployment.step()

    async def rival(_presented: object) -> Caller:
        return caller("rival")

    monkeypatch.setattr(bench.verifier, "verify", rival)
    for name in ("churn", "nothing"):
        with pytest.raises(ModelUnknown) as refused:
            await bench.admissions.admit(Credential(b"Bearer good"), name, None)
        assert refused.value.detail == ModelUnknown(name).detail


def test_what_is_loading_or_failed_belongs_to_its_tenant_too() -> None:
    table = replace(ServingTable(known=True), unserved={"churn": "loading"}, tenants={"churn": "default"})
    assert table.seen_by("default").unserved == {"churn": "loading"}
    assert table.seen_by("rival").unserved == {}
