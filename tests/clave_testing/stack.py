"""The whole local stack for tests: one `clave up` for a session, shared by every worker."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from clave.stack import lifecycle
from clave.stack.layout import Layout

from clave_testing.patience import PATIENCE_S
from clave_testing.servers import session_root, started_once

_UP_S_MAX = 240
CLAVE = [sys.executable, "-m", "clave"]
WEBHOOK_RECEIVER = "127.0.0.9"
"""The one address of this machine that the session's stack lets webhooks reach."""
REFUSALS_BURST = 500
"""How many requests the session's stack refuses to one key before it holds the key back."""
_SETTINGS = {
    "CLAVE_REGISTRY_WEBHOOK_HOSTS": f"{WEBHOOK_RECEIVER},localhost",
    "CLAVE_REGISTRY_WEBHOOK_NETWORKS": f"{WEBHOOK_RECEIVER}/32",
    # Attacks are refused by the hundred, each for its own reason; who is refused too often has tests of its own.
    "CLAVE_REFUSALS_BURST": str(REFUSALS_BURST),
}


@dataclass(frozen=True)
class Stack:
    """A running stack.

    Attributes:
        data_dir: Its data directory.
        url: Its public URL.
        admin_key: Key of ``user:admin``.
        services: ``{name: {"http": ..., "metrics": ...}}``.
    """

    data_dir: Path
    url: str
    grpc: str
    admin_key: str
    services: dict[str, dict[str, str]]

    @property
    def headers(self) -> dict[str, str]:
        """The admin's credential."""
        return {"authorization": f"Bearer {self.admin_key}"}

    def client(self) -> httpx.Client:
        """The admin at the edge; refusals are answers."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=PATIENCE_S)

    def clave(self, *arguments: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run the command line against this stack."""
        done = subprocess.run(
            [*CLAVE, *arguments],
            env={**os.environ, "CLAVE_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"clave {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done


def done(answer: httpx.Response) -> Any:
    """Insist on a success; gives its document."""
    assert answer.status_code < 300, answer.text
    return answer.json()


def start_stack(data_dir: Path) -> Stack:
    """Start a stack in a folder and describe it."""
    done = subprocess.run(
        [*CLAVE, "up", "--detach", "--data-dir", str(data_dir)],
        env={**os.environ, **_SETTINGS},
        capture_output=True,
        text=True,
        timeout=_UP_S_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"clave up ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return read_stack(data_dir)


def start_part(data_dir: Path, services: tuple[str, ...]) -> Stack:
    """Start a stack of some services only, in a folder, and describe it: each one costs seconds of processor time.

    It has no limit of refusals: whoever attacks it in a loop is refused each time by what the test is about.
    """
    with patch.dict(os.environ, {"CLAVE_REFUSALS_PER_MINUTE": "0"}):
        lifecycle.start(Layout.at(data_dir), port=None, timeout_s=_UP_S_MAX, tell=lambda _: None, services=services)
    return read_stack(data_dir)


def read_stack(data_dir: Path) -> Stack:
    """Describe a running stack from its ``connection.json``."""
    found = json.loads((data_dir / "connection.json").read_text())
    key = Path(found["admin_key_file"]).read_text().strip()
    return Stack(data_dir, found["url"], found["grpc"], key, found["services"])


def stop_command(data_dir: Path) -> list[str]:
    """The command that stops a stack."""
    return [*CLAVE, "down", "--data-dir", str(data_dir)]


def shared_stack() -> Stack:
    """The session's stack; the first test that needs it waits for its start.

    ``CLAVE_TEST_STACK`` names the data directory of one that already runs, for whoever writes tests.
    """
    if given := os.environ.get("CLAVE_TEST_STACK"):
        return read_stack(Path(given))

    def start() -> dict[str, Any]:
        data_dir = session_root() / "stack"
        try:
            start_stack(data_dir)
        except BaseException:
            subprocess.run(stop_command(data_dir), check=False, capture_output=True, timeout=PATIENCE_S)
            raise
        return {"data_dir": str(data_dir), "stop": stop_command(data_dir)}

    return read_stack(Path(started_once("stack", start)["data_dir"]))
