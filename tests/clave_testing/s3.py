"""A real S3-compatible server (SeaweedFS, from its wheel) for tests of the object store: one for a whole session."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

from clave_testing.patience import wait_until
from clave_testing.servers import session_root, started_once

ACCESS_KEY, SECRET_KEY = "clave-access-key", "clave-secret-key"
BUCKET = "clave"


def s3_environment() -> dict[str, str]:
    """The AWS variables by which the session's server is reached; its bucket is `BUCKET`."""
    found = started_once("s3", _start)
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{found['port']}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; all are held until the last is known, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _start() -> dict[str, Any]:
    folder = session_root() / "s3"
    folder.mkdir()
    identity = {
        "name": "clave",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    free = _free_ports(2 * len(names))
    ports = dict(zip(names, free, strict=False))
    grpc = dict(zip(names, free[len(names) :], strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-filer",
        "-s3",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    command += [f"-s3.config={folder / 's3.json'}", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    log = (session_root() / "s3.log").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, start_new_session=True, cwd=folder, env={"HOME": str(folder), **os.environ}
    )
    wait_until(lambda: _bucket_made(ports["s3"]), what="the S3 server making a bucket")
    return {"pid": process.pid, "port": ports["s3"], "signal": int(signal.SIGKILL)}


def _bucket_made(port: int) -> bool:
    """Make the bucket by a signed request; the server takes its time until it can."""
    import obstore
    from obstore.store import S3Store

    try:
        store = S3Store(
            BUCKET,
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        url = obstore.sign(store, "PUT", "", timedelta(minutes=1))
        request = urllib.request.Request(url, method="PUT")
        with urllib.request.urlopen(request, timeout=2):
            pass
        obstore.put(store, "ready", b"")
    except (OSError, urllib.error.URLError, obstore.exceptions.BaseError):
        return False
    return True
