import json
import stat

import pytest
from clave.connection import find_connection
from clave.failures import EnvironmentFailure, NotRunning
from clave.profile import Profile, forget_profile, profile_path, read_profile, write_profile


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    for name in ("CLAVE_URL", "CLAVE_API_KEY", "CLAVE_DATA_DIR", "CLAVE_PROFILE", "CLAVE_CA_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def test_a_profile_is_kept_for_its_owner_alone_and_used_where_nothing_else_is_named():
    path = write_profile(Profile("https://clave.example.org", "secret-key"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = find_connection()
    assert (found.url, found.api_key, found.grpc) == ("https://clave.example.org", "secret-key", "clave.example.org")
    assert find_connection(url="http://other", api_key="k").url == "http://other"
    assert "secret-key" not in repr(read_profile())


def test_a_folder_named_on_the_command_line_is_never_overruled_by_the_profile(tmp_path):
    write_profile(Profile("https://clave.example.org", "k"))
    with pytest.raises(NotRunning):
        find_connection(data_dir=tmp_path)


def test_a_profile_that_others_may_read_or_that_is_damaged_is_refused():
    path = write_profile(Profile("https://x", "k"))
    path.chmod(0o644)
    with pytest.raises(EnvironmentFailure, match="Others may read"):
        read_profile()
    path.chmod(0o600)
    path.write_text(json.dumps([]))
    with pytest.raises(EnvironmentFailure, match="damaged"):
        read_profile()


def test_logging_out_forgets():
    assert not forget_profile()
    write_profile(Profile("https://x", "k"))
    assert forget_profile()
    assert read_profile() is None
    assert not profile_path().exists()
