"""What reaches the table of decisions can always be stored in it."""

import orjson
from clave_common.streams import Entry
from clave_gateway.services.decisions import decision_row

FIELDS = {
    "id": "dec_1",
    "time": 1.0,
    "service": "inference",
    "subject": "app:shop",
    "action": "inference:predict",
    "resource": "models/a\0b",
    "allow": False,
    "reasons": ["no_grant"],
    "policy_version": "1",
    "engine": "embedded",
    "input": {"resource": {"id": "models/a\0b", "properties": {"features": ["\0"], "\0": 1}}},
    "input_digest": "x",
}


def test_names_with_a_nul_do_not_stop_the_log_of_decisions() -> None:
    row = decision_row(Entry("clave.decisions.inference", b"1-0", "dec_1", orjson.dumps(FIELDS)))
    assert row is not None
    assert row.resource == "models/a\N{REPLACEMENT CHARACTER}b"
    assert "\\u0000" not in orjson.dumps(row.input).decode()


def test_no_service_writes_decisions_in_the_name_of_another() -> None:
    assert decision_row(Entry("clave.decisions.registry", b"1-0", "dec_1", orjson.dumps(FIELDS))) is None
