"""Each container of Compose is given its own secrets and nobody else's."""

import json
import shutil
import stat
from pathlib import Path

import pytest
import yaml
from clave import compose
from clave.stack.layout import SERVICES
from clave.stack.secrets import ensure_secrets, write_secret
from clave.stack.shares import CONTAINERS, STORES, hand_out
from clave_common.access.wiring import open_access
from clave_common.audit_signatures import AuditVerifier
from clave_common.mutual_tls import MutualTls
from clave_common.settings import PeerSettings, ServiceSettings

COMPOSE = yaml.safe_load((Path(__file__).parents[4] / "deploy" / "compose" / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What `init` leaves behind, with mutual TLS."""
    root = tmp_path_factory.mktemp("compose")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SECRETS", "SHARES", "EDGE"):
            (root / name).mkdir()
            patch.setattr(compose, name, root / name)
        patch.setenv("CLAVE_MTLS", "1")
        compose.initialise(public_port=47310)
        yield root / "SECRETS", root / "SHARES"


def held(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_holds_one_private_key_and_two_passwords(folders, service):
    secrets, shares = folders
    files = held(shares / service)
    assert {name for name in files if name.endswith((".pem", ".key"))} == {
        "edge.key",
        f"{service}.pem",
        f"tls/services/{service}.pem",
        f"tls/services/{service}.key",
        "tls/services/ca.pem",
    }
    known = json.loads((secrets / "passwords.json").read_text())
    text = "".join(path.read_text() for path in files.values())
    strangers = [known["postgres"], known["valkey"], known["supervisor"]]
    for other in SERVICES:
        passwords = [known["roles"][other], known["valkey_users"][other]]
        if other == service:
            assert all(password in text for password in passwords)
        else:
            strangers += [*passwords, (secrets / f"{other}.pem").read_text()]
    assert not [secret for secret in strangers if secret in text]
    assert ("opa/token" in files) == (service == "gateway")
    assert {stat.S_IMODE(path.stat().st_mode) for path in files.values()} == {0o600}


def test_a_service_finds_its_variables_in_its_share(folders, monkeypatch):
    secrets, shares = folders
    for service in SERVICES:
        whole = compose.environment(service)
        monkeypatch.setattr(compose, "SECRETS", shares / service)
        own = compose.environment(service)
        monkeypatch.setattr(compose, "SECRETS", secrets)
        for name in ("DATABASE_URL", "REDIS_URL"):
            assert own[f"CLAVE_{service.upper()}_{name}"] == whole[f"CLAVE_{service.upper()}_{name}"]
        assert f"redis://{service}:" in own[f"CLAVE_{service.upper()}_REDIS_URL"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_knows_callers_and_is_known_by_what_its_share_holds(folders, tmp_path, service):
    variables = {"HTTP_PORT": 1, "DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x", "BLOB_URL": "file:///x"}
    settings = ServiceSettings(
        **{name.lower(): value for name, value in variables.items()},
        data_dir=tmp_path,
        secrets_dir=folders[1] / service,
        peers=PeerSettings(tls_dir=folders[1] / service / "tls" / "services"),
    )
    kit = open_access(settings, service=service, redis=None)
    entry = kit.audit_signer.signed(json.dumps({"service": service}).encode())
    everybody = AuditVerifier.from_files(folders[1] / "gateway" / "services.jwks.json")
    assert everybody.checked(entry).fields["signature"]["kid"] == service
    own = MutualTls.of(settings.peers.tls_dir, service)
    assert own.client_context().get_ca_certs()


def test_stores_hold_what_they_are_configured_with(folders):
    _, shares = folders
    assert {name: set(held(shares / name)) for name in STORES} == {name: set(files) for name, files in STORES.items()}
    assert ".pem" not in "".join(name for store in STORES for name in held(shares / store))


def test_the_first_administrators_key_moves_once_and_changes_come_with_the_next_start(folders, tmp_path):
    secrets, shares = (shutil.copytree(folder, tmp_path / folder.name) for folder in folders)
    write_secret(secrets / "admin" / "admin.key", "from an older version")
    (secrets / "registry.pem").unlink()
    passwords = ensure_secrets(secrets, SERVICES)
    hand_out(secrets, shares, passwords)
    assert (shares / "gateway" / "admin" / "admin.key").read_text() == "from an older version"
    assert (shares / "registry" / "registry.pem").read_text() == (secrets / "registry.pem").read_text()
    assert (shares / "gateway" / "services.retired.jwks.json").exists()
    write_secret(shares / "gateway" / "admin" / "admin.key", "newer")
    hand_out(secrets, shares, passwords)
    assert (shares / "gateway" / "admin" / "admin.key").read_text() == "newer"


def mounts(name):
    """Volumes of a service of the compose file, by the place where they are mounted."""
    found = {}
    for volume in COMPOSE["services"][name].get("volumes", ()):
        source, target = (volume["source"], volume["target"]) if isinstance(volume, dict) else volume.split(":")[:2]
        found[target] = source
    return found


def test_the_compose_file_mounts_shares_and_the_whole_only_where_it_is_made():
    owners = {name: name for name in CONTAINERS} | {"worker": "trainer"}
    for container, owner in owners.items():
        assert mounts(container)["/run/clave"] == f"secrets-{owner}"
    assert {name for name in COMPOSE["services"] if "secrets" in mounts(name).values()} == {"init", "migrate"}
    assert {target: source for target, source in mounts("init").items() if target.startswith("/run/shares")} == {
        f"/run/shares/{name}": f"secrets-{name}" for name in CONTAINERS
    }
    assert set(COMPOSE["volumes"]) >= {f"secrets-{name}" for name in CONTAINERS}
