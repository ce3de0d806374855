import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from clave.cli.app import app
from clave.cli.output import human_bytes, human_seconds, show_facts, show_table
from clave.connection import find_connection, write_connection
from clave.failures import EnvironmentFailure, Failure, NotRunning
from clave.repository import load_repository
from clave.stack import doctor
from clave.stack.layout import Layout
from clave_testing.patience import PATIENCE_S
from typer.testing import CliRunner

ROOT = Path(__file__).parents[4]
REPOSITORY = ROOT / "libs" / "clave" / "src" / "clave" / "demo" / "churn_repo"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clave", *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def commands(group, path=("clave",)):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_command_is_documented_and_explains_itself():
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, command in commands(typer.main.get_command(app)):
        assert re.search(rf"`{name}[ `]", page), f"docs/cli.md lacks {name}"
        assert command.help, name


def test_the_help_needs_neither_the_sdk_nor_a_server():
    code = (
        "import sys; from clave.cli.app import app; "
        "heavy = {'httpx', 'pydantic', 'psycopg', 'jinja2', 'pandas', 'grpc', 'supervisor'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_wrong_usage_exits_with_2():
    assert run("no-such-command").returncode == 2
    assert run("predict", "churn", CLAVE_URL="http://127.0.0.1:1", CLAVE_API_KEY="k").returncode == 2


def test_a_stack_that_does_not_run_exits_with_3_and_names_the_remedy(tmp_path):
    done = run("status", "--data-dir", str(tmp_path))
    assert done.returncode == 3
    assert "clave up" in done.stderr
    assert done.stdout == ""


def test_a_stack_that_does_not_answer_exits_with_3():
    done = run("whoami", "--url", "http://127.0.0.1:1", "--api-key", "k")
    assert done.returncode == 3
    assert "does not answer" in done.stderr


def test_a_data_directory_that_cannot_be_used_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("up", "--detach", "--data-dir", str(tmp_path / "file" / "x"))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "--data-dir" in done.stderr


def test_purge_deletes_nothing_that_is_not_a_data_directory(tmp_path):
    (tmp_path / "precious").write_text("x")
    done = run("down", "--purge", "--yes", "--data-dir", str(tmp_path))
    assert done.returncode == 3
    assert (tmp_path / "precious").exists()


def test_the_local_stack_is_found_through_its_connection_file(tmp_path, monkeypatch):
    monkeypatch.delenv("CLAVE_API_KEY", raising=False)
    layout = Layout.at(tmp_path)
    key = tmp_path / "admin.key"
    key.write_text("clave_live_x\n")
    write_connection(layout, {"url": "http://127.0.0.1:5", "grpc": "127.0.0.1:5", "admin_key_file": str(key)})
    found = find_connection(data_dir=tmp_path)
    assert (found.url, found.grpc, found.api_key) == ("http://127.0.0.1:5", "127.0.0.1:5", "clave_live_x")


def test_an_address_in_the_environment_names_the_stack(monkeypatch):
    monkeypatch.setenv("CLAVE_URL", "http://host:47310/")
    monkeypatch.setenv("CLAVE_API_KEY", "k")
    found = find_connection()
    assert (found.url, found.grpc, found.api_key) == ("http://host:47310", "host:47310", "k")


def test_an_address_without_a_key_is_refused(monkeypatch):
    monkeypatch.delenv("CLAVE_API_KEY", raising=False)
    with pytest.raises(EnvironmentFailure, match="No API key"):
        find_connection(url="http://host:1")


def test_a_folder_without_a_stack_is_not_running(tmp_path, monkeypatch):
    monkeypatch.delenv("CLAVE_URL", raising=False)
    with pytest.raises(NotRunning, match="No stack runs"):
        find_connection(data_dir=tmp_path)


def test_the_demos_repository_is_what_the_services_take():
    files = load_repository(REPOSITORY)
    labels = [view.name for view in files.features.feature_views if view.label]
    spec = files.pipelines[0]
    assert labels == [spec.label_view]
    assert set(files.policies) == {spec.endpoint}
    protected = {
        f"{view.name}:{item.name}" for view in files.features.feature_views for item in view.features if item.protected
    }
    assert protected == set(spec.protected)
    assert not protected & set(files.features.feature_services[0].features)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("entities: [", "not YAML"),
        ("- a list", "no mapping"),
        ("nonsense: 1", "nonsense"),
        ("entities: [{name: customer, join_keys: {id: double}}]", "join_keys"),
    ],
)
def test_a_malformed_repository_names_the_file_and_the_place(tmp_path, content, named):
    (tmp_path / "features.yaml").write_text(content)
    with pytest.raises(Failure, match=named) as refused:
        load_repository(tmp_path)
    assert "features.yaml" in refused.value.what


def test_durations_and_sizes_are_written_for_people():
    assert [human_seconds(seconds) for seconds in (5, 65, 3665, 90_000)] == ["5 s", "1 min 5 s", "1 h 1 min", "1 d 1 h"]
    assert human_bytes(150 * 1024 * 1024) == "150 MB"


def test_doctor_speaks_json(tmp_path):
    done = run("doctor", "--output", "json", "--data-dir", str(tmp_path))
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert {"python", "disk", "memory", "port", "processes", "sockets", "servers"} <= set(findings)
    assert all(finding["remedy"] for finding in findings.values() if finding["verdict"] in {"warning", "failure"})


def test_up_on_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: SimpleNamespace(free=3 * 1024**2))
    done = CliRunner().invoke(app, ["up", "--detach", "--data-dir", str(tmp_path / "data")])
    assert isinstance(done.exception, EnvironmentFailure)
    assert "3 MB free" in done.exception.what
    assert "--data-dir" in done.exception.remedy
    assert not (tmp_path / "data").exists()


def test_up_in_a_place_that_is_no_folder_is_refused_and_the_place_is_left_alone(tmp_path):
    (tmp_path / "data").write_text("mine")
    done = run("up", "--detach", "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 3
    assert "is no folder" in done.stderr
    assert "--data-dir" in done.stderr
    assert (tmp_path / "data").read_text() == "mine"


def test_down_where_nothing_runs_says_so_to_a_program(tmp_path):
    done = run("down", "--output", "json", "--data-dir", str(tmp_path / "nothing"))
    assert (done.returncode, json.loads(done.stdout)) == (0, {"stopped": 0})


def test_texts_of_strangers_steer_no_terminal(capsys):
    hostile = "name\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe"
    show_table(["name"], [[hostile]])
    show_facts({"name": hostile})
    told = capsys.readouterr().out
    assert "name[2J" in told
    assert not set(told) & set("\x1b\x07\x9b\u202e")


def test_moments_are_read_to_the_second_and_nothing_is_nothing(capsys):
    show_table(["since"], [["2026-11-22T08:17:28.346132+00:00"], [datetime(2026, 11, 22, 8, 1, 2, 3, tzinfo=UTC)]])
    show_facts({"approved by": None, "answered for": "risk since 2026-11-22T08:18:29Z"})
    told = capsys.readouterr().out
    assert "2026-11-22 08:17:28Z" in told
    assert "2026-11-22 08:01:02Z" in told
    assert "risk since 2026-11-22 08:18:29Z" in told
    assert "None" not in told
