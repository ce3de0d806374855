"""Which secrets each container of Compose is given: its own, and what all must know to recognise each other.

The volume `secrets` holds everything and is mounted by the one-shot containers alone. `hand_out` copies from it into a
folder for each container, a volume of its own, mounted where the whole used to be: names inside are the same.
"""

import json
import os
import shutil
from pathlib import Path

from clave.stack.layout import SERVICES
from clave.stack.secrets import EDGE_KEY, Passwords, write_secret

STORES = {
    "postgres": ("postgres/password",),
    "redis": ("redis/redis.conf", "redis/password"),
    "opa": ("opa/authz.rego",),
}
CONTAINERS = (*SERVICES, *STORES)
_ADMIN_KEY = "admin/admin.key"
# Whoever answers callers checks keys, tokens of services and the edge's proof.
_EVERY_SERVICE = ("pepper", EDGE_KEY, "services.jwks.json")
_OWN = {"gateway": ("services.retired.jwks.json", "opa/token")}


def files_of(container: str) -> tuple[str, ...]:
    """Name the files that a container is given, as far as they exist."""
    if container in STORES:
        return STORES[container]
    certificates = (f"tls/services/{container}.pem", f"tls/services/{container}.key", "tls/services/ca.pem")
    return (*_EVERY_SERVICE, f"{container}.pem", *certificates, *_OWN.get(container, ()))


def hand_out(secrets: Path, shares: Path, passwords: Passwords) -> None:
    """Fill every container's folder; what is there from before is written anew, but the first administrator's key.

    Args:
        secrets: The folder with everything.
        shares: Holds a folder for each of `CONTAINERS`.
        passwords: Of which each service is given its own two.
    """
    for container in CONTAINERS:
        folder = shares / container
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name in filter(lambda name: (secrets / name).exists(), files_of(container)):
            _copy(secrets / name, folder / name)
        if container in SERVICES:
            write_secret(folder / "passwords.json", json.dumps(vars(own_passwords(container, passwords)), indent=2))
    admin = shares / "gateway" / _ADMIN_KEY
    admin.parent.mkdir(mode=0o700, exist_ok=True)
    if (secrets / _ADMIN_KEY).exists() and not admin.exists():
        _copy(secrets / _ADMIN_KEY, admin)


def own_passwords(service: str, passwords: Passwords) -> Passwords:
    """Keep of all passwords what a service needs: its role in Postgres and its user in Redis."""
    return Passwords(
        postgres="",
        roles={service: passwords.roles[service]},
        valkey="",
        supervisor="",
        valkey_users={service: passwords.valkey_users[service]},
    )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    shutil.copyfile(source, draft)
    draft.chmod(0o600)
    draft.replace(target)
