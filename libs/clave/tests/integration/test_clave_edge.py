"""The real Envoy on the template, in front of an upstream that shows what reached it: no stack, no database."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from clave import compose
from clave.failures import EnvironmentFailure
from clave.stack import edge, edge_process, lifecycle
from clave.stack.certificates import ensure_certificate
from clave.stack.layout import Layout
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.servers import session_root, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Upstream(BaseHTTPRequestHandler):
    """Answers as the request's own header `mode` says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        if self.headers.get("mode") == "break-once" and self.server.broken.acquire(blocking=False):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        threading.Event().wait(float(self.headers.get("work-s", 0)))
        self.answer(200, {"content-type": "application/json"}, b"{}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.path, dict(self.headers)))
        mode = self.headers.get("mode", "ok")
        if mode == "ok":
            asked = pb.ModelInferRequest.FromString(body)
            answer = pb.ModelInferResponse(model_name=asked.model_name, id="bridged").SerializeToString()
            self.answer(200, {"content-type": "application/x-protobuf"}, answer)
        elif mode == "refuse":
            facts = {"x-grpc-status": "16", "x-grpc-message": "no key: %C3%A9 50%25", "x-grpc-clave-code": "no_key"}
            self.answer(401, {"content-type": "application/x-protobuf", **facts}, b"")
        elif mode == "text":
            self.answer(503, {"content-type": "text/plain"}, b"busy")
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve_upstream(tls=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    server.seen = []
    server.broken = threading.Semaphore(0)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def plain_grpc():
    server = grpc.server(ThreadPoolExecutor(2))
    answer = pb.ModelInferResponse(id="plain").SerializeToString()
    live = pb.ServerLiveResponse(live=True).SerializeToString()
    methods = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(lambda _message, _context: answer),
        "ServerLive": grpc.unary_unary_rpc_method_handler(lambda _message, _context: live),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """One edge process with its configuration."""

    def __init__(self, folder: Path, upstream_port: int, grpc_port: int, **parts):
        self.port = free_port()
        self.folder = folder
        upstreams = {name: edge.Upstream("127.0.0.1", 1) for name in edge.CLUSTERS}
        upstreams |= {
            "inference": edge.Upstream("127.0.0.1", upstream_port),
            "inference_grpc": edge.Upstream("127.0.0.1", grpc_port),
        }
        self.admin = folder / "admin.sock"
        self.file = folder / "envoy.yaml"
        self.file.write_text(
            edge.render_edge(
                edge.Edge("127.0.0.1", self.port, edge.LOCAL_DOMAINS, str(self.admin), upstreams, "the-proof", **parts)
            )
        )
        self.log = folder / "edge.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "clave.stack.edge_process", self.file, folder]
            self.process = subprocess.Popen(command, stderr=log)
        wait_until(self.accepts, what="the edge's port", seconds=30)

    def accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def envoys(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def end(self):
        self.process.terminate()
        assert self.process.wait(15) == 0


@pytest.fixture(scope="module")
def upstream():
    server = serve_upstream()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory, upstream, plain_grpc):
    found = Running(tmp_path_factory.mktemp("edge"), upstream.server_port, plain_grpc)
    yield found
    found.end()


def infer(running, message=None, *, mode="ok", compression=None):
    with grpc.insecure_channel(f"127.0.0.1:{running.port}", options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary(
            METHOD,
            request_serializer=lambda asked: asked.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        asked = message or pb.ModelInferRequest(model_name="m")
        return call(asked, metadata=(("mode", mode), ("x-clave-edge", "forged")), timeout=10, compression=compression)


def refusal(running, *arguments, **named):
    with pytest.raises(grpc.RpcError) as caught:
        infer(running, *arguments, **named)
    return caught.value


class TestBridge:
    def test_a_unary_prediction_goes_to_the_http_port_with_the_bare_message(self, running, upstream):
        assert infer(running).id == "bridged"
        path, headers = upstream.seen[-1]
        assert path == METHOD
        assert headers["content-length"] == str(len(pb.ModelInferRequest(model_name="m").SerializeToString()))
        assert "x-clave-bridged" not in headers
        assert headers["x-clave-edge"] == "the-proof"

    def test_a_compressed_message_goes_to_the_grpc_port(self, running):
        assert infer(running, compression=grpc.Compression.Gzip).id == "plain"

    def test_other_methods_go_to_the_grpc_port(self, running):
        with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            live = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive", response_deserializer=pb.ServerLiveResponse.FromString
            )
            assert live(b"", timeout=10).live

    def test_a_message_of_five_megabytes_passes_and_one_above_the_limit_is_resource_exhausted(self, running):
        assert infer(running, pb.ModelInferRequest(raw_input_contents=[b"x" * 5_000_000])).id == "bridged"
        error = refusal(running, pb.ModelInferRequest(raw_input_contents=[b"x" * 9_000_000]))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_a_refusal_keeps_its_status_message_and_code(self, running):
        error = refusal(running, mode="refuse")
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error.details() == "no key: é 50%"
        assert dict(error.trailing_metadata())["clave-code"] == "no_key"

    def test_a_broken_upstream_is_unavailable(self, running):
        assert refusal(running, mode="break").code() is grpc.StatusCode.UNAVAILABLE

    def test_an_answer_that_is_no_message_is_an_error_and_no_message(self, running):
        assert refusal(running, mode="text").code() is grpc.StatusCode.UNKNOWN

    def test_nobody_reaches_the_bridged_route_by_writing_its_header(self, running):
        answer = httpx.post(
            f"http://127.0.0.1:{running.port}{METHOD}",
            headers={"content-type": "application/x-protobuf", "x-clave-bridged": "1"},
        )
        assert answer.status_code == 404

    def test_a_frame_too_short_for_its_head_does_not_reach_the_lane(self, running, upstream):
        before = len(upstream.seen)
        answer = httpx.post(
            f"http://127.0.0.1:{running.port}{METHOD}", content=b"ab", headers={"content-type": "application/grpc"}
        )
        assert answer.headers["grpc-status"] != "0"
        assert len(upstream.seen) == before


class TestHeaders:
    def test_identity_headers_of_strangers_do_not_pass(self, running, upstream):
        names = ("x-envoy-external-address", "x-forwarded-for", "x-real-ip", "x-clave-edge", "x-clave-on-behalf-of")
        forged = dict.fromkeys(names, "10.9.8.7")
        httpx.get(f"http://127.0.0.1:{running.port}/v2", headers=forged)
        headers = upstream.seen[-1][1]
        assert "10.9.8.7" not in json.dumps(headers)
        assert headers["x-envoy-external-address"] == "127.0.0.1"
        assert headers["x-clave-edge"] == "the-proof"

    @pytest.mark.parametrize("path", ["/v2", "/v2/models/churn/ready"])
    def test_a_read_whose_connection_broke_is_tried_again(self, running, upstream, path):
        upstream.broken.release()
        answer = httpx.get(f"http://127.0.0.1:{running.port}{path}", headers={"mode": "break-once"})
        assert answer.status_code == 200

    def test_a_prediction_is_bounded_and_only_its_method_passes(self, running, upstream):
        url = f"http://127.0.0.1:{running.port}/v2/models/churn/infer"
        before = len(upstream.seen)
        assert httpx.post(url, content=b"x" * 9_000_000).status_code == 413
        assert httpx.request("TRACE", url).status_code == 405
        assert httpx.post(url.replace("churn", "..%2fchurn"), content=b"").status_code == 400
        assert len(upstream.seen) == before
        assert httpx.post(url.replace("/v2", "/api/registry/../../v2"), headers={"mode": "text"}).status_code == 503
        assert upstream.seen[-1][0] == "/v2/models/churn/infer"

    def test_a_write_whose_connection_broke_is_not(self, running, upstream):
        before = len(upstream.seen)
        url = f"http://127.0.0.1:{running.port}/v2/models/churn/infer"
        answer = httpx.post(url, headers={"mode": "break"}, content=b"")
        assert answer.status_code == 503
        assert len(upstream.seen) == before + 1


def test_a_failure_between_edge_and_service_is_logged_with_its_reason_and_nothing_else_is(running):
    url = f"http://127.0.0.1:{running.port}"
    assert httpx.get(f"{url}/v2").status_code == 200
    unknown = httpx.get(f"{url}/nowhere")
    assert httpx.post(f"{url}/v2/models/m/infer", headers={"mode": "text"}).status_code == 503  # the service's own
    secret = {"authorization": "Bearer clave_secret", "mode": "break"}
    broken = httpx.post(f"{url}/v2/models/m/infer?word=1", headers=secret, content=b"values").json()["request_id"]
    wait_until(lambda: broken in running.log.read_text(), what="the line of the failure", seconds=20)
    text = running.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    line = next(line for line in lines if line["request_id"] == broken)
    assert (line["service"], line["method"], line["status"], line["flags"]) == ("inference", "POST", 503, "UC")
    assert "connection_termination" in line["details"]
    assert {line["event"] for line in lines} == {"edge_failure"}
    assert unknown.json()["request_id"] not in text
    assert not any(word in text for word in ("secret", "values", "word", "/infer"))


def test_the_administration_listens_on_a_private_socket_only(running):
    assert running.admin.stat().st_mode & 0o777 == 0o600
    ports = {
        connection.laddr.port
        for pid in running.envoys()
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports == {running.port}


class Load:
    """Clients that ask without a pause and keep their connections; every failure is kept."""

    def __init__(self, port: int):
        self.port = port
        self.stop = threading.Event()
        self.failures: list[str] = []
        self.answered = 0
        self.threads = [threading.Thread(target=work) for work in (self.read, self.read, self.read, self.predict)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def read(self):
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20) as client:
            while not self.stop.is_set():
                self.count(lambda: client.get("/v2", headers={"work-s": "0.05"}).raise_for_status())

    def predict(self):
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary(METHOD)
            while not self.stop.is_set():
                self.count(lambda: call(b"", timeout=20))

    def count(self, ask):
        try:
            ask()
        except (httpx.HTTPError, grpc.RpcError) as error:
            self.failures.append(repr(error))
        self.answered += 1


def test_a_hot_restart_under_load_fails_no_request(running):
    with Load(running.port) as load:
        (before,) = running.envoys()
        os.kill(running.process.pid, signal.SIGHUP)
        wait_until(lambda: before not in running.envoys(), what="the old Envoy to end", seconds=40)
        at_end = load.answered
        wait_until(lambda: load.answered > at_end + 20, what="answers of the new Envoy", seconds=20)
    assert load.failures == []
    assert load.answered > 100


def test_an_invalid_configuration_leaves_the_running_edge_alone(running):
    good = running.file.read_text()
    before = running.envoys()
    running.file.write_text(good.replace("codec_type: AUTO", "codec_type: SOMETIMES"))
    try:
        assert "SOMETIMES" in edge_process.validate(running.file)
        os.kill(running.process.pid, signal.SIGHUP)
        assert httpx.get(f"http://127.0.0.1:{running.port}/healthz").status_code == 200
        assert set(before) <= set(running.envoys())  # beside it, the one that looks at the new file
    finally:
        running.file.write_text(good)


@pytest.fixture(scope="module")
def secured(tmp_path_factory, plain_grpc):
    """TLS outside, mutual TLS inside; the upstream names itself as inference and wants a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    public = ensure_certificate(folder / "public", "edge", hosts=("localhost", "127.0.0.1"))
    service = ensure_certificate(folder / "services", "inference", hosts=("inference",), client=True)
    inner = ensure_certificate(folder / "services", "edge", hosts=("edge",), client=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(service.certificate, service.key)
    context.load_verify_locations(service.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server = serve_upstream(context)
    found = Running(folder, server.server_port, plain_grpc, certificate=public, inner_certificate=inner)
    yield found, public, server
    found.end()
    server.shutdown()


def test_rest_and_grpc_pass_over_tls_and_mutual_tls(secured):
    running, public, _ = secured
    trust = ssl.create_default_context(cafile=str(public.authority))
    assert httpx.get(f"https://127.0.0.1:{running.port}/v2", verify=trust).status_code == 200
    credentials = grpc.ssl_channel_credentials(root_certificates=public.authority.read_bytes())
    with grpc.secure_channel(f"localhost:{running.port}", credentials) as channel:
        answer = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)(b"", timeout=10)
    assert answer.id == "bridged"


def test_a_stranger_to_the_authority_and_old_protocols_are_refused(secured):
    running, public, server = secured
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{running.port}/v2")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://127.0.0.1:{running.port}/v2")
    old = ssl.create_default_context(cafile=str(public.authority))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{running.port}/v2", verify=old)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError)):  # no client certificate
        httpx.get(f"https://127.0.0.1:{server.server_port}/v2", verify=False)


@pytest.mark.parametrize(
    "asked",
    [{}, {"CLAVE_TLS": "1", "CLAVE_TLS_HOSTS": "clave.example"}, {"CLAVE_TLS": "1", "CLAVE_MTLS": "1"}, {"own": "1"}],
)
def test_envoy_finds_what_compose_renders_valid(tmp_path, monkeypatch, asked):
    for name in ("SECRETS", "EDGE"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(compose, name, tmp_path / name)
    (tmp_path / "SECRETS" / "edge.key").write_text("the-proof")
    if "own" in asked:
        own = ensure_certificate(tmp_path / "own", "edge", hosts=("clave.example", "::1"))
        asked = {"CLAVE_TLS_CERT": own.certificate.read_text(), "CLAVE_TLS_KEY": own.key.read_text()}
    compose.hand_certificates_to_edge(asked)
    file = tmp_path / "envoy.yaml"
    file.write_text(compose.edge_configuration(47310, asked))
    assert edge_process.validate(file) == ""
    assert ("DownstreamTlsContext" in file.read_text()) == bool(asked)
    assert ("clave.example" in file.read_text()) == bool({"CLAVE_TLS_HOSTS", "CLAVE_TLS_CERT"} & set(asked))


def test_compose_refuses_half_a_certificate(tmp_path, monkeypatch):
    monkeypatch.setattr(compose, "EDGE", tmp_path)
    made = ensure_certificate(tmp_path / "own", "edge", hosts=("clave.example",))
    with pytest.raises(EnvironmentFailure, match="cannot be read"):
        compose.hand_certificates_to_edge({"CLAVE_TLS_CERT": made.certificate.read_text()})


START = """
import pathlib, sys
from clave.stack import lifecycle
from clave.stack.layout import Layout
from clave.stack.options import StackOptions
options = StackOptions(tls=True, mutual_tls=True)
two = ("gateway", "registry")
layout = Layout.at(pathlib.Path(sys.argv[1]))
lifecycle.start(layout, port=None, timeout_s=90, tell=print, services=two, options=options)
"""


@pytest.mark.stack
def test_services_behind_mutual_tls_hear_the_edge_and_each_other_and_nobody_else():
    """Two services, started as `clave up --tls --mtls` does; the registry fetches its keys from the gateway."""
    layout = Layout.at(session_root() / "mutual")
    try:
        # In a process of its own: starting Postgres as root forks, which a process full of threads had better not.
        subprocess.run([sys.executable, "-c", START, layout.root], check=True, timeout=180)
        known = json.loads(layout.connection.read_text())
        trust = ssl.create_default_context(cafile=known["ca_file"])
        admin = {"authorization": f"Bearer {layout.admin_key.read_text().strip()}"}
        with httpx.Client(base_url=known["url"], headers=admin, verify=trust, timeout=20) as client:
            for path in ("/api/gateway/v1/whoami", "/api/registry/v1/models"):
                wait_until(lambda path=path: client.get(path).status_code == 200, what=path, seconds=30)
        for service in known["services"].values():
            with pytest.raises(httpx.TransportError):  # no certificate
                httpx.get(service["http"] + "/v2/health/ready", verify=False)
            with pytest.raises(httpx.TransportError):  # in the clear
                httpx.get(service["http"].replace("https:", "http:") + "/v2/health/ready")
    finally:
        lifecycle.stop(layout)
