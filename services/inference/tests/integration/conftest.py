"""The real inference process on real Valkey, with its peers stood in for."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from clave_testing.inference_peers import InferencePeers, RunningPeers, environment
from clave_testing.patience import LONG_S, PATIENCE_S, wait_until

sys.path.insert(0, str(Path(__file__).parent))

from inference_models import COLUMNS, sum_model, sum_signature
from inference_process import start_process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """A running inference process."""

    peers: InferencePeers
    variables: dict[str, str]
    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.peers.key.text}"}

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def start(self) -> None:
        self.process = start_process(self.variables)
        wait_until(self.is_ready, what="inference ready")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def peers(secrets_dir: Path) -> InferencePeers:
    peers = InferencePeers(secrets_dir, columns=COLUMNS)
    version = peers.add_version(1, {"model.onnx": sum_model(1.0)}, sum_signature())
    peers.want([version], [(1, "live", 1.0)])
    return peers


@pytest.fixture
def running_peers(peers: InferencePeers) -> Iterator[RunningPeers]:
    with RunningPeers(peers) as running:
        yield running


@pytest.fixture
def workers() -> int:
    """Processes on the port; a test that wants several parametrizes it."""
    return 1


@pytest.fixture
def service(
    peers: InferencePeers, running_peers: RunningPeers, secrets_dir: Path, tmp_path: Path, redis_url: str, workers: int
) -> Iterator[Service]:
    http_port, grpc_port = free_port(), free_port()
    variables = environment(
        running_peers.url,
        secrets=secrets_dir,
        data=tmp_path / "data",
        redis_url=redis_url,
        http_port=http_port,
        grpc_port=grpc_port,
    ) | {"CLAVE_INFERENCE_WORKERS": str(workers)}
    running = Service(peers, variables, http_port, grpc_port, start_process(variables))
    try:
        wait_until(running.is_ready, what="inference ready", seconds=LONG_S)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
