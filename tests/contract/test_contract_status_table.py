import grpc
from clave_common.errors import ClaveError, Kind
from clave_common.status import GRPC_STATUS, HTTP_STATUS


def test_every_kind_has_one_status_on_each_transport():
    assert set(HTTP_STATUS) == set(Kind) == set(GRPC_STATUS)


def test_only_a_fault_of_ours_is_a_server_error():
    own_faults = {kind for kind, status in HTTP_STATUS.items() if status >= 500}
    assert own_faults == {Kind.INTERNAL, Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.UNIMPLEMENTED}


def test_every_grpc_name_exists():
    assert all(hasattr(grpc.StatusCode, name) for name in GRPC_STATUS.values())


def test_every_error_class_carries_a_kind_of_its_own_and_a_code():
    kinds = [cls.kind for cls in ClaveError.__subclasses__() if cls.__module__ == "clave_common.errors"]
    assert len(set(kinds)) == len(kinds)
