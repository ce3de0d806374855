"""Identifiers have the ULID layout."""

import pytest
from clave_common import ids


def test_an_id_writes_milliseconds_and_random_bits_in_base_32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.time, "time", lambda: 1_795_333_971.681)
    monkeypatch.setattr(ids.os, "urandom", lambda count: b"\x01\xfe" * (count // 2))
    made = ids.new_id("dec")
    assert made == "dec_01m813wqq107z03zg1zr0zw0fy"
    number = 0
    for character in made.removeprefix("dec_"):
        number = number * 32 + "0123456789abcdefghjkmnpqrstvwxyz".index(character)
    assert number >> 80 == 1_795_333_971_681
    assert number & (2**80 - 1) == int.from_bytes(b"\x01\xfe" * 5, "big")
