"""Who may touch what in Valkey: each line of the table that matters for trust, said once more as a rule."""

import re
from fnmatch import fnmatchcase

import pytest
from clave.stack.layout import SERVICES
from clave.stack.secrets import OPERATOR
from clave.stack.valkey_users import USERS, grants_of, user_lines
from clave_contracts.events import PREDICTION_STREAM, audit_stream, decision_stream, event_stream

LINES = {line.split()[1]: line for line in user_lines({user: f"secret-{user}" for user in USERS})}
"""By user."""


def users_who(command: str, key: str, *, write: bool) -> set[str]:
    """Name the users whom some grant lets run a command that reads or writes a key."""
    return {
        user
        for user in USERS
        for grant in grants_of(user)
        if command in grant.commands
        and any(fnmatchcase(key, pattern) for pattern in (grant.writes if write else grant.reads))
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_streams_are_its_own(service: str) -> None:
    with_outbox = set() if service == "inference" else {service}
    assert users_who("xadd", audit_stream(service), write=True) == with_outbox
    assert users_who("xadd", event_stream(service), write=True) == with_outbox
    assert users_who("xadd", decision_stream(service), write=True) == {service}
    for stream in (audit_stream(service), decision_stream(service)):
        for command in ("xgroup|create", "xreadgroup", "xack", "xautoclaim"):
            assert users_who(command, stream, write=True) == {"gateway"}


def test_only_inference_writes_and_trims_predictions_and_only_the_monitor_consumes_them() -> None:
    assert users_who("xadd", PREDICTION_STREAM, write=True) == {"inference"}
    assert users_who("xtrim", PREDICTION_STREAM, write=True) == {"inference"}
    assert users_who("xreadgroup", PREDICTION_STREAM, write=True) == {"monitor"}


def test_only_the_trainer_touches_celerys_queues_and_only_features_its_rows() -> None:
    for command in ("lpush", "brpop", "del", "hset", "zadd"):
        assert users_who(command, "clave.celery.trainer.light", write=True) == {"trainer"}
    assert users_who("set", "features:customer:{1}", write=True) == {"features"}
    assert users_who("mget", "features:customer:{1}", write=False) == {"features"}


@pytest.mark.parametrize("command", ["xtrim", "xdel", "del", "unlink", "xsetid", "xgroup|destroy", "xgroup|setid"])
def test_nobody_shortens_or_skips_what_is_audited(command: str) -> None:
    for service in SERVICES:
        assert users_who(command, audit_stream(service), write=True) == set()


def test_no_service_changes_the_server_lists_keys_or_takes_a_category() -> None:
    for user in SERVICES:
        words = set(re.findall(r"\+(\S+)", LINES[user].replace(")", " ")))
        assert not [word for word in words if word.startswith("@")]
        assert not words & {
            "config",
            "keys",
            "flushall",
            "flushdb",
            "eval",
            "acl",
            "debug",
            "shutdown",
            "publish",
            "scan",
        }
        assert not words & {"xinfo", "client", "script", "xgroup"}, "whole containers of commands"
        assert not re.search(r"~\*|\&", LINES[user])


def test_the_operator_looks_and_saves_and_writes_nothing() -> None:
    assert " %R~*" in LINES[OPERATOR]
    assert "+@all" not in LINES[OPERATOR]
    assert not [grant for grant in grants_of(OPERATOR) if grant.writes]


def test_nobody_is_the_default_user_and_no_password_is_written_down() -> None:
    assert LINES["default"] == "user default off resetpass resetkeys -@all"
    assert set(LINES) == {"default", *USERS}
    assert "secret-" not in "\n".join(LINES.values())
    assert len({line.split()[3] for user, line in LINES.items() if user != "default"}) == len(USERS)
