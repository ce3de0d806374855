import json
import socket

import pytest
from clave.failures import EnvironmentFailure
from clave.stack.ports import (
    PUBLIC_PORT,
    SERVICE_PORTS,
    PortPlan,
    Reservations,
    is_free,
    plan_ports,
    read_ports,
    record_ports,
)

NAMES = ("gateway", "registry", "inference", "inference.grpc")
OTHERS_PORTS = {3000, 5000, 8000, 8080, 9000}


@pytest.fixture
def taken():
    """A port that this very process holds."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_taken_port_is_not_free(taken):
    assert not is_free(taken)


def test_an_explicit_port_that_is_taken_is_refused_and_names_its_holder(taken, tmp_path):
    with pytest.raises(EnvironmentFailure, match=rf"Port {taken} is taken by .*pid") as refused:
        plan_ports(explicit=taken, names=NAMES, record=tmp_path / "ports.json")
    assert refused.value.exit_code == 3
    assert "--port" in refused.value.remedy


def test_a_recorded_port_that_is_taken_gives_a_free_one_and_says_so(taken, tmp_path):
    record = tmp_path / "ports.json"
    record.write_text(json.dumps({"public": taken}))
    plan = plan_ports(explicit=None, names=NAMES, record=record)
    assert plan.moved_from == taken
    assert plan.public != taken
    assert plan.holder


def test_every_name_has_a_port_of_its_own_in_the_quiet_range(tmp_path):
    plan = plan_ports(explicit=None, names=NAMES, record=tmp_path / "ports.json", seed=99)
    chosen = [plan.public, *plan.services.values()]
    assert len(set(chosen)) == len(chosen)
    assert all(port in SERVICE_PORTS for port in plan.services.values())
    assert not OTHERS_PORTS & set(chosen)


def test_stacks_that_start_at_the_same_moment_choose_different_ports(tmp_path):
    with socket.socket() as free:  # not the documented port, where another stack of this machine may listen
        free.bind(("127.0.0.1", 0))
        record_ports(PortPlan(public=free.getsockname()[1], services={}), tmp_path / "ports.json")
    with Reservations() as first, Reservations() as second:
        plans = [
            plan_ports(explicit=None, names=NAMES, record=tmp_path / "ports.json", seed=7, take=one.take)
            for one in (first, second)
        ]
        one, other = ({plan.public, *plan.services.values()} for plan in plans)
        assert not one & other
        assert plans[1].holder == "another stack that is starting"
    with Reservations() as third:
        again = plan_ports(explicit=None, names=NAMES, record=tmp_path / "ports.json", seed=7, take=third.take)
    assert again == plans[0]


def test_the_default_is_the_documented_port():
    assert PUBLIC_PORT == 47310


def test_ports_stay_the_same_across_starts(tmp_path):
    record = tmp_path / "ports.json"
    first = plan_ports(explicit=None, names=NAMES, record=record, seed=7)
    record_ports(first, record)
    again = plan_ports(explicit=None, names=NAMES, record=record, seed=1234)
    recorded = read_ports(record)
    assert recorded is not None
    assert (again.public, again.services) == (first.public, first.services) == (recorded.public, recorded.services)


def test_a_damaged_record_is_as_good_as_none(tmp_path):
    record = tmp_path / "ports.json"
    record.write_text("{half")
    assert read_ports(record) is None
