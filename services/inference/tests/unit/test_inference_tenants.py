"""What another tenant serves is not there, neither described nor admitted; who is refused too much learns nothing."""

import time
from dataclasses import replace
from typing import Any

import pytest
from clave_common.access.enforcement import Access
from clave_common.access.model import Caller
from clave_common.access.ratelimit import RateLimiter
from clave_common.access.refusals import Refusals
from clave_common.errors import PermissionDenied, ResourceExhausted
from clave_inference.domain.errors import ModelUnknown
from clave_inference.runtime.row_ledger import RowLedger
from clave_inference.services.admissions import Admissions, Credential
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


async def test_whoever_was_refused_too_much_is_not_told_which_models_there_are(bench: Any) -> None:
    await bench.deployment.step()
    bench.point.allow = False
    refusals = Refusals(RateLimiter(None), per_minute=0.6, burst=3)
    admissions = Admissions(
        verifier=bench.verifier,
        access=Access(bench.point, refusals=refusals),
        ledger=RowLedger(None),
        table=lambda: bench.deployment.table,
    )
    credential = Credential(b"Bearer good")
    with pytest.raises(ModelUnknown):
        await admissions.admit(credential, "nothing", None)
    for _ in range(4):
        with pytest.raises(PermissionDenied, match="clave explain dec_1"):
            await admissions.admit(credential, "churn", None)
    with pytest.raises(ResourceExhausted) as held:
        await admissions.admit(credential, "nothing", None)
    assert held.value.facts["limit"] == "refusals"


def test_what_is_loading_or_failed_belongs_to_its_tenant_too() -> None:
    table = replace(ServingTable(known=True), unserved={"churn": "loading"}, tenants={"churn": "default"})
    assert table.seen_by("default").unserved == {"churn": "loading"}
    assert table.seen_by("rival").unserved == {}
