"""Starts the service as a process of its own."""

import os
import subprocess
import sys


def start_process(variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "clave_inference", "serve"], env={**os.environ, **variables}, stdin=subprocess.DEVNULL
    )
