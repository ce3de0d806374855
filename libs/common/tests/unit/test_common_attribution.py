"""Audit entries name the decision and the broken glass behind them."""

from contextvars import Context

from clave_common.attribution import attributed, begin, note_allowed
from clave_contracts.events import AuditEntry

GLASS = {"ticket": "INC-12345", "reason": "the model answers NaN"}


def entry(**fields: object) -> AuditEntry:
    made = {"service": "registry", "actor": "user:ivan", "action": "a:b.c", "resource": "x", "details": {"n": 1}}
    return AuditEntry.model_validate({**made, **fields})


def test_the_decision_on_its_action_stands_behind_a_change_else_the_latest() -> None:
    begin(None)
    note_allowed("a:b.c", "dec_1")
    note_allowed("a:b.c", "dec_2")
    note_allowed("a:b.read", "dec_3")
    found = attributed(entry())
    assert (found.decision_id, found.details) == ("dec_2", {"n": 1})
    assert attributed(entry(action="a:b.other")).decision_id == "dec_3"
    assert attributed(entry(decision_id="dec_0")).decision_id == "dec_0"


def test_broken_glass_is_written_down_with_what_it_opened() -> None:
    begin(GLASS)
    assert attributed(entry()).details == {"n": 1}  # nothing was allowed yet
    note_allowed("a:b.c", "dec_3")
    assert attributed(entry()).details == {"n": 1, "break_glass_claimed": GLASS}


def test_the_next_request_begins_anew() -> None:
    begin(GLASS)
    note_allowed("a:b.c", "dec_4")
    begin(None)
    made = entry()
    assert attributed(made) is made


def test_work_that_no_request_asked_for_has_no_decision() -> None:
    def work() -> AuditEntry:
        note_allowed("a:b.c", "dec_5")
        return attributed(entry())

    assert Context().run(work).decision_id is None
