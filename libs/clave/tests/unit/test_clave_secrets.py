import json
import stat

import pytest
from clave.stack import valkey_users
from clave.stack.secrets import ensure_secrets, read_passwords, write_secret

SERVICES = ("gateway", "registry")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "secrets"
    made.mkdir(mode=0o755)
    return made


def test_every_secret_is_readable_by_its_owner_only(folder):
    ensure_secrets(folder, SERVICES)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {path.name for path in folder.iterdir()}
    assert names == {"pepper", "edge.key", "gateway.pem", "registry.pem", "services.jwks.json", "passwords.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_secrets_survive_a_second_start(folder):
    first = ensure_secrets(folder, SERVICES)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ensure_secrets(folder, SERVICES) == first == read_passwords(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_new_service_gets_its_secrets_and_the_others_keep_theirs(folder):
    first = ensure_secrets(folder, SERVICES)
    second = ensure_secrets(folder, (*SERVICES, "monitor"))
    assert second.roles["gateway"] == first.roles["gateway"]
    assert len(second.roles["monitor"]) >= 32


def test_a_file_from_before_valkey_had_users_is_read_and_gets_them(folder):
    first = ensure_secrets(folder, SERVICES)
    old = {name: value for name, value in vars(first).items() if name != "valkey_users"}
    (folder / "passwords.json").write_text(json.dumps(old))
    assert read_passwords(folder).valkey_users == {}
    upgraded = ensure_secrets(folder, SERVICES)
    assert (upgraded.valkey, upgraded.roles, upgraded.postgres) == (first.valkey, first.roles, first.postgres)
    assert set(upgraded.by_valkey_user) == set(valkey_users.USERS)
    assert len(set(upgraded.by_valkey_user.values())) == len(valkey_users.USERS)


def test_the_key_set_holds_public_halves_only(folder):
    ensure_secrets(folder, SERVICES)
    keys = json.loads((folder / "services.jwks.json").read_text())["keys"]
    assert [key["kid"] for key in keys] == list(SERVICES)
    assert all(key["kty"] == "OKP" and key["crv"] == "Ed25519" and "d" not in key for key in keys)


def test_a_secret_is_replaced_whole_and_leaves_no_draft(folder):
    write_secret(folder / "x", "one")
    write_secret(folder / "x", "two")
    assert (folder / "x").read_text() == "two"
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_a_replaced_signing_key_is_kept_for_old_entries_and_lets_nobody_in(folder):
    ensure_secrets(folder, SERVICES)
    before = keys_of(folder, "services.jwks.json")
    (folder / "registry.pem").unlink()
    for _ in range(2):
        ensure_secrets(folder, SERVICES)
    assert keys_of(folder, "services.jwks.json")["gateway"] == before["gateway"]
    assert keys_of(folder, "services.jwks.json")["registry"] != before["registry"]
    assert keys_of(folder, "services.retired.jwks.json") == {"registry": before["registry"]}


def keys_of(folder, name):
    return {key["kid"]: key["x"] for key in json.loads((folder / name).read_text())["keys"]}
