"""The stack's generated secrets: made once, never shown, each file 0600 in a 0700 folder.

pepper               32 random bytes, hex; keys API-key digests
edge.key             32 random bytes, hex; the edge adds it to each request as proof that the request came through it
<service>.pem        Ed25519 private key with which a service signs its tokens
services.jwks.json   the public halves, one key for each service, ``kid`` = its name
services.retired.jwks.json  public halves that were replaced: remove a ``<service>.pem`` while the stack is down, and
                     the next start makes another. They let nobody in; old audit entries are checked by them
passwords.json       Postgres superuser, one role for each service, Valkey's users, the supervisor's socket
"""

import base64
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from clave.stack.layout import SERVICES

EDGE_KEY = "edge.key"
OPERATOR = "operator"
_PASSWORD_BYTES = 24


@dataclass(frozen=True)
class Passwords:
    """Generated passwords; URL-safe characters only, so that they need no quoting in a URL.

    Attributes:
        postgres: Superuser of the cluster.
        roles: Password of ``clave_<service>`` for each service.
        valkey: Password of Valkey's operator.
        supervisor: Password of the supervisor's control socket.
        valkey_users: Password in Valkey of each service; none in a file from before there were users.
    """

    postgres: str
    roles: dict[str, str]
    valkey: str
    supervisor: str
    valkey_users: dict[str, str] = field(default_factory=dict)

    @property
    def by_valkey_user(self) -> dict[str, str]:
        """The password of every user of Valkey."""
        return {**self.valkey_users, OPERATOR: self.valkey}


def ensure_secrets(folder: Path, services: tuple[str, ...]) -> Passwords:
    """Make whatever secret is missing and leave the others as they are.

    Args:
        folder: The 0700 folder.
        services: Names of the services that need a signing key and a role.
    """
    folder.chmod(0o700)
    if not (folder / "pepper").exists():
        write_secret(folder / "pepper", secrets.token_hex(32))
    if not (folder / EDGE_KEY).exists():
        write_secret(folder / EDGE_KEY, secrets.token_hex(32))
    keys = {service: _ensure_signing_key(folder / f"{service}.pem") for service in services}
    _publish(folder, [_public_jwk(service, key) for service, key in keys.items()])
    return _ensure_passwords(folder / "passwords.json", services)


def read_passwords(folder: Path) -> Passwords:
    """Read the passwords of a stack that was started before."""
    return Passwords(**json.loads((folder / "passwords.json").read_text()))


def write_secret(path: Path, text: str) -> None:
    """Write a 0600 file so that nobody ever sees half of it or a wider mode."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _ensure_signing_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(path, pem.decode())
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{path} does not hold an Ed25519 key")
    return key


def _publish(folder: Path, keys: list[dict[str, str]]) -> None:
    """Write the public keys in force; those that are not any more join the retired ones."""
    current, retired = folder / "services.jwks.json", folder / "services.retired.jwks.json"
    gone = [key for key in _keys_in(current) if key not in keys and any(key["kid"] == new["kid"] for new in keys)]
    if gone:
        write_secret(retired, json.dumps({"keys": [*_keys_in(retired), *gone]}, indent=2))
    write_secret(current, json.dumps({"keys": keys}, indent=2))


def _keys_in(path: Path) -> list[dict[str, str]]:
    return list(json.loads(path.read_text())["keys"]) if path.exists() else []


def _public_jwk(service: str, key: Ed25519PrivateKey) -> dict[str, str]:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": service, "x": x}


def _ensure_passwords(path: Path, services: tuple[str, ...]) -> Passwords:
    known: dict[str, object] = json.loads(path.read_text()) if path.exists() else {}
    passwords = Passwords(
        postgres=str(known.get("postgres") or _password()),
        roles=_one_each(known.get("roles"), services),
        valkey=str(known.get("valkey") or _password()),
        supervisor=str(known.get("supervisor") or _password()),
        valkey_users=_one_each(known.get("valkey_users"), (*SERVICES, *services)),
    )
    write_secret(path, json.dumps(vars(passwords), indent=2))
    return passwords


def _one_each(known: object, names: tuple[str, ...]) -> dict[str, str]:
    passwords = known if isinstance(known, dict) else {}
    return {name: str(passwords.get(name) or _password()) for name in names}


def _password() -> str:
    return secrets.token_hex(_PASSWORD_BYTES)
