"""Splits, schedules, parameters, states, training data: the rules without any I/O."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from clave_trainer.domain.cron import BadCron, next_time, parse_cron
from clave_trainer.domain.parameters import BadParameter, check_parameters, check_shares, effective
from clave_trainer.domain.pipeline_steps import TRAINING_PIPELINE, RunStatus, StepState, backoff_s, status_of
from clave_trainer.domain.robustness import edge_rows, with_gaps, with_noise
from clave_trainer.domain.schedule import BadSchedule, timetable
from clave_trainer.domain.split import SplitRule, deal, latest_of_each
from clave_trainer.domain.training_data import inspect
from clave_trainer.doorbell import broker_url
from clave_trainer.spec_text import SpecUnreadable, read_spec
from hypothesis import given
from hypothesis import strategies as st

ZURICH = ZoneInfo("Europe/Zurich")


@given(st.lists(st.text(max_size=6), min_size=1, max_size=60))
def test_an_entity_is_in_one_split_only_in_whatever_set_it_comes(keys):
    rule = SplitRule("churn", validation=0.2, test=0.3)
    once, twice = deal(keys, rule), deal(keys + keys[::-1], rule)
    n = len(keys)
    for name in ("train", "validation", "test"):
        here, there = getattr(once, name), getattr(twice, name)
        assert (here == there[:n]).all()
        assert (here == there[n:][::-1]).all()
    assert (once.train.astype(int) + once.validation + once.test == 1).all()


def test_shares_of_a_split_are_kept():
    dealt = deal([f"C{i}" for i in range(20_000)], SplitRule("churn", validation=0.15, test=0.25))
    assert dealt.test.mean() == pytest.approx(0.25, abs=0.01)
    assert dealt.validation.mean() == pytest.approx(0.15, abs=0.01)
    with pytest.raises(ValueError, match="shares"):
        SplitRule("churn", validation=0.5, test=0.5)


def test_one_row_of_each_entity_is_kept_and_it_is_the_latest():
    kept = latest_of_each(["a", "b", "a", "c", "b"], np.array([3, 1, 2, 5, 1]))
    assert kept.tolist() == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        ("30 2 * * *", "2026-11-22T01:00:00+00:00", "2026-11-22T01:30:00+00:00"),
        ("*/15 * * * *", "2026-11-22T01:07:30+00:00", "2026-11-22T01:15:00+00:00"),
        ("0 9 * * mon-fri", "2026-11-21T12:00:00+00:00", "2026-11-23T08:00:00+00:00"),
        ("0 0 1 jan *", "2026-11-21T12:00:00+00:00", "2026-12-31T23:00:00+00:00"),
        ("0 12 13 * fri", "2026-11-21T12:00:00+00:00", "2026-11-27T11:00:00+00:00"),
        ("0 0 29 2 *", "2026-11-21T12:00:00+00:00", "2028-02-28T23:00:00+00:00"),
        ("0 6 * * 7", "2026-11-23T12:00:00+00:00", "2026-11-29T05:00:00+00:00"),
        # 02:30 does not exist on the day that summer time begins; the day after it does.
        ("30 2 * * *", "2026-03-29T00:00:00+00:00", "2026-03-30T00:30:00+00:00"),
    ],
)
def test_cron_fires_by_the_wall_clock_of_its_zone(expression, after, due):
    found = next_time(parse_cron(expression), datetime.fromisoformat(after), ZURICH)
    assert found == datetime.fromisoformat(due)


def test_cron_fires_once_when_an_hour_comes_twice():
    first = next_time(parse_cron("30 2 25 10 *"), datetime(2026, 10, 24, 12, tzinfo=UTC), ZURICH)
    second = next_time(parse_cron("30 2 25 10 *"), first, ZURICH)
    assert first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert second.year == 2027


@pytest.mark.parametrize("text", ["* * * *", "61 * * * *", "a * * * *", "5-1 * * * *", "*/0 * * * *", "0 0 30 2 *"])
def test_bad_cron_is_refused(text):
    with pytest.raises((BadCron, BadSchedule)):
        timetable(cron=text, interval_s=None, zone="UTC", misfire="coalesce")


def test_missed_times_are_coalesced_or_skipped():
    every = timetable(cron=None, interval_s=60, zone="UTC", misfire="coalesce")
    due, now = datetime(2026, 1, 1, 0, 0, tzinfo=UTC), datetime(2026, 1, 1, 0, 10, 30, tzinfo=UTC)
    assert every.following(due, now) == datetime(2026, 1, 1, 0, 11, tzinfo=UTC)
    assert every.refusal(due, now) == ""
    skipping = timetable(cron=None, interval_s=60, zone="UTC", misfire="skip")
    assert "missed by 630 s" in skipping.refusal(due, now)


def test_business_hours_are_those_of_the_zone():
    rule = timetable(
        cron="0 * * * *",
        interval_s=None,
        zone="Europe/Zurich",
        misfire="coalesce",
        business_days=[0, 1, 2, 3, 4],
        business_from="08:00",
        business_to="18:00",
    )
    monday = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)  # 08:00 in Zurich
    assert rule.refusal(monday, monday) == ""
    early = datetime(2026, 11, 23, 6, 59, tzinfo=UTC)
    assert rule.refusal(early, early) == "outside business hours"


def test_schedules_that_cannot_be_read_name_their_field():
    for arguments, field in (
        ({"cron": None, "interval_s": None, "zone": "UTC"}, "cron"),
        ({"cron": None, "interval_s": 0.5, "zone": "UTC"}, "interval_s"),
        ({"cron": None, "interval_s": 1e300, "zone": "UTC"}, "interval_s"),
        ({"cron": None, "interval_s": float("nan"), "zone": "UTC"}, "interval_s"),
        ({"cron": None, "interval_s": 60, "zone": "Mars/Base"}, "zone"),
    ):
        with pytest.raises(BadSchedule) as caught:
            timetable(misfire="coalesce", **arguments)
        assert caught.value.facts["field"] == field


def test_parameters_are_known_and_within_their_range():
    check_parameters({"rounds": 2, "eta": 0.1, "monotone_constraints": {"tenure": -1}})
    for params, told in (
        ({"device": "cuda"}, "unknown"),
        ({"objective": "reg:mine"}, "may be binary:logistic"),
        ({"rounds": 0}, "from 1 to 20000"),
        ({"rounds": 2.5}, "whole number"),
        ({"eta": True}, "a number"),
        ({"monotone_constraints": {"tenure": 2}}, "-1, 0 or 1"),
    ):
        with pytest.raises(BadParameter, match=told):
            check_parameters(params)
    with pytest.raises(BadParameter, match="sum 1"):
        check_shares({"train": 0.6, "validation": 0.6, "test": 0.2})
    assert effective({"rounds": 10}, {"rounds": 2}, seed=3)["rounds"] == 2


def test_a_run_has_the_status_of_its_steps():
    of = StepState
    assert status_of([of.READY, of.PENDING]) is RunStatus.QUEUED
    assert status_of([of.SUCCEEDED, of.READY]) is RunStatus.RUNNING
    assert status_of([of.SUCCEEDED, of.WAITING, of.PENDING]) is RunStatus.WAITING
    assert status_of([of.SUCCEEDED, of.SUCCEEDED]) is RunStatus.SUCCEEDED
    assert status_of([of.SUCCEEDED, of.REFUSED, of.SKIPPED]) is RunStatus.REFUSED
    assert status_of([of.FAILED, of.RUNNING]) is RunStatus.FAILED
    assert [backoff_s(n) for n in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 60.0]


def test_every_step_depends_on_earlier_steps_only():
    seen: set[str] = set()
    for planned in TRAINING_PIPELINE:
        assert set(planned.deps) <= seen
        seen.add(planned.name)


def test_the_broker_is_found_on_a_socket_too():
    assert broker_url("unix:///run/v.sock?db=3") == "redis+socket:///run/v.sock?virtual_host=3"
    assert broker_url("unix://:s%40t@/run/v.sock") == "redis+socket://:s%40t@/run/v.sock?virtual_host=0"
    assert broker_url("unix://trainer:pw@/run/v.sock?db=0") == "redis+socket://trainer:pw@/run/v.sock?virtual_host=0"
    assert broker_url("redis://trainer:pw@host:6379/2") == "redis://trainer:pw@host:6379/2"


def test_disturbed_rows_stay_rows():
    rng = np.random.default_rng(1)
    rows = np.c_[rng.standard_normal(200), rng.integers(0, 2, 200)].astype(np.float32)
    noisy = with_noise(rows, share_of_spread=0.1, seed=1)
    assert (noisy[:, 1] == rows[:, 1]).all()
    assert 0.05 < (noisy[:, 0] - rows[:, 0]).std() < 0.2
    assert np.isnan(with_gaps(rows, share=0.3, seed=1)).mean() == pytest.approx(0.3, abs=0.06)
    edges = edge_rows(rows, {0: np.array([0.5], dtype=np.float32)}, count=500, seed=1)
    assert np.isnan(edges).any()
    assert (edges[:, 0] == np.float32(0.5)).any()
    assert (edges[:, 0] == np.nextafter(np.float32(0.5), np.float32(1))).any()


def looked_at(rows, label):
    dealt = deal([str(i) for i in range(len(label))], SplitRule("s", validation=0.2, test=0.2))
    return inspect(rows.astype(np.float32), label.astype(float), ["a", "b"], dealt)


def test_training_data_that_no_model_should_learn_from_is_named():
    rng = np.random.default_rng(2)
    rows, label = rng.standard_normal((1000, 2)), (rng.random(1000) < 0.4).astype(float)
    assert looked_at(rows, label).faults == []
    leaking = np.c_[label + rng.normal(0, 0.01, 1000), rows[:, 1]]
    assert "gives the outcome away" in looked_at(leaking, label).faults[0]
    empty = rows.copy()
    empty[:, 1] = np.nan
    assert "b is missing in 100% of rows" in looked_at(empty, label).faults
    assert any("infinite" in fault for fault in looked_at(np.where(rows > 2, np.inf, rows), label).faults)
    assert any("other than 0 and 1" in fault for fault in looked_at(rows, label * 2).faults)
    unknown = label.copy()
    unknown[3] = np.nan
    assert "1 rows have no outcome" in looked_at(rows, unknown).faults
    assert any("20 of each" in fault for fault in looked_at(rows, np.zeros(1000)).faults)
    assert looked_at(np.c_[rows[:, 0], np.ones(1000)], label).warnings == ["b has a single value"]


def test_a_definition_that_cannot_be_read_says_where():
    with pytest.raises(SpecUnreadable, match="line 2"):
        read_spec(b"name: churn\n  model: [", yaml=True)
    with pytest.raises(SpecUnreadable, match="model"):
        read_spec(b"name: churn", yaml=True)
    with pytest.raises(SpecUnreadable, match="rollbacks"):
        read_spec(
            b'{"name":"c","model":"c","endpoint":"c","feature_service":"c","label_view":"l","label":"y",'
            b'"entity_key":"k","rollbacks":1}',
            yaml=False,
        )
