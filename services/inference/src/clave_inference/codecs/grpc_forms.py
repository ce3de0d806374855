"""Ordinary gRPC requests, known by the bytes that stand before their values.

A client that asks one model again and again sends the same bytes each time (names, datatype, shape), its own id for the
request aside, and behind them the raw contents of one row. What the protobuf library made of those bytes once is
remembered (`Form`); a message that begins with them needs no parser, because the meaning of a message depends on its
bytes alone: without the id it is the remembered one with other values in a row of the same length.

Forms are learned from messages that the general codec accepted and that are written as the library itself writes them,
so nothing repeated, unknown or out of order stands in one. Everything else goes through `grpc_message`.
"""

from typing import Final

from clave_contracts.inference_grpc import open_inference_pb2 as pb

from clave_inference.runtime.loaded_version import RowShape

_FORMS_MAX: Final = 1_024
_FORM_BYTES_MAX: Final = 1_024
_MODEL_NAME: Final = 0x0A  # field numbers and wire types of ModelInferRequest
_MODEL_VERSION: Final = 0x12
_ID: Final = 0x1A
_ONE_BYTE_LENGTH: Final = 0x80


class Form:
    """What the bytes before a row say.

    Attributes:
        model: Endpoint or model asked for.
        version: None lets the endpoint choose.
    """

    __slots__ = ("_datatype", "_fits", "_name", "_shape", "model", "version")

    def __init__(self, message: pb.ModelInferRequest) -> None:
        tensor = message.inputs[0]
        self.model: str = message.model_name
        self.version: str | None = message.model_version or None
        self._name: str = tensor.name
        self._datatype: str = tensor.datatype
        self._shape = list(tensor.shape)
        self._fits: RowShape | None = None

    def fits(self, row: RowShape, size: int) -> bool:
        """Whether a message of this form with a row of some bytes is an ordinary request to a model."""
        if row is self._fits:
            return True
        if (
            self._shape == row.shape
            and self._name == row.name
            and self._datatype == row.datatype
            and size == row.width * row.dtype.itemsize
        ):
            self._fits = row  # the bytes of a form fix the length of its row
            return True
        return False


class Forms:
    """The forms that one process knows."""

    def __init__(self) -> None:
        self._forms: dict[bytes, Form] = {}
        self._cuts: dict[int, tuple[int, ...]] = {}

    def read(self, body: bytes) -> tuple[Form, str | None, bytes] | None:
        """Give form, id and row of a message; None where its form is not known."""
        found = self._find(body)
        if found is not None:
            return found[0], None, found[1]
        start, end = _id_field(body)
        found = self._find(body[:start] + body[end:]) if end > start else None
        if found is None:
            return None
        try:
            return found[0], body[start + 2 : end].decode() or None, found[1]
        except UnicodeDecodeError:  # the general codec words it
            return None

    def _find(self, body: bytes) -> tuple[Form, bytes] | None:
        for cut in self._cuts.get(len(body), ()):
            form = self._forms.get(body[:cut])
            if form is not None:
                return form, body[cut:]
        return None

    def learn(self, body: bytes, message: pb.ModelInferRequest) -> None:
        """Remember the form of a message that was accepted: one row, raw, for one input, and no wishes.

        Args:
            body: The message's bytes.
            message: What they mean.
        """
        if len(message.inputs) != 1 or len(message.raw_input_contents) != 1 or message.parameters or message.outputs:
            return
        if message.inputs[0].parameters or message.inputs[0].HasField("contents"):
            return
        start, end = _id_field(body)
        plain = body[:start] + body[end:]
        row = message.raw_input_contents[0]
        cut = len(plain) - len(row)
        if cut > _FORM_BYTES_MAX or not plain.endswith(row):
            return
        unnamed = pb.ModelInferRequest.FromString(plain)
        if unnamed.id or unnamed.SerializeToString(deterministic=True) != plain:
            return
        if len(self._forms) >= _FORMS_MAX:
            self._forms.clear()
            self._cuts.clear()
        self._forms[plain[:cut]] = Form(message)
        self._cuts[len(plain)] = tuple({*self._cuts.get(len(plain), ()), cut})


def _id_field(body: bytes) -> tuple[int, int]:
    """Find where the caller's id stands, tag and length included; an empty place where there is none."""
    try:
        at = 0
        for tag in (_MODEL_NAME, _MODEL_VERSION):
            if body[at] == tag:
                if body[at + 1] >= _ONE_BYTE_LENGTH:
                    return 0, 0
                at += 2 + body[at + 1]
        if body[at] != _ID or body[at + 1] >= _ONE_BYTE_LENGTH:
            return 0, 0
        end = at + 2 + body[at + 1]
    except IndexError:
        return 0, 0
    return (at, end) if end <= len(body) else (0, 0)
