"""Who may do what in Valkey (or Redis 7.2 and newer): one user for each service, and an operator who only looks.

This table is the one place that says which service reads and writes which keys, by which commands; both the local
stack and Compose make their servers' configuration of it. Nobody is the default user, nobody may publish, flush, list
keys, or change the server. What is not named here is refused (NOPERM) and noted in the server's ``ACL LOG``.

A grant becomes a selector: its commands count for its keys only. So the gateway reads the audit streams of all
services as a consumer group and can add nothing to them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from clave_contracts.events import PREDICTION_STREAM, SERVICES, audit_stream, decision_stream, event_stream

from clave.stack.secrets import OPERATOR

USERS = (*SERVICES, OPERATOR)
_CELERY = "clave.celery.*"

# What a connection needs whatever it does: to live, to name itself, to load a script, and in scripts the time.
_EVERYBODY = ("ping", "client|setname", "client|setinfo", "script|load", "time")
_GROUP = ("xgroup|create", "xreadgroup", "xautoclaim", "xack")
_LIMITS = ("evalsha", "get", "set")
# kombu's Redis transport with a queue that never expires, no result store, no remote control and no events.
_QUEUES = ("lpush", "rpush", "rpop", "brpop", "llen", "del", "sadd", "srem", "smembers", "exists")
_UNACKNOWLEDGED = (
    "hset",
    "hget",
    "hdel",
    "hlen",
    "zadd",
    "zrem",
    "zrange",
    "set",
    "get",
    "evalsha",
    "pexpire",
    "watch",
)
_TRANSACTION = ("multi", "exec", "discard", "unwatch")
_LOOKING = ("@read", "-@dangerous", "info", "acl|whoami", "acl|log", "client|list", "slowlog|get", "memory|usage")
_KEEPING = ("lastsave", "bgsave", "bgrewriteaof", "dbsize")


@dataclass(frozen=True)
class Grant:
    """Commands on keys.

    Attributes:
        why: What the service does with it.
        commands: By name; ``name|sub`` is one subcommand, ``@name`` a category, ``-`` takes one away.
        reads: Patterns of keys that it may read.
        writes: Patterns of keys that it may write.
    """

    why: str
    commands: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


def grants_of(user: str) -> tuple[Grant, ...]:
    """List what a user may do with keys.

    Args:
        user: One of `USERS`.
    """
    return (Grant("looks, and saves", (), reads=("*",)),) if user == OPERATOR else (*_shared(user), *_OWN[user])


def _shared(service: str) -> tuple[Grant, ...]:
    return (
        Grant("rate limits, which all processes share", _LIMITS, reads=("clave:rl:*",), writes=("clave:rl:*",)),
        Grant("the log of decisions", ("xadd",), writes=(decision_stream(service),)),
        Grant("hears of changed keys and policy", ("xread", "xrevrange"), reads=(event_stream("gateway"),)),
    )


def _outbox(service: str) -> Grant:
    return Grant("the outbox's relay", ("xadd",), writes=(event_stream(service), audit_stream(service)))


def _consumer(why: str, *streams: str) -> Grant:
    return Grant(why, _GROUP, reads=streams, writes=streams)


_OWN: dict[str, tuple[Grant, ...]] = {
    "gateway": (
        _outbox("gateway"),
        _consumer("the audit log's sequencer", *map(audit_stream, SERVICES)),
        _consumer("keeps decisions", *map(decision_stream, SERVICES)),
        Grant(
            "removes the streams that all services once shared", ("unlink",), writes=("clave.audit", "clave.decisions")
        ),
    ),
    "registry": (
        _outbox("registry"),
        _consumer("webhooks", event_stream("registry")),
    ),
    "features": (
        _outbox("features"),
        Grant(
            "the online store", ("mget", "evalsha", "getrange", "set"), reads=("features:*",), writes=("features:*",)
        ),
    ),
    "inference": (
        Grant(
            "the log of predictions, and its trimming",
            ("xadd", "xlen", "xtrim", "xpending", "xinfo|groups"),
            reads=(PREDICTION_STREAM,),
            writes=(PREDICTION_STREAM,),
        ),
        Grant("hears of deployments", ("xread",), reads=(event_stream("registry"),)),
    ),
    "monitor": (
        _outbox("monitor"),
        _consumer("reads predictions, and hears of ended runs", PREDICTION_STREAM, event_stream("trainer")),
    ),
    "trainer": (
        _outbox("trainer"),
        _consumer("hears that retraining is asked for", event_stream("monitor")),
        Grant("Celery's doorbell", (*_QUEUES, *_UNACKNOWLEDGED), reads=(_CELERY,), writes=(_CELERY,)),
    ),
}
_WITHOUT_KEYS: dict[str, tuple[str, ...]] = {OPERATOR: (*_LOOKING, *_KEEPING), "trainer": _TRANSACTION}


def user_lines(passwords: Mapping[str, str]) -> list[str]:
    """Write the configuration's lines: every user, and nobody else.

    Args:
        passwords: By user; only their SHA-256 is written.
    """
    return ["user default off resetpass resetkeys -@all", *(_line(user, passwords[user]) for user in USERS)]


def _line(user: str, password: str) -> str:
    digest = hashlib.sha256(password.encode()).hexdigest()
    root = _commands((*_EVERYBODY, *_WITHOUT_KEYS.get(user, ())))
    if user == OPERATOR:
        return f"user {user} on #{digest} resetchannels {root} %R~*"
    selectors = " ".join(f"({_commands(grant.commands)} {_keys(grant)})" for grant in grants_of(user))
    return f"user {user} on #{digest} resetchannels {root} {selectors}"


def _commands(names: tuple[str, ...]) -> str:
    return " ".join(name if name.startswith("-") else f"+{name}" for name in names)


def _keys(grant: Grant) -> str:
    both = [key for key in grant.reads if key in grant.writes]
    return " ".join(
        (
            *(f"~{key}" for key in both),
            *(f"%R~{key}" for key in grant.reads if key not in both),
            *(f"%W~{key}" for key in grant.writes if key not in both),
        )
    )
