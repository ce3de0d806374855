"""A second tenant on a running stack, with an administrator of its own."""

import json
from dataclasses import dataclass
from uuid import uuid4

import httpx
from clave.stack import postgres
from clave.stack.layout import Layout
from clave.stack.secrets import read_passwords

from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.stack import Stack


@dataclass(frozen=True)
class Rival:
    """Somebody with every right, in another tenant.

    Attributes:
        tenant: Its tenant.
        principal: Its id.
        key: Its API key.
    """

    tenant: str
    principal: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """Its credential."""
        return {"authorization": f"Bearer {self.key}"}


def make_rival(stack: Stack) -> Rival:
    """Make an administrator of a new tenant.

    Tenants come from an identity provider's claim; no route moves anybody or hands out every right. So this takes a
    fresh principal and moves it in the database, and then makes another key, whose event brings the change to every
    service.
    """
    name = f"rival-{uuid4().hex[:8]}"
    keys = f"{stack.url}/api/gateway/v1/keys"
    made = httpx.post(keys, json={"name": name, "role": "viewer"}, headers=stack.headers, timeout=PATIENCE_S)
    assert made.status_code == 201, made.text
    new = made.json()
    layout = Layout.at(stack.data_dir)
    with postgres.connect(
        layout, password=read_passwords(layout.secrets).postgres, database=postgres.DATABASE
    ) as connection:
        for table, column in (("principals", "id"), ("api_keys", "principal_id"), ("bindings", "subject")):
            connection.execute(
                f"update gateway.{table} set tenant = %s where {column} = %s",
                (name, new["principal"]),
            )
        connection.execute("update gateway.bindings set role = 'admin' where subject = %s", (new["principal"],))
    httpx.post(keys, json={"name": f"after-{name}", "role": "viewer"}, headers=stack.headers, timeout=PATIENCE_S)
    rival = Rival(tenant=name, principal=new["principal"], key=new["key"])

    def is_moved() -> bool:
        answers = [
            httpx.get(f"{stack.url}/api/gateway/v1/whoami", headers=rival.headers, timeout=PATIENCE_S),
            # no viewer may ask this: the registry has heard of the new role as well
            httpx.get(f"{stack.url}/api/registry/v1/webhooks", headers=rival.headers, timeout=PATIENCE_S),
        ]
        return all(answer.status_code == 200 for answer in answers) and answers[0].json()["tenant"] == name

    wait_until(is_moved, what="the rival's tenant")
    return rival


def fingerprint(answer: httpx.Response, *own: str) -> str:
    """An answer as text without what differs from one request to the next, and without the names in `own`."""
    try:
        document = answer.json()
    except ValueError:
        text = answer.text
    else:
        if isinstance(document, dict):
            document = {key: value for key, value in document.items() if key not in {"request_id", "instance", "id"}}
        text = json.dumps(document, sort_keys=True)
    for name in own:
        text = text.replace(name, "*")
    return f"{answer.status_code} {text}"
