"""A real Envoy on the edge's template, and the upstreams behind it that show what reached them."""

import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import psutil
from clave.stack import edge
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import PATIENCE_S, wait_until

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
    """Start an upstream on a free port, behind TLS where a context is given."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    server.seen = []
    server.broken = threading.Semaphore(0)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@contextmanager
def serve_grpc():
    """A gRPC server of two methods; yields its port."""
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
    try:
        yield port
    finally:
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
        wait_until(self.accepts, what="the edge's port")

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
        assert self.process.wait(PATIENCE_S) == 0
