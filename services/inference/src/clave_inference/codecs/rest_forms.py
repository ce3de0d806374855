"""Ordinary JSON requests, known by the bytes that stand around their numbers.

A client that asks one model again and again writes the same text each time around another list of numbers. What the
general decoder made of that text once is remembered (`RowForm`): a body that begins and ends with the same bytes, and
has one JSON list of as many numbers between them, is the same document with other numbers.
"""

from typing import Final

import msgspec

from clave_inference.codecs import rest_json
from clave_inference.runtime.loaded_version import RowShape

_FORM_BYTES_MAX: Final = 1_024
_PROBE: Final = b"[0.5,null]"


class _LocatedTensor(msgspec.Struct):
    data: msgspec.Raw


class _Located(msgspec.Struct):
    inputs: list[_LocatedTensor]


_locate = msgspec.json.Decoder(_Located).decode
_decode_list = msgspec.json.Decoder(list[float | None]).decode


class RowForm:
    """What stands around the numbers of a plain row, and the model's row that it fits."""

    __slots__ = ("_before", "_behind", "_pack", "_skip", "_width")

    def __init__(self, before: bytes, behind: bytes, row: RowShape) -> None:
        self._before = before
        self._behind = behind
        self._skip = len(before)
        self._width = row.width
        self._pack = row.packed

    def row(self, data: bytes, start: int) -> bytes | None:
        """Give the row of a body as the model takes it; None where the body is not of this form.

        Args:
            data: A request; its body goes to the end.
            start: Where the body begins.
        """
        if not data.startswith(self._before, start) or not data.endswith(self._behind):
            return None
        try:
            values = _decode_list(data[start + self._skip : len(data) - len(self._behind)])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return self._pack(values) if len(values) == self._width else None


def learn(body: bytes, row: RowShape) -> RowForm | None:
    """Find the form of a body that is an ordinary request for a model's row; None where there is none."""
    plain = rest_json.decode_plain(body)
    if plain is None or plain.id is not None or not rest_json.is_plain_row(plain, row):
        return None
    numbers = bytes(_locate(body).inputs[0].data)
    at = body.find(numbers)
    before, behind = body[:at], body[at + len(numbers) :]
    probe = rest_json.decode_plain(before + _PROBE + behind)
    plain.inputs[0].data = [0.5, None]
    if probe != plain or len(before) + len(behind) > _FORM_BYTES_MAX:
        return None  # the same digits stand somewhere before the list
    return RowForm(before, behind, row)
