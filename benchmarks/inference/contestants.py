"""Who is compared, how it is started and what it is asked.

Peers live in environments of their own below the work folder, made on first use with the versions named here; one that
does not install or start is reported as such and left out.
"""

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PINS = {
    "mosec": ["mosec==0.9.8", "msgspec==0.22.0", "onnxruntime==1.31.1", "numpy==2.4.6"],
    "mlserver": ["mlserver==1.7.1", "uvloop==0.21.0", "onnxruntime==1.31.1"],
    "kserve": ["kserve==0.21.0", "onnxruntime==1.31.1"],
    "litserve": ["litserve==0.2.19", "onnxruntime==1.31.1"],
}


@dataclass
class Contestant:
    """A server in the comparison.

    Attributes:
        path: Where requests go.
        bodies: Name of the body file.
        environment: Name of the peer environment; None for clave's own.
    """

    name: str
    command: list[str]
    port: int
    path: str = "/v2/models/churn/infer"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    bodies: str = "json"
    variables: dict[str, str] = field(default_factory=dict)
    environment: str | None = None
    folder: Path | None = None
    start_s_max: float = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def floor(work: Path) -> Contestant:
    port = free_port()
    return Contestant(
        "bare protocol (floor)", [sys.executable, str(HERE / "floor.py"), str(work / "model.onnx"), str(port)], port
    )


def clave(variables: dict[str, str], key: str, *, name: str = "clave, everything on") -> Contestant:
    return Contestant(
        name,
        [sys.executable, "-m", "clave_inference", "serve"],
        int(variables["CLAVE_INFERENCE_HTTP_PORT"]),
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
        variables=variables,
    )


def python_of(work: Path, environment: str) -> Path:
    return work / "environments" / environment / "bin" / "python"


def peers(work: Path) -> list[Contestant]:
    """Every peer whose script is in ``peers/``."""
    found: list[Contestant] = []
    for name in PINS:
        script = HERE / "peers" / f"{name}_server.py"
        if not script.exists():
            continue
        port = free_port()
        found.append(
            Contestant(
                name,
                [str(python_of(work, name)), str(script), str(port)],
                port,
                variables={"MODEL": str(work / "model.onnx"), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
                environment=name,
            )
        )
    return found
