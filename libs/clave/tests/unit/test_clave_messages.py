"""What the command line says when something is in the way: what is wrong, where, and what to do."""

import io
import json
from types import SimpleNamespace
from typing import ClassVar

import httpx
import pytest
from clave.cli import demo as demo_command
from clave.cli import entry, loop
from clave.cli.app import app
from clave.cli.logs import readable
from clave.cli.options import data_dir_option
from clave.demo.build import tell_gates
from clave.demo.timeline import Timeline
from clave.failures import EnvironmentFailure, Failure
from clave.stack import health, lifecycle, postgres, processes
from clave.stack.layout import Layout
from clave.stack.supervisor import ProgramState
from clave_contracts.inference import InferAnswer
from clave_contracts.problems import unreachable
from clave_contracts.registry import GateVerdict
from rich.console import Console
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A stack that is named and never asked."""
    monkeypatch.setenv("CLAVE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CLAVE_API_KEY", "k")
    monkeypatch.chdir(tmp_path)


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


class TestPredictions:
    @pytest.mark.parametrize("pair", ["customer_id", "customer_id=", "=C00007"])
    def test_an_entity_without_key_or_value_is_wrong_usage(self, pair):
        done = invoke("predict", "churn", "--entity", pair)
        assert done.exit_code == 2
        assert "KEY=VALUE" in done.stderr

    @pytest.mark.parametrize(
        ("content", "named"), [("{", "Invalid JSON"), ('{"inputs": [{"name": "x"}]}', r"inputs\.0\.shape")]
    )
    def test_a_request_that_is_none_names_the_file_and_the_place(self, tmp_path, content, named):
        (tmp_path / "request.json").write_text(content)
        done = invoke("predict", "churn", "--file", "request.json")
        assert isinstance(done.exception, Failure)
        with pytest.raises(Failure, match=rf"request\.json is no .*{named}"):
            raise done.exception
        assert "datatype" in done.exception.remedy

    def test_a_request_file_that_is_not_there_is_named(self):
        done = invoke("predict", "churn", "--file", "nowhere.json")
        assert isinstance(done.exception, EnvironmentFailure)
        assert "nowhere.json" in done.exception.what

    def test_an_entity_without_features_is_pointed_out(self):
        told = loop._absent_features(
            {"billing": ["PRESENT", "NOT_FOUND"], "household": ["PRESENT", "PRESENT"]},
            {"customer_id": ["C00007", "typo"]},
        )
        assert told == [
            "customer_id=typo has no features in billing (NOT_FOUND); the model answered with gaps in their place."
        ]


def test_login_without_a_terminal_names_the_ways_to_give_a_key(monkeypatch):
    monkeypatch.delenv("CLAVE_API_KEY")
    done = invoke("login", "http://127.0.0.1:1")
    assert isinstance(done.exception, EnvironmentFailure)
    assert "--key-file" in done.exception.remedy
    missing = invoke("login", "http://127.0.0.1:1", "--key-file", "no.key")
    assert isinstance(missing.exception, EnvironmentFailure)
    assert "no.key" in missing.exception.what


def test_a_suggested_command_speaks_to_the_same_stack(tmp_path, monkeypatch):
    assert data_dir_option(None) == ""
    assert data_dir_option(tmp_path / ".clave") == ""
    assert data_dir_option(tmp_path / "two words") == f" --data-dir '{tmp_path}/two words'"
    monkeypatch.setenv("CLAVE_DATA_DIR", str(tmp_path / "two words"))
    assert data_dir_option(tmp_path / "two words") == ""


class TestTheDemosFolder:
    @pytest.fixture
    def layout(self, tmp_path) -> Layout:
        made = Layout.at(tmp_path / "data")
        made.create()
        made.demo_mark.write_text("")
        return made

    @pytest.fixture(autouse=True)
    def no_stack(self, monkeypatch, layout):
        """Starts nothing; a stack is up when the test says so."""
        self.running: list = []
        monkeypatch.setattr(processes, "find_processes", lambda _stack: self.running)
        monkeypatch.setattr(lifecycle, "stop", lambda _layout: 0)

    def test_what_is_kept_is_the_users_and_no_later_demo_deletes_it(self, layout):
        demo_command._leave(layout, keep=True)
        assert not layout.demo_mark.exists()

    def test_what_is_not_kept_may_be_deleted(self, layout):
        demo_command._leave(layout, keep=False)
        assert layout.demo_mark.exists()

    def test_a_stack_that_up_started_is_the_users(self, layout, monkeypatch):
        started = lifecycle.Started(already_running=True, ports=None, seconds=0.0)
        monkeypatch.setattr(lifecycle, "start", lambda *_args, **_options: started)
        layout.connection.write_text('{"url": "http://127.0.0.1:1", "grpc": "", "admin_key_file": "none"}')
        done = invoke("up", "--detach", "--data-dir", str(layout.root))
        assert done.exit_code == 0, done.output
        assert not layout.demo_mark.exists()

    def test_a_demo_beside_a_running_demo_deletes_nothing(self, layout):
        self.running = ["a process"]
        done = invoke("demo", "churn", "--data-dir", str(layout.root))
        assert isinstance(done.exception, EnvironmentFailure)
        assert "clave down --data-dir" in done.exception.remedy
        assert layout.secrets.exists()


def test_a_slow_start_says_what_it_waits_for(tmp_path, monkeypatch):
    layout = Layout.at(tmp_path / "data")
    clock = iter(range(0, 600, 3))
    ready_after = iter([False] * 3 + [True] * 4)
    state = ProgramState(name="trainer", state="RUNNING", pid=1, uptime_s=0, reason="")
    supervisor = SimpleNamespace(states=lambda: {"trainer": state, "edge": state})
    passing = SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda _seconds: None)
    monkeypatch.setattr(lifecycle, "time", passing)

    def check(names, *_others):
        late = health.Health(ready=next(ready_after), waits_for="")
        return {name: late if name == "trainer" else health.Health(ready=True, waits_for="") for name in names}

    monkeypatch.setattr(lifecycle.health, "check_all", check)
    told: list[str] = []
    lifecycle._await(layout, supervisor, None, None, names=["trainer", "edge"], deadline=500.0, tell=told.append)
    assert told == ["1 of 2 are ready; waiting for trainer"]


def test_ctrl_c_is_not_silent(monkeypatch, capsys):
    def interrupted() -> None:
        raise SystemExit(130)  # what typer makes of it

    monkeypatch.setattr(entry, "app", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 130
    assert "Interrupted" in capsys.readouterr().err


def test_a_cluster_of_another_postgres_is_refused_at_once(tmp_path):
    layout = Layout.at(tmp_path / "data")
    layout.create()
    layout.cluster.mkdir()
    (layout.postgres / "initialised").write_text("")
    (layout.cluster / "PG_VERSION").write_text("13\n")
    with pytest.raises(EnvironmentFailure, match=r"made by Postgres 13; this clave brings Postgres \d+\.") as refused:
        postgres.initialise(layout, None, superuser_password="x")
    assert "--data-dir" in refused.value.remedy


def test_data_of_a_newer_clave_are_told_from_a_broken_migration(tmp_path):
    layout = Layout.at(tmp_path / "data")
    layout.create()
    layout.log("migrations").write_text("Traceback\nCommandError: Can't locate revision identified by '0999'\n")
    newer = lifecycle._migration_failure(layout, ["monitor"])
    assert newer.what == f"A newer clave than this one made the data of monitor in {layout.root}."
    assert newer.log == []
    layout.log("migrations").write_text("deadlock detected\n")
    broken = lifecycle._migration_failure(layout, [])
    assert (broken.what, broken.log) == ("The database migration of a service failed.", ["deadlock detected"])


def test_contributions_are_named_and_the_strongest_comes_first(capsys):
    answer = InferAnswer(
        model_name="churn",
        parameters={"columns": ["tenure", "contract"]},
        outputs=[
            {"name": "contributions", "datatype": "FP64", "shape": [2, 2], "data": [0.1, -0.9, 0.3, 0.2]},
            {"name": "base_value", "datatype": "FP64", "shape": [2], "data": [-1.3, -1.3]},
        ],
    )
    loop._show_contributions(answer)
    told = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[-1:] and "0" in line]
    assert told[:4] == [
        ["row", "0", "log", "odds"],
        ["contract", "-0.9000"],
        ["tenure", "+0.1000"],
        ["base", "-1.3000"],
    ]
    assert told[4] == ["tenure", "+0.3000"]


class TestTheDemosStory:
    @pytest.fixture
    def page(self) -> io.StringIO:
        return io.StringIO()

    @pytest.fixture
    def timeline(self, page) -> Timeline:
        return Timeline(Console(file=page, width=200))

    def test_gates_take_a_line_for_each_verdict(self, page, timeline):
        gates = [
            GateVerdict(gate=name, verdict=verdict, detail="figures " * 40)
            for name, verdict in (("parity", "passed"), ("fairness:female", "review"), ("auc", "passed"))
        ]
        tell_gates(SimpleNamespace(timeline=timeline), gates)
        lines = page.getvalue().splitlines()
        assert [line.split("  gates ")[1] for line in lines] == ["passed: parity, auc", "for review: fairness:female"]
        assert [len(event["figures"]["gates"]) for event in timeline.events] == [2, 1]

    def test_progress_into_a_file_is_told_now_and_then(self, page, timeline, monkeypatch):
        clock = iter(range(0, 1000, 3))
        monkeypatch.setattr("clave.demo.timeline.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        with timeline.bar("training") as bar:
            for done in range(20):
                bar.update(done / 20, f"round {done}")
        assert 1 <= len(page.getvalue().splitlines()) < 10


class TestLogs:
    ENTRY = (
        '{"module": "clave_common.problems", "path": "/card", "event": "request_failed", "level": "error", '
        '"timestamp": "2026-11-22T14:31:21.829100Z", "exception": "Traceback\\n  File x\\nKeyError: run"}'
    )

    def test_an_entry_is_a_sentence_and_an_exception_its_last_line(self):
        told = readable(self.ENTRY)
        assert told == "14:31:21 error   request_failed path=/card [KeyError: run; --raw shows where]"

    @pytest.mark.parametrize("line", ["LOG:  checkpoint starting: time", "{not json", "[1]", '{"no": "happening"}'])
    def test_other_lines_stay_as_they_are(self, line):
        assert readable(f"{line}\n") == line

    def test_a_strangers_text_in_an_entry_steers_no_terminal_and_forges_no_line(self):
        told = readable('{"event": "request", "model": "\\u001b[2Jx\\n14:00:00 info all is well"}')
        assert "\x1b" not in told
        assert "\n" not in told

    def test_each_process_is_named_and_raw_is_as_written(self, tmp_path):
        logs = tmp_path / "data" / "logs"
        logs.mkdir(parents=True)
        (logs / "registry.log").write_text(f"{self.ENTRY}\n")
        (logs / "worker.log").write_text("ready\n")
        (logs / "monitor.log").write_text("")
        folder = str(tmp_path / "data")
        assert [line.split("|")[0] for line in invoke("logs", "--data-dir", folder).stdout.splitlines()] == [
            "registry ",
            "worker   ",
        ]
        assert invoke("logs", "registry", "--raw", "--data-dir", folder).stdout == f"{self.ENTRY}\n"
        assert "logged nothing" in invoke("logs", "monitor", "--data-dir", folder).stderr


def test_no_answer_says_why():
    problem = unreachable(httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER]"), "https://stack")
    assert str(problem) == "https://stack does not answer (ConnectError: [SSL: WRONG_VERSION_NUMBER])."
    assert str(unreachable(httpx.ReadTimeout(""), "http://stack")) == "http://stack does not answer (ReadTimeout)."


class TestWhatIsAsked:
    """What a command sends, and where."""

    @pytest.fixture
    def sent(self, monkeypatch) -> list[tuple[str, str, dict]]:
        calls: list[tuple[str, str, dict]] = []
        real = httpx.AsyncClient

        def answer(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content or b"{}")
            calls.append((request.method, request.url.path, body))
            return httpx.Response(200, json=self.answers.get(request.url.path.rsplit("/", 1)[1], {}))

        monkeypatch.setattr(
            httpx, "AsyncClient", lambda **given: real(**given | {"transport": httpx.MockTransport(answer)})
        )
        return calls

    AT = "2026-11-22T08:00:00Z"
    ALERT: ClassVar = {
        "id": "alert_1", "endpoint": "churn", "name": "ModelInputDrift", "severity": "ticket", "state": "snoozed",
        "summary": "moved", "raised_at": AT, "last_at": AT, "snoozed_until": AT,
    }  # fmt: skip
    answers: ClassVar = {
        "acknowledge": ALERT,
        "snooze": ALERT,
        "resolve": ALERT,
        "answer": {
            "id": "decision_1", "endpoint": "churn", "model": "churn", "model_version": 1, "at": AT,
            "decision": "retrain", "reason": "realised_harm",
        },
        "early": {
            "id": "early", "spec": {"pipeline": "churn", "cron": "0 6 * * *"}, "next_at": AT, "created_by": "user:ana",
            "updated_at": AT,
        },
        "infer": {"model_name": "churn", "outputs": []},
    }  # fmt: skip

    @pytest.mark.parametrize("verb", ["acknowledge", "resolve", "snooze"])
    def test_an_alert_is_acknowledged_snoozed_and_resolved(self, sent, verb):
        done = invoke("monitor", verb, "alert_1")
        assert done.exit_code == 0, done.output
        method, path, body = sent[0]
        assert (method, path) == ("POST", f"/api/monitor/v1/alerts/alert_1/{verb}")
        assert set(body) == ({"until"} if verb == "snooze" else set())
        assert "snoozed" in done.stdout

    @pytest.mark.parametrize(("flag", "approved"), [("--approve", True), ("--deny", False)])
    def test_a_person_answers_a_decision(self, sent, flag, approved):
        assert invoke("monitor", "answer", "decision_1", flag, "--comment", "seen").exit_code == 0
        assert sent[0][1:] == (
            "/api/monitor/v1/decisions/decision_1/answer",
            {"approved": approved, "comment": "seen"},
        )
        assert invoke("monitor", "answer", "decision_1").exit_code == 2

    def test_a_schedule_is_set_in_business_hours(self, sent):
        done = invoke("schedules", "set", "early", "--pipeline", "churn", "--cron", "0 6 * * *", "--business-hours")
        assert done.exit_code == 0, done.output
        method, path, body = sent[0]
        assert (method, path, body["cron"]) == ("PUT", "/api/trainer/v1/schedules/early", "0 6 * * *")
        assert body["business_hours"]["days"] == [0, 1, 2, 3, 4]
        assert invoke("schedules", "set", "early", "--pipeline", "churn").exit_code == 2

    def test_an_explanation_is_asked_for_with_either_kind_of_request(self, sent, tmp_path):
        (tmp_path / "request.json").write_text('{"inputs": [], "parameters": {"entities": {"customer_id": ["C1"]}}}')
        assert invoke("predict", "churn", "--explain", "--entity", "customer_id=C1").exit_code == 0
        assert invoke("predict", "churn", "--explain", "--file", "request.json").exit_code == 0
        assert (
            sent[0][2]["parameters"]
            == sent[1][2]["parameters"]
            == {
                "explain": True,
                "entities": {"customer_id": ["C1"]},
            }
        )
