"""The monitor as a process of its own: killed without warning, it counts every prediction once."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import orjson
import psycopg
import pytest
from clave_common.migrations import migrate
from clave_contracts.events import PREDICTION_STREAM
from clave_monitor.storage.tables import metadata
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.servers import superuser_url
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from redis import Redis

pytestmark = pytest.mark.integration


@pytest.fixture
def environment(service_database, redis_url, secrets_dir, tmp_path):
    url = service_database("monitor")
    migrate(url=url, package="clave_monitor", metadata=metadata)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return os.environ | {
        "CLAVE_MONITOR_HTTP_PORT": str(port),
        "CLAVE_MONITOR_DATABASE_URL": url,
        "CLAVE_MONITOR_REDIS_URL": redis_url,
        "CLAVE_MONITOR_DATA_DIR": str(tmp_path / "data"),
        "CLAVE_MONITOR_SECRETS_DIR": str(secrets_dir),
        "CLAVE_MONITOR_BLOB_URL": f"file://{tmp_path}/blobs",
        "CLAVE_GATEWAY_URL": "http://127.0.0.1:9",
        "CLAVE_REGISTRY_URL": "http://127.0.0.1:9",
    }


@pytest.fixture
def started(environment, tmp_path):
    """A function that starts the monitor and returns its process once it is alive."""
    processes = []

    def start():
        log = (tmp_path / "monitor.log").open("ab")
        process = subprocess.Popen([sys.executable, "-m", "clave_monitor", "serve"], env=environment, stderr=log)
        processes.append(process)
        address = f"http://127.0.0.1:{environment['CLAVE_MONITOR_HTTP_PORT']}/v2/health/live"

        def alive():
            assert process.poll() is None, (tmp_path / "monitor.log").read_text()[-3000:]
            try:
                return httpx.get(address).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(alive, what="the monitor to live")
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE_S)


def send(redis_url, records):
    with Redis.from_url(redis_url) as redis:
        for i in range(0, len(records), 10):
            body = orjson.dumps([r.model_dump(mode="json") for r in records[i : i + 10]])
            redis.xadd(PREDICTION_STREAM, {"id": records[i].id, "body": body})


def stored(environment):
    with psycopg.connect(environment["CLAVE_MONITOR_DATABASE_URL"]) as connection:
        return connection.execute("select count(*) from monitor.predictions").fetchone()[0]


def test_postgres_that_goes_away_costs_no_prediction(started, environment, redis_url, traffic):
    records, _ = traffic.records(1500, at=datetime.now(UTC))
    started()
    send(redis_url, records[:300])
    wait_until(lambda: stored(environment) > 0, what="the first predictions")
    send(redis_url, records[300:900])
    superuser = superuser_url(environment["CLAVE_MONITOR_DATABASE_URL"])
    name = conninfo_to_dict(superuser)["dbname"]
    with psycopg.connect(make_conninfo(superuser, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f'alter database "{name}" allow_connections false')
        try:
            cut = connection.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = %s", [name]
            ).fetchone()
            assert cut is not None
            assert cut[0] > 0
            send(redis_url, records[900:])
        finally:
            connection.execute(f'alter database "{name}" allow_connections true')
    wait_until(lambda: stored(environment) == 1500, what="every prediction, once")


def test_a_killed_monitor_loses_and_doubles_nothing(started, environment, redis_url, traffic):
    records, _ = traffic.records(3000, at=datetime.now(UTC))
    process = started()
    send(redis_url, records[:300])
    wait_until(lambda: stored(environment) > 0, what="the first predictions")
    send(redis_url, records[300:])
    process.send_signal(signal.SIGKILL)
    process.wait()
    started()
    wait_until(lambda: stored(environment) == 3000, what="every prediction, once")
    health = httpx.get(f"http://127.0.0.1:{environment['CLAVE_MONITOR_HTTP_PORT']}/v2/health/ready")
    assert health.status_code == 503
    assert set(health.json()["missing"]) == {"access"}
    answer = httpx.get(f"http://127.0.0.1:{environment['CLAVE_MONITOR_HTTP_PORT']}/api/monitor/v1/alerts")
    assert answer.status_code == 401
