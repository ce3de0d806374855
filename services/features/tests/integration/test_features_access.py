"""The shipped policy, on its real engine, decides who may read what for which purpose."""

import pytest
from clave_common.access import Caller
from clave_common.access.decision_point import decision_from, policy_input
from clave_testing.policies import engine, shipped_bundle

pytestmark = pytest.mark.integration
API = "/api/features/v1"
REPOSITORY = {
    "entities": [{"name": "customer", "join_keys": {"id": "int64"}}],
    "feature_views": [
        {
            "name": "bills",
            "entity": "customer",
            "purposes": ["churn-prevention"],
            "features": [{"name": "amount", "dtype": "float64"}],
        }
    ],
    "feature_services": [{"name": "s", "features": ["bills:amount"], "purpose": "churn-prevention"}],
}


class ShippedPolicy:
    def __init__(self):
        self._engine = engine(shipped_bundle())

    async def visible(self, caller, action):
        return [{"tenant": None, "namespaces": ["*"], "resources": ["**"]}]

    async def decide(self, caller, action, resource, context):
        question = policy_input(caller, action, resource, context)
        question["context"]["time"] = 1_790_000_000.0
        return decision_from(await self._engine.decide(question), "embedded")


class Named:
    """Believes whoever is named, so that the policy alone decides."""

    async def verify(self, presented):
        name = presented.authorization
        if name is None:
            return None
        method = "internal_jwt" if name.startswith("service:") else "api_key"
        kind = "service" if name.startswith("service:") else "user"
        return Caller(name, kind, "default", method, 2e9)


@pytest.fixture
async def governed_store(feature_store):
    async with feature_store.restarted(decisions=ShippedPolicy(), verifier=Named()) as client:
        yield client


def as_caller(name, **headers):
    return {"authorization": name, **headers}


async def test_a_stated_purpose_opens_what_its_view_allows(governed_store):
    admin = as_caller("user:admin")
    answer = await governed_store.put(f"{API}/repository", json=REPOSITORY, headers=admin)
    assert answer.status_code == 200, answer.text
    csv = "id,event_ts,amount\n1,2026-10-01,5\n"
    answer = await governed_store.post(f"{API}/views/bills/ingest", content=csv, headers=admin)
    assert answer.status_code == 200, answer.text
    body = {"feature_service": "s", "entities": {"id": [1]}}
    inference = as_caller("service:inference")
    answer = await governed_store.post(f"{API}/online/read", json=body, headers=inference)
    assert answer.status_code == 200, answer.text
    assert answer.json()["values"] == [[5.0]]
    other = as_caller("service:inference", **{"x-clave-purpose": "marketing"})
    assert (await governed_store.post(f"{API}/online/read", json=body, headers=other)).status_code == 403
    feast = {"features": ["bills:amount"], "entities": {"id": [1]}}
    assert (await governed_store.post("/get-online-features", json=feast, headers=inference)).status_code == 403
    told = as_caller("service:inference", **{"x-clave-purpose": "churn-prevention"})
    assert (await governed_store.post("/get-online-features", json=feast, headers=told)).status_code == 200


async def test_who_has_no_role_or_no_credential_is_refused(governed_store):
    answer = await governed_store.put(f"{API}/repository", json=REPOSITORY, headers=as_caller("user:nobody"))
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
    assert (await governed_store.get(f"{API}/views")).status_code == 401
    ingest = await governed_store.post(f"{API}/views/x/ingest", content=b"", headers=as_caller("service:inference"))
    assert ingest.status_code == 403


async def test_a_service_cannot_use_what_its_purpose_does_not_allow(feature_store):
    wrong = {**REPOSITORY, "feature_services": [{"name": "s", "features": ["bills:amount"], "purpose": "marketing"}]}
    answer = await feature_store.put(f"{API}/repository", json=wrong)
    assert answer.status_code == 422
    assert "may be used for churn-prevention only, not for 'marketing'" in answer.json()["detail"]


async def test_whoever_asks_for_masking_gets_the_row_without_what_is_withheld(governed_store):
    admin = as_caller("user:admin")
    await governed_store.put(f"{API}/repository", json=REPOSITORY, headers=admin)
    csv = "id,event_ts,amount\n1,2026-10-01,5\n"
    await governed_store.post(f"{API}/views/bills/ingest", content=csv, headers=admin)
    masking = as_caller("service:inference", **{"x-clave-purpose": "marketing", "x-clave-on-withheld": "mask"})
    body = {"feature_service": "s", "entities": {"id": [1]}}
    answer = await governed_store.post(f"{API}/online/read", json=body, headers=masking)
    assert (answer.status_code, answer.json()["values"]) == (200, [[None]]), answer.text
    assert answer.headers["x-clave-masked"] == "bills__amount"
    feast = {"features": ["bills:amount"], "entities": {"id": [1]}}
    answer = await governed_store.post("/get-online-features", json=feast, headers=masking)
    assert answer.json()["results"][1]["values"] == [None], answer.text
    stranger = as_caller("service:inference", **{"clave-purpose": "marketing", "clave-on-withheld": "mask"})
    answer = await governed_store.post(f"{API}/online/read", json=body, headers=stranger)
    assert (answer.status_code, answer.headers["x-clave-masked"]) == (200, "bills__amount"), answer.text


async def test_rejected_rows_are_feature_values_too(governed_store):
    admin = as_caller("user:admin")
    await governed_store.put(f"{API}/repository", json=REPOSITORY, headers=admin)
    path = f"{API}/views/bills/quarantine"
    assert (await governed_store.get(path, headers=admin)).status_code == 403
    told = as_caller("user:admin", **{"clave-purpose": "churn-prevention"})
    assert (await governed_store.get(path, headers=told)).status_code == 200
