"""The edge of the local stack: its configuration, its hot restart, and how callers are told where it is."""

import json
import os
import signal
import socket
import time
from importlib.metadata import version

from clave.connection import write_connection
from clave.failures import EnvironmentFailure, TimedOut
from clave.stack import edge
from clave.stack.certificates import Certificate, names_of
from clave.stack.edge_process import validate
from clave.stack.layout import Layout
from clave.stack.options import StackOptions, inner_certificates, public_certificate, read_options, record_options
from clave.stack.ports import PortPlan
from clave.stack.secrets import EDGE_KEY, write_secret
from clave.stack.supervisor import Supervisor

_LOOPBACK = "127.0.0.1"
_ADMIN_TIMEOUT_S = 3.0
_RELOAD_S = 30.0
_POLL_S = 0.1


def write_edge(layout: Layout, ports: PortPlan, options: StackOptions) -> None:
    """Write Envoy's configuration, and the certificates that it names.

    Raises:
        EnvironmentFailure: The user's certificate is no good, or Envoy finds the configuration invalid.
    """
    text = _render(layout, ports, options)
    draft = layout.edge_configuration.with_name("envoy.candidate.yaml")
    write_secret(draft, text)
    complaint = validate(draft)
    if complaint:
        raise EnvironmentFailure(f"Envoy finds the edge's configuration invalid: {complaint}")
    draft.replace(layout.edge_configuration)


def reload_edge(layout: Layout, supervisor: Supervisor, ports: PortPlan, options: StackOptions) -> None:
    """Restart the edge hot: no request in flight is lost. Connections move to the new one within some seconds.

    Raises:
        EnvironmentFailure: As `write_edge`; the running edge then stays as it is.
        TimedOut: The next process does not serve; the running one goes on.
    """
    write_edge(layout, ports, options)
    record_options(layout, options)
    before = serving_epoch(layout)
    os.kill(supervisor.states()["edge"].pid, signal.SIGHUP)
    deadline = time.monotonic() + _RELOAD_S
    while serving_epoch(layout) <= before:
        if time.monotonic() > deadline:
            raise TimedOut("The edge's next process did not start in time.", remedy=f"See {layout.log('edge')}.")
        time.sleep(_POLL_S)


def connect(layout: Layout, ports: PortPlan, services: tuple[str, ...]) -> None:
    """Write connection.json."""
    options = read_options(layout)
    addresses: dict[str, dict[str, str]] = {}
    for service in services:
        http = f"{options.inner_scheme}://{_LOOPBACK}:{ports.services[service]}"
        addresses[service] = {"http": http, "metrics": f"{http}/metrics"}
        if f"{service}.grpc" in ports.services:
            addresses[service]["grpc"] = f"{_LOOPBACK}:{ports.services[f'{service}.grpc']}"
    certificate = public_certificate(layout, options)
    host = _public_host(certificate)
    content = {
        "url": f"{options.scheme}://{host}:{ports.public}",
        "grpc": f"{host}:{ports.public}",
        "admin_key_file": str(layout.admin_key),
        "services": addresses,
        "version": version("clave"),
    }
    if certificate is not None and certificate.authority is not None:
        content["ca_file"] = str(certificate.authority)
    write_connection(layout, content)


def _public_host(certificate: Certificate | None) -> str:
    """The loopback address, or a name for it that the user's own certificate vouches for."""
    if certificate is None:
        return _LOOPBACK
    names = names_of(certificate.certificate)
    for local in (_LOOPBACK, "localhost"):
        if local in names:
            return local
    return next((name for name in names if "*" not in name), _LOOPBACK)


def _render(layout: Layout, ports: PortPlan, options: StackOptions) -> str:
    upstreams = {
        # A stack of fewer services still has every route; those answer 503.
        name: edge.Upstream(host=_LOOPBACK, port=ports.services.get(name.replace("_grpc", ".grpc"), 1))
        for name in edge.CLUSTERS
    }
    certificate = public_certificate(layout, options)
    own_names = names_of(certificate.certificate) if certificate is not None else ()
    return edge.render_edge(
        edge.Edge(
            listen_host=_LOOPBACK,
            listen_port=ports.public,
            domains=tuple(dict.fromkeys((*edge.LOCAL_DOMAINS, *map(edge.as_domain, own_names)))),
            admin_socket=str(layout.edge_admin_socket),
            upstreams=upstreams,
            proof=(layout.secrets / EDGE_KEY).read_text().strip(),
            certificate=certificate,
            inner_certificate=inner_certificates(layout, options).get("edge"),
        )
    )


def serving_epoch(layout: Layout) -> int:
    """Ask the edge's administration how many times it was restarted hot; -1 where nobody serves."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ADMIN_TIMEOUT_S)
            connection.connect(str(layout.edge_admin_socket))
            connection.sendall(b"GET /server_info HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        info = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    except (OSError, ValueError):
        return -1
    return int(info["command_line_options"].get("restart_epoch", 0)) if info["state"] == "LIVE" else -1
