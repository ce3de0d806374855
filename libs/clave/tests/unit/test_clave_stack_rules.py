"""What the stack decides without starting anything: paths, configurations, leftovers, health answers."""

import configparser
import json
import stat
from pathlib import Path

import pytest
import yaml
from clave.failures import EnvironmentFailure
from clave.stack import edge, health, processes, programs, supervisor
from clave.stack.layout import SERVICES, SOCKET_PATH_BYTES_MAX, Layout
from clave.stack.ports import PortPlan
from clave.stack.secrets import Passwords

PASSWORDS = Passwords(
    postgres="pg",
    roles={service: f"pw-{service}" for service in SERVICES},
    valkey="vk",
    supervisor="sv",
    valkey_users={service: f"vk-{service}" for service in SERVICES},
)
PORTS = PortPlan(public=47310, services={name: 47320 + i for i, name in enumerate(programs.port_names())})


@pytest.fixture
def layout(tmp_path):
    made = Layout.at(tmp_path / "data dir %20")
    made.create()
    return made


def all_programs(layout):
    services = programs.service_programs(layout, SERVICES, PORTS, PASSWORDS)
    return [*programs.infrastructure(layout, None), *services]


class TestLayout:
    def test_a_long_data_directory_keeps_its_sockets_somewhere_short(self, tmp_path, monkeypatch):
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        layout = Layout.at(tmp_path / ("long" * 30))
        assert not layout.sockets.is_relative_to(layout.root)
        assert len(str(layout.postgres_sockets / ".s.PGSQL.5432.lock")) <= SOCKET_PATH_BYTES_MAX

    def test_secrets_are_private(self, layout):
        assert stat.S_IMODE(layout.secrets.stat().st_mode) == 0o700
        assert stat.S_IMODE(layout.programs.stat().st_mode) == 0o700

    def test_a_folder_that_cannot_be_made_is_refused_with_a_remedy(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(EnvironmentFailure, match="cannot be used") as refused:
            Layout.at(tmp_path / "file" / "data").create()
        assert "--data-dir" in refused.value.remedy

    def test_a_stack_is_known_by_its_folder(self, tmp_path):
        assert Layout.at(tmp_path / "a").stack_id == Layout.at(tmp_path / "b" / ".." / "a").stack_id
        assert Layout.at(tmp_path / "a").stack_id != Layout.at(tmp_path / "b").stack_id


class TestPrograms:
    def test_a_service_is_given_every_variable_it_needs(self, layout):
        env = programs.service_environment(layout, "inference", PORTS, PASSWORDS)
        for name in ("HTTP_PORT", "GRPC_PORT", "DATABASE_URL", "REDIS_URL", "DATA_DIR", "SECRETS_DIR", "BLOB_URL"):
            assert env[f"CLAVE_INFERENCE_{name}"]
        assert env["CLAVE_REGISTRY_URL"] == f"http://127.0.0.1:{PORTS.services['registry']}"
        assert "pw-inference" in env["CLAVE_INFERENCE_DATABASE_URL"]
        assert "unix://inference:vk-inference@" in env["CLAVE_INFERENCE_REDIS_URL"]
        assert "pw-registry" not in json.dumps(env)
        assert "vk-registry" not in json.dumps(env)
        assert "vk@" not in json.dumps(env)

    def test_a_specification_is_private_and_carries_the_marks(self, layout):
        path = programs.write_specification(layout, all_programs(layout)[-1])
        specification = json.loads(path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert specification["env"][processes.MARK] == layout.stack_id
        assert specification["env"][processes.PROGRAM_MARK] == "worker"

    def test_the_callers_own_key_does_not_reach_the_services(self, layout, monkeypatch):
        monkeypatch.setenv("CLAVE_API_KEY", "clave_live_secret")
        monkeypatch.setenv("CLAVE_OPA_URL", "http://opa:8181")
        specification = json.loads(programs.write_specification(layout, all_programs(layout)[-1]).read_text())
        assert "CLAVE_API_KEY" not in specification["env"]
        assert specification["env"]["CLAVE_OPA_URL"] == "http://opa:8181"


class TestSupervisorConfiguration:
    def test_it_restarts_for_ever_and_rotates_the_logs(self, layout):
        supervisor.write_configuration(layout, all_programs(layout), PASSWORDS, started=frozenset({"postgres"}))
        parsed = configparser.RawConfigParser()
        parsed.read(layout.run / "supervisord.conf")
        for program in all_programs(layout):
            section = parsed[f"program:{program.name}"]
            assert section["autorestart"] == "true"
            assert int(section["startretries"]) > 10_000
            assert section["stdout_logfile_maxbytes"]
            assert section["autostart"] == str(program.name == "postgres").lower()
            assert section["command"].replace("%%", "%").count(str(layout.programs)) == 1

    def test_no_password_of_a_service_stands_in_it(self, layout):
        supervisor.write_configuration(layout, all_programs(layout), PASSWORDS, started=frozenset())
        text = (layout.run / "supervisord.conf").read_text()
        assert "pw-" not in text


class TestEdge:
    def rendered(self):
        upstreams = {name: edge.Upstream("127.0.0.1", 47321) for name in edge.CLUSTERS}
        return yaml.safe_load(
            edge.render_edge(edge.Edge("127.0.0.1", 47310, edge.LOCAL_DOMAINS, "/run/admin.sock", upstreams, "proof"))
        )

    def routes(self):
        listener = self.rendered()["static_resources"]["listeners"][0]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        return manager, manager["route_config"]["virtual_hosts"][0]["routes"]

    def test_it_listens_on_loopback_and_its_administration_on_a_private_socket(self):
        rendered = self.rendered()
        assert rendered["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] == "127.0.0.1"
        assert rendered["admin"]["address"]["pipe"]["path"] == "/run/admin.sock"

    def test_identity_headers_are_removed_before_routing(self):
        manager, _ = self.routes()
        mutations = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"]
        assert {"remove": "x-forwarded-user"} in mutations
        assert {"remove_on_match": {"key_matcher": {"prefix": "x-clave-"}}} in mutations

    @pytest.mark.parametrize("prefix", ["/api/registry/v1/blobs", "/api/2.0/mlflow-artifacts"])
    def test_streams_are_not_buffered_and_come_before_their_shorter_prefix(self, prefix):
        _, routes = self.routes()
        prefixes = [route["match"].get("path_separated_prefix") for route in routes]
        route = routes[prefixes.index(prefix)]
        assert route["typed_per_filter_config"]["envoy.filters.http.buffer"]["disabled"] is True
        shorter = "/api/registry" if "registry" in prefix else "/api/2.0/mlflow"
        assert prefixes.index(prefix) < prefixes.index(shorter)

    @pytest.mark.parametrize(
        "prefix", ["/v2", "/api/trainer", "/api/monitor", "/api/gateway", "/access/v1", "/get-online-features", "/push"]
    )
    def test_every_public_path_has_a_route(self, prefix):
        _, routes = self.routes()
        assert prefix in [route["match"].get("path_separated_prefix") for route in routes]

    def test_names_are_resolved_and_addresses_are_not(self):
        upstreams = {name: edge.Upstream("registry", 1) for name in edge.CLUSTERS}
        text = edge.render_edge(edge.Edge("0.0.0.0", 1, ("*",), "/a", upstreams, "proof"))
        clusters = yaml.safe_load(text)["static_resources"]["clusters"]
        assert {cluster["type"] for cluster in clusters} == {"STRICT_DNS"}
        assert {cluster["type"] for cluster in self.rendered()["static_resources"]["clusters"]} == {"STATIC"}

    def test_a_missing_upstream_is_refused(self):
        with pytest.raises(EnvironmentFailure, match="registry"):
            edge.render_edge(edge.Edge("0.0.0.0", 1, ("*",), "/a", {}, "proof"))

    @pytest.mark.parametrize("text", ["registry", "registry=host", "nobody=host:1", "registry=:1"])
    def test_a_malformed_upstream_is_refused(self, text):
        with pytest.raises(EnvironmentFailure):
            edge.parse_upstream(text)


class TestLeftovers:
    def process(self, proc: Path, pid: int, environment: dict, command: str = "python\0-m\0x"):
        folder = proc / str(pid)
        folder.mkdir()
        (folder / "environ").write_bytes(b"\0".join(f"{k}={v}".encode() for k, v in environment.items()))
        (folder / "cmdline").write_bytes(command.encode())

    def test_only_processes_with_the_mark_are_found(self, tmp_path):
        self.process(tmp_path, 10, {processes.MARK: "abc", processes.PROGRAM_MARK: "registry"})
        self.process(tmp_path, 11, {processes.MARK: "another"})
        self.process(tmp_path, 12, {"NOTE": "abc"})
        self.process(tmp_path, 13, {processes.MARK: "abc"}, command="")  # a zombie
        (tmp_path / "self").mkdir()
        found = processes.find_processes("abc", proc=tmp_path)
        assert [(process.pid, process.program) for process in found] == [(10, "registry")]

    def test_a_process_that_ends_meanwhile_is_passed_over(self, tmp_path):
        (tmp_path / "20").mkdir()
        assert processes.find_processes("abc", proc=tmp_path) == []

    def test_values_with_equal_signs_survive(self):
        assert processes.parse_environment(b"A=b=c\0EMPTY=\0junk") == {"A": "b=c", "EMPTY": ""}


class TestHealth:
    def test_a_503_names_what_is_missing(self):
        body = json.dumps({"ready": False, "missing": {"database": "no answer within 2 s"}}).encode()
        assert health._missing(503, body) == "database: no answer within 2 s"

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}"])
    def test_an_answer_that_says_nothing_is_its_status(self, body):
        assert health._missing(503, body) == "HTTP 503"

    def test_a_port_nobody_listens_on_is_not_ready(self, unused_tcp_port):
        assert not health.check_http(unused_tcp_port, "/healthz").ready
