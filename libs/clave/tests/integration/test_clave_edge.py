"""The real Envoy on the template, in front of an upstream that shows what reached it: no stack, no database."""

import json
import os
import signal
import threading

import grpc
import httpx
import psutil
import pytest
from clave.stack import edge_process
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S, wait_until
from edge_bench import METHOD, Running, serve_grpc, serve_upstream

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def upstream():
    server = serve_upstream()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def running(tmp_path_factory, upstream):
    with serve_grpc() as plain_grpc:
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
        return call(
            asked, metadata=(("mode", mode), ("x-clave-edge", "forged")), timeout=PATIENCE_S, compression=compression
        )


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
            assert live(b"", timeout=PATIENCE_S).live

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
    wait_until(lambda: broken in running.log.read_text(), what="the line of the failure")
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
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S) as client:
            while not self.stop.is_set():
                self.count(lambda: client.get("/v2", headers={"work-s": "0.05"}).raise_for_status())

    def predict(self):
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary(METHOD)
            while not self.stop.is_set():
                self.count(lambda: call(b"", timeout=PATIENCE_S))

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
        wait_until(lambda: before not in running.envoys(), what="the old Envoy to end")
        at_end = load.answered
        wait_until(lambda: load.answered > at_end + 20, what="answers of the new Envoy")
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
