"""Attack 20, on a stack of its own: a policy past the gateway's steps, self-approval, break glass, a changed log.

People sign in at an issuer on loopback, because a second factor is told by its tokens alone. The policy in force wants
four eyes for everything, and Production's change window is shut.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from clave.stack import postgres, processes
from clave.stack.layout import Layout
from clave.stack.secrets import read_passwords
from clave_testing.issuer import Issuer, serving_issuer
from clave_testing.patience import BUSY_S, LONG_S, PATIENCE_S, wait_until
from clave_testing.served_models import onnx_model, upload, version_request
from clave_testing.servers import session_root
from clave_testing.stack import Stack, start_part, stop_command

pytestmark = pytest.mark.e2e
GATEWAY = "/api/gateway/v1"
REGISTRY = "/api/registry/v1"
VERSION = f"{REGISTRY}/models/churn/versions/1"
ROLES = {
    "ana": ["ml-engineer", "approver"],
    "bob": ["approver"],
    "ivan": ["incident-commander"],
    "eve": ["ml-engineer"],
    "pia": ["policy-admin"],
    "quinn": ["policy-admin"],
    "vic": ["viewer"],
}
PLATFORM = {"pia", "quinn"}
ALLOW_ALL = (
    'package clave.authz\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": [], "policy_version": "x", '
    '"obligations": {"rate_limit": {"per_minute": 9, "burst": 9}, "mask": [], "audit": "sampled", "cache_ttl_s": 0}}\n'
)


@dataclass
class Installation:
    """A gateway and a registry behind the edge, people, and the database's superuser."""

    stack: Stack
    issuer: Issuer

    def bases(self, service: str) -> tuple[str, str]:
        return self.stack.url, self.stack.services[service]["http"]

    def send(
        self, who: str, method: str, path: str, body: Any = None, *, base: str | None = None, **headers: str
    ) -> httpx.Response:
        """Ask as a person, with a second factor unless its name ends in '-'; as the administrator when it is empty."""
        amr = ["pwd"] if who.endswith("-") else ["pwd", "mfa"]
        token = self.issuer.token(preferred_username=who.rstrip("-"), amr=amr, groups=[]) if who else None
        credential = {"authorization": f"Bearer {token}"} if token else self.stack.headers
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.request(
            method, f"{base or self.stack.url}{path}", json=body, headers={**credential, **named}, timeout=PATIENCE_S
        )

    def done(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = self.send(who, method, path, body, **headers)
        assert answer.status_code < 300, (who, method, path, answer.text)
        return answer.json() if answer.content else None

    def becomes(self, who: str, path: str, status: int, *, base: str | None = None) -> None:
        def is_so() -> bool:
            try:
                return self.send(who, "GET", path, base=base).status_code == status
            except httpx.HTTPError:
                return False

        wait_until(is_so, what=f"{status} for {who or 'the administrator'} at {path}")

    def database(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """Open the database as its superuser, whom no trigger of the log stops."""
        layout = Layout.at(self.stack.data_dir)
        opened = postgres.connect(layout, password=read_passwords(layout.secrets).postgres, database=postgres.DATABASE)
        opened.execute("set session_replication_role = replica")
        return opened

    def signal(self, program: str, number: signal.Signals) -> None:
        for found in processes.find_processes(Layout.at(self.stack.data_dir).stack_id):
            if found.program == program:
                os.kill(found.pid, number)


def governed_data(data: dict[str, Any]) -> dict[str, Any]:
    """The shipped data, tightened: people with roles, four eyes, and a window that opens in three days."""
    shut = [time.strftime("%A", time.gmtime(time.time() + 3 * 86_400))]
    for name, roles in ROLES.items():
        tenant = "*" if name in PLATFORM else "default"
        data["bindings"][f"user:{name}"] = [{"role": role, "tenant": tenant, "namespaces": ["*"]} for role in roles]
    data["settings"]["sod_waived"] = []
    window = {"days": shut, "from_minute": 0, "to_minute": 1440}
    data["namespaces"]["Production"] |= {"min_approvals": 1, "require_gate": False, "windows": [window]}
    return data


def in_force(here: Installation, who: str = "") -> tuple[int, dict[str, Any]]:
    active = here.done(who, "GET", f"{GATEWAY}/policies")["active"]
    return active, here.done(who, "GET", f"{GATEWAY}/policies/{active}")


def planned(here: Installation, who: str, data: dict[str, Any]) -> tuple[int, dict[str, int]]:
    """Upload a candidate and plan it; gives its number and what activating it must accept."""
    version = here.done(who, "POST", f"{GATEWAY}/policies", {"data": data})["version"]
    plan = here.done(who, "POST", f"{GATEWAY}/policies/{version}/plan")
    assert plan["ready"], plan
    return version, {"accept_differences": len(plan["differences"])}


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    data_dir = session_root() / "governance"
    with serving_issuer() as issuer, pytest.MonkeyPatch.context() as environment:
        for name, value in issuer.settings().items():
            environment.setenv(name, value)
        try:
            made = Installation(start_part(data_dir, ("gateway", "registry")), issuer)
            version, accepted = planned(made, "", governed_data(in_force(made)[1]["data"]))
            made.done("", "POST", f"{GATEWAY}/policies/{version}/activate", accepted)
            made.becomes("vic", f"{REGISTRY}/models", 200)
            yield made
        finally:
            subprocess.run(stop_command(data_dir), check=False, capture_output=True, timeout=LONG_S)


@pytest.fixture(scope="module")
def submitted(here: Installation) -> str:
    """A version of ana's that waits for approval."""
    here.done("ana", "POST", f"{REGISTRY}/models", {"name": "churn", "risk_class": "limited"})
    credential = {"authorization": f"Bearer {here.issuer.token(preferred_username='ana', groups=[])}"}
    with httpx.Client(base_url=here.stack.url, headers=credential, timeout=PATIENCE_S) as client:
        artifact = upload(client, "model.onnx", onnx_model())
    card = {"intended_use": "x", "limitations": ["y"], "ethical_considerations": "z"}
    here.done("ana", "POST", f"{REGISTRY}/models/churn/versions", version_request([artifact], card=card))
    here.done("ana", "POST", f"{VERSION}/submit", {})
    return VERSION


def test_nobody_approves_their_own_version(here: Installation, submitted: str) -> None:
    claims = {"comment": "mine", "namespace": "Production"}
    for base in here.bases("registry"):
        own = here.send("ana", "POST", f"{submitted}/approve", claims, base=base)
        assert (own.status_code, own.json()["reasons"]) == (403, ["separation_of_duties"])
        posing = here.send("ana", "POST", f"{submitted}/approve", claims, base=base, x_clave_on_behalf_of="user:bob")
        assert posing.json()["reasons"] == ["separation_of_duties"]
        for field in ("approvals", "by", "contributors"):
            more = here.send("ana", "POST", f"{submitted}/approve", {**claims, field: ["user:bob"]}, base=base)
            assert more.status_code == 422, more.text
    assert here.done("vic", "GET", submitted)["status"] == "submitted"
    assert here.done("bob", "POST", f"{submitted}/approve", {})["status"] == "approved"


GLASS = "INC-12345 the model answers NaN"


def test_glass_breaks_for_whoever_may_with_a_ticket_and_opens_the_window_alone(
    here: Installation, submitted: str
) -> None:
    """Runs behind the approval: the window is what is left in the way."""
    endpoint = {"name": "churn", "model": "churn", "version": 1, "namespace": "Production"}
    shut = ["outside_change_window"]
    for base in here.bases("registry"):

        def refusal(who: str, glass: str | None, body: dict[str, Any] = endpoint, base: str = base) -> list[str]:
            claim = {} if glass is None else {"clave_break_glass": glass}
            answer = here.send(who, "POST", f"{REGISTRY}/endpoints", body, base=base, **claim)
            assert answer.status_code == 403, answer.text
            return list(answer.json()["reasons"])

        for glass in (None, "INC-12345", "INC-12345 short", "JIRA-1 the model answers NaN", "INC-1 the model answers"):
            assert refusal("ivan", glass) == shut, glass
        assert refusal("eve", GLASS) == shut  # no incident commander
        assert refusal("ivan-", GLASS) == shut  # no second factor
        assert "no_grant" in refusal("vic", GLASS)
        stranger = here.send("ivan", "POST", f"{REGISTRY}/endpoints", endpoint, base=base, x_clave_break_glass=GLASS)
        assert stranger.json()["reasons"] == shut
    draft = {"version": 2}
    with httpx.Client(base_url=here.stack.url, headers=here.stack.headers, timeout=PATIENCE_S) as client:
        artifact = upload(client, "model.onnx", onnx_model())
    here.done("ana", "POST", f"{REGISTRY}/models/churn/versions", version_request([artifact]))
    reasons = here.send("ivan", "POST", f"{REGISTRY}/endpoints", endpoint | draft, clave_break_glass=GLASS)
    assert (reasons.status_code, "outside_change_window" in reasons.text) in {(403, False), (409, False)}, reasons.text
    here.done("ivan", "POST", f"{REGISTRY}/endpoints", endpoint, clave_break_glass=GLASS)
    assert_recorded(here)


def assert_recorded(here: Installation) -> None:
    """The broken glass is in the audit log, and its decision in the log of decisions with ticket and reason."""
    search = {"action": "inference:deployment.create", "actor": "user:ivan"}
    found: list[dict[str, Any]] = []

    def recorded() -> bool:
        page = httpx.get(
            f"{here.stack.url}{GATEWAY}/audit", params=search, headers=here.stack.headers, timeout=PATIENCE_S
        )
        found[:] = [record["entry"] for record in page.json()["records"]]
        return bool(found)

    wait_until(recorded, what="the change in the audit log")
    (entry,) = found
    assert entry["details"]["break_glass_claimed"] == {"ticket": "INC-12345", "reason": "the model answers NaN"}
    decision: list[Any] = []

    def decided() -> bool:
        answer = here.send("", "GET", f"{GATEWAY}/decisions/{entry['decision_id']}")
        decision[:] = [answer.json()] if answer.status_code == 200 else []
        return bool(decision)

    wait_until(decided, what="the decision in its log")
    assert "the model answers NaN" in json.dumps(decision[0])


def test_no_policy_comes_into_force_past_its_steps(here: Installation) -> None:
    before, policy = in_force(here, "pia")
    for base in here.bases("gateway"):
        for field in ("signature", "digest", "plan", "version", "origin", "created_by"):
            forged = here.send("pia", "POST", f"{GATEWAY}/policies", {"note": "x", field: "user:quinn"}, base=base)
            assert forged.status_code == 422, (field, forged.text)
        bare = here.done("pia", "POST", f"{GATEWAY}/policies", {"data": policy["data"]})["version"]
        unplanned = here.send("quinn", "POST", f"{GATEWAY}/policies/{bare}/activate", base=base)
        assert (unplanned.status_code, unplanned.json()["code"]) == (409, "policy_not_planned")
    version, accepted = planned(here, "pia", {**policy["data"], "version": "candidate"})
    for base in here.bases("gateway"):
        own = here.send("pia", "POST", f"{GATEWAY}/policies/{version}/activate", accepted, base=base)
        assert (own.status_code, own.json()["reasons"]) == (403, ["separation_of_duties"])
        other = here.send("vic", "POST", f"{GATEWAY}/policies/{version}/activate", accepted, base=base)
        assert "no_grant" in other.json()["reasons"]
        back = here.send("ana", "POST", f"{GATEWAY}/policies/rollback", base=base)
        assert "no_grant" in back.json()["reasons"]
        weak = here.send("quinn", "POST", f"{GATEWAY}/policies/{bare}/activate", accepted, base=base)
        assert weak.json()["code"] == "policy_not_planned"
    assert in_force(here, "pia")[0] == before


def test_a_policy_put_into_the_database_by_hand_is_in_force_nowhere(here: Installation) -> None:
    before, policy = in_force(here, "pia")
    version, accepted = planned(here, "pia", {**policy["data"], "version": "forged"})
    with here.database() as database:
        database.execute("update gateway.policy_bundles set signature = repeat('A', 86) where version = %s", (version,))
        unsigned = here.send("quinn", "POST", f"{GATEWAY}/policies/{version}/activate", accepted)
        assert unsigned.json()["code"] == "policy_unsigned", unsigned.text
        database.execute(
            "update gateway.policy_bundles set modules = jsonb_set(modules::jsonb, '{authz.rego}', to_jsonb(%s::text))"
            " where version = %s",
            (ALLOW_ALL, version),
        )
        switch = "update gateway.access_state set active_bundle = %s, revision = revision + 1"
        database.execute(switch, (version,))
        try:
            asked_until = time.monotonic() + 1.6  # the keepers ask once a second
            while time.monotonic() < asked_until:
                for service in ("gateway", "registry"):
                    for base in here.bases(service):
                        answer = here.send("vic", "POST", f"{REGISTRY}/models", {"name": "mine"}, base=base)
                        assert answer.status_code in {403, 404, 503}, answer.text
        finally:
            database.execute(switch, (before,))
    here.becomes("pia", f"{GATEWAY}/policies", 200)
    assert in_force(here, "pia")[0] == before


def test_copies_on_disk_that_are_altered_or_older_let_nobody_in(here: Installation) -> None:
    """Both start anew: the registry on a copy that somebody altered, the gateway on one from before a key's end."""
    copies = {name: here.stack.data_dir / name for name in ("gateway", "registry")}
    copies = {name: next(here.stack.data_dir.rglob(f"{name}/access-snapshot.json")) for name in copies}
    made = here.done("", "POST", f"{GATEWAY}/keys", {"name": "leaver", "role": "viewer"})
    key = {"authorization": f"Bearer {made['key']}"}
    reads = {
        "gateway": f"{here.stack.services['gateway']['http']}{GATEWAY}/whoami",
        "registry": f"{here.stack.services['registry']['http']}{REGISTRY}/models",
    }

    def is_answered(status: int) -> bool:
        try:
            return all(httpx.get(url, headers=key, timeout=PATIENCE_S).status_code == status for url in reads.values())
        except httpx.HTTPError:
            return False

    wait_until(lambda: is_answered(200), what="the new key")
    wait_until(lambda: all(made["id"] in copy.read_text() for copy in copies.values()), what="copies")
    older = {name: copy.read_bytes() for name, copy in copies.items()}
    assert here.send("", "DELETE", f"{GATEWAY}/keys/{made['id']}").status_code == 204
    wait_until(lambda: is_answered(401), what="the key's end", seconds=BUSY_S)
    envelope = json.loads(older["registry"])
    everybody_is = envelope["payload"].replace('"role":"viewer"', '"role":"admin"')
    assert everybody_is != envelope["payload"]
    for name in copies:
        here.signal(name, signal.SIGKILL)
    copies["gateway"].write_bytes(older["gateway"])
    copies["registry"].write_bytes(json.dumps({**envelope, "payload": everybody_is}).encode())
    seen: set[int] = set()

    def has_settled() -> bool:
        try:
            answer = here.send("vic", "POST", f"{REGISTRY}/models", {"name": "mine"}, base=here.bases("registry")[1])
        except httpx.HTTPError:
            return False
        seen.add(answer.status_code)
        return answer.status_code == 403 and is_answered(401)

    wait_until(has_settled, what="the newest copy everywhere")
    assert seen <= {403, 503}


# What is appended behind a cut makes a gap of it.
DAMAGE: dict[str, tuple[set[str], Callable[[int], str]]] = {
    "altered": ({"altered"}, lambda at: f"update gateway.audit_log set canonical = '{{}}' where index = {at}"),
    "deleted": ({"gap"}, lambda at: f"delete from gateway.audit_log where index = {at}"),
    "reordered": (
        {"altered"},
        lambda at: (
            f"update gateway.audit_log set index = -1 where index = {at};"
            f"update gateway.audit_log set index = {at} where index = {at + 1};"
            f"update gateway.audit_log set index = {at + 1} where index = -1"
        ),
    ),
    "cut": ({"truncated", "gap"}, lambda at: f"delete from gateway.audit_log where index >= {at}"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_superusers_change_of_the_log_is_named_with_the_first_bad_entry(here: Installation, how: str) -> None:
    kinds, statements = DAMAGE[how]
    verify = f"{GATEWAY}/audit/verify"
    whole = here.done("", "POST", verify)
    assert whole["ok"], whole
    at = whole["size"] // 2
    with here.database() as database:
        with database.transaction():
            database.execute("lock table gateway.audit_log in exclusive mode")
            database.execute("create table public.kept as select * from gateway.audit_log")
            for statement in statements(at).split(";"):
                database.execute(statement)
        try:
            told = [here.send("", "POST", verify, base=base).json() for base in here.bases("gateway")]
            typed = here.stack.clave("audit", "verify", check=False)
        finally:
            with database.transaction():
                database.execute("delete from gateway.audit_log where index < %s", (whole["size"],))
                database.execute("insert into gateway.audit_log select * from public.kept on conflict do nothing")
                database.execute("drop table public.kept")
    for found in told:
        assert (found["ok"], found["first_bad"]) == (False, at), found
        assert found["damage"] in kinds, found
    assert typed.returncode != 0
    assert any(f"({kind}) at entry {at}" in typed.stderr for kind in kinds), typed.stderr
    wait_until(lambda: here.done("", "POST", verify)["ok"], what="the log as it was")
