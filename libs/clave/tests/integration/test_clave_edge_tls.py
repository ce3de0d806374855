"""The edge with certificates: TLS outside, mutual TLS inside, what Compose renders, and a stack behind both."""

import json
import ssl
import subprocess
import sys

import grpc
import httpx
import pytest
from clave import compose
from clave.failures import EnvironmentFailure
from clave.stack import edge_process, lifecycle
from clave.stack.certificates import ensure_certificate
from clave.stack.layout import Layout
from clave_contracts.inference_grpc import open_inference_pb2 as pb
from clave_testing.patience import LONG_S, PATIENCE_S, wait_until
from clave_testing.servers import session_root
from edge_bench import METHOD, Running, serve_grpc, serve_upstream

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
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
    with serve_grpc() as plain_grpc:
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
        answer = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)(
            b"", timeout=PATIENCE_S
        )
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
lifecycle.start(layout, port=None, timeout_s=200, tell=print, services=two, options=options)
"""


@pytest.mark.stack
def test_services_behind_mutual_tls_hear_the_edge_and_each_other_and_nobody_else():
    """Two services, started as `clave up --tls --mtls` does; the registry fetches its keys from the gateway."""
    layout = Layout.at(session_root() / "mutual")
    try:
        # In a process of its own: starting Postgres as root forks, which a process full of threads had better not.
        subprocess.run([sys.executable, "-c", START, layout.root], check=True, timeout=LONG_S)
        known = json.loads(layout.connection.read_text())
        trust = ssl.create_default_context(cafile=known["ca_file"])
        admin = {"authorization": f"Bearer {layout.admin_key.read_text().strip()}"}
        with httpx.Client(base_url=known["url"], headers=admin, verify=trust, timeout=PATIENCE_S) as client:
            for path in ("/api/gateway/v1/whoami", "/api/registry/v1/models"):
                wait_until(lambda path=path: client.get(path).status_code == 200, what=path)
        for service in known["services"].values():
            with pytest.raises(httpx.TransportError):  # no certificate
                httpx.get(service["http"] + "/v2/health/ready", verify=False)
            with pytest.raises(httpx.TransportError):  # in the clear
                httpx.get(service["http"].replace("https:", "http:") + "/v2/health/ready")
    finally:
        lifecycle.stop(layout)
