"""The edge's configuration: one template, rendered for the embedded stack or, by `clave edge render`, for Compose."""

import ipaddress
from dataclasses import dataclass
from importlib.resources import files

from clave.failures import EnvironmentFailure
from clave.stack.certificates import Certificate
from clave.stack.layout import SERVICES

BODY_BYTES_MAX = 8 * 1024 * 1024
LOCAL_DOMAINS = ("127.0.0.1", "localhost", "[::1]")
CLUSTERS = (*SERVICES, "inference_grpc")


@dataclass(frozen=True)
class Upstream:
    """Where a service listens.

    Attributes:
        host: Address or DNS name.
        port: TCP port.
    """

    host: str
    port: int

    @property
    def is_address(self) -> bool:
        """Whether the host needs no name resolution."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class Edge:
    """What the template needs.

    Attributes:
        listen_host: Address to listen on; loopback unless a container network needs otherwise.
        listen_port: The one public port.
        domains: Accepted Host values without port; ``*`` accepts every one.
        admin_socket: Path of the administration socket.
        upstreams: Where each cluster of `CLUSTERS` is.
        proof: The secret that tells services that a request came through the edge.
        certificate: What the public port shows; None for a port without TLS.
        inner_certificate: What the edge shows to services; None where they speak without TLS.
    """

    listen_host: str
    listen_port: int
    domains: tuple[str, ...]
    admin_socket: str
    upstreams: dict[str, Upstream]
    proof: str
    certificate: Certificate | None = None
    inner_certificate: Certificate | None = None


def render_edge(edge: Edge) -> str:
    """Render Envoy's configuration.

    Raises:
        EnvironmentFailure: An upstream of `CLUSTERS` is missing.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - only two commands render

    missing = [name for name in CLUSTERS if name not in edge.upstreams]
    if missing:
        raise EnvironmentFailure(
            f"The edge needs an upstream for: {', '.join(missing)}.",
            remedy="Add --upstream NAME=HOST:PORT for each.",
        )
    template = files("clave.stack").joinpath("envoy.yaml.j2").read_text()
    # YAML, not HTML: strings are quoted by `tojson`, which is valid YAML.
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    return environment.from_string(template).render(
        admin_socket=edge.admin_socket,
        listen_host=edge.listen_host,
        listen_port=edge.listen_port,
        domains=list(edge.domains),
        upstreams={name: edge.upstreams[name] for name in CLUSTERS},
        body_bytes_max=BODY_BYTES_MAX,
        keep_escaped_slashes=False,
        proof=edge.proof,
        public_certificate=edge.certificate,
        inner_certificate=edge.inner_certificate,
    )


def as_domain(name: str) -> str:
    """Write a name or an address as it stands in a Host header."""
    return f"[{name}]" if ":" in name else name


def parse_upstream(text: str) -> tuple[str, Upstream]:
    """Parse ``NAME=HOST:PORT``.

    Raises:
        EnvironmentFailure: The text has another form, or NAME is no cluster.
    """
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    if name not in CLUSTERS or not host or not port.isdigit():
        raise EnvironmentFailure(
            f"{text!r} is not an upstream.", remedy=f"Write NAME=HOST:PORT with NAME one of {', '.join(CLUSTERS)}."
        )
    return name, Upstream(host=host, port=int(port))
