"""Reads MLflow requests: fields by name and type, in MLflow's words when they are wrong."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from clave_common.errors import InvalidArgument
from starlette.requests import Request

INFINITY = 1.7976931348623157e308
KEY_CHARACTERS_MAX = 250
PARAM_CHARACTERS_MAX = 6_000
RUN_TAG_CHARACTERS_MAX = 8_000
EXPERIMENT_TAG_CHARACTERS_MAX = 20_000
REGISTRY_TAG_CHARACTERS_MAX = 100_000
_KEY = re.compile(r"[/\w.\- :]+")
_NON_FINITE = {"nan": math.nan, "infinity": INFINITY, "-infinity": -INFINITY, "inf": INFINITY, "-inf": -INFINITY}


class MissingParameter(InvalidArgument):
    """A required field is not there."""

    code = "missing_parameter"


@lru_cache(maxsize=256)
def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


class Fields:
    """The fields of one request, whether they came as JSON or in the query."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def raw(self, name: str) -> Any:
        """Give a field as it came, by its snake_case or camelCase name; null is absent."""
        value = self._values.get(name)
        return self._values.get(_camel(name)) if value is None else value

    def text(self, name: str, default: str | None = None) -> str:
        """Give a text.

        Raises:
            MissingParameter: It is absent and has no default.
            InvalidArgument: It is no text.
        """
        value = self.raw(name)
        if value is None or (value == "" and default is None):
            if default is None:
                raise MissingParameter(f"Missing value for required parameter '{name}'.", field=name)
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or "\x00" in value:
            raise invalid(name, value)
        return value

    def optional(self, name: str) -> str | None:
        """Give a text or None."""
        return self.text(name, "") or None if self.raw(name) is not None else None

    def integer(self, name: str, default: int | None = None) -> int:
        """Give an integer; 17.0 and "17" are integers too."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise MissingParameter(f"Missing value for required parameter '{name}'.", field=name)
            return default
        return as_integer(name, value)

    def flag(self, name: str) -> bool:
        """Give a boolean; absent is False."""
        value = self.raw(name)
        if isinstance(value, str):
            return value.lower() == "true"
        if value is not None and not isinstance(value, bool):
            raise invalid(name, value)
        return bool(value)

    def texts(self, name: str) -> list[str]:
        """Give a list of texts; absent is empty."""
        value = self.raw(name)
        items = [value] if isinstance(value, str) else value or []
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise invalid(name, value)
        return items

    def items(self, name: str) -> list["Fields"]:
        """Give a list of messages; absent is empty."""
        value = self.raw(name) or []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise invalid(name, value)
        return [Fields(item) for item in value]


def invalid(name: str, value: object) -> InvalidArgument:
    """Build the refusal of a value, in MLflow's words."""
    return InvalidArgument(f"Invalid value {str(value)[:200]} for parameter '{name}' supplied.", field=name)


def as_integer(name: str, value: object) -> int:
    """Read an integer as protobuf's JSON does."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or float(value) != int(float(value)):
            raise invalid(name, value)
        number = int(value) if isinstance(value, int) else _whole(value)
    except (ValueError, OverflowError) as error:
        raise invalid(name, value) from error
    if not -(2**63) <= number < 2**63:
        raise invalid(name, value)
    return number


def _whole(value: float | str) -> int:
    """Read 17.0, "17" and "17.0"; a long decimal text exactly."""
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    return int(float(value))


def as_number(name: str, value: object) -> float:
    """Read a double: a number, or "NaN", "Infinity", "-Infinity"; infinities become the largest doubles."""
    if isinstance(value, str):
        found = _NON_FINITE.get(value.lower())
        if found is not None:
            return found
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise invalid(name, value)
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise invalid(name, value) from error
    return math.copysign(INFINITY, number) if math.isinf(number) else number


@lru_cache(maxsize=4_096)
def checked_key(key: str, *, what: str) -> str:
    """Return the key of a metric, a param or a tag if it is allowed.

    Raises:
        InvalidArgument: Too long, odd characters, or not its own normalised path.
    """
    segments = key.split("/")
    plain = all(segment not in {"", ".", ".."} for segment in segments)
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX or not _KEY.fullmatch(key) or not plain:
        raise InvalidArgument(
            f"Invalid {what} name: '{key[:100]}'. Names may have at most {KEY_CHARACTERS_MAX} letters, digits, "
            "underscores, dashes, periods, spaces, colons and slashes.",
            field=what,
        )
    return key


def key_values(entries: Sequence[Fields], *, what: str, length_max: int, cut: bool = False) -> dict[str, str]:
    """Read a list of key and value pairs.

    Raises:
        InvalidArgument: A key is not allowed, or a value too long and may not be cut.
    """
    pairs: dict[str, str] = {}
    for entry in entries:
        key = checked_key(entry.text("key"), what=what)
        value = entry.text("value", "")
        if len(value) > length_max and not cut:
            raise InvalidArgument(f"A {what} value has at most {length_max} characters.", field=key, limit=length_max)
        pairs[key] = value[:length_max]
    return pairs


def checked_model_name(name: str) -> str:
    """Return a registered model's name as MLflow allows it.

    Raises:
        InvalidArgument: Blank, too long, with ``/`` or ``:`` or control characters, or ``.`` or ``..``.
    """
    if not name.strip() or len(name) > 256 or any(c in "/:" or ord(c) < 32 for c in name) or name in {".", ".."}:  # noqa: PLR2004 - MLflow's column, ASCII's controls
        raise InvalidArgument(
            f"Invalid model name: '{name[:100]}'. It must not be empty or hold '/', ':' or control characters.",
            field="name",
        )
    return name


async def fields_of(request: Request) -> Fields:
    """Read a request's fields: the query of a GET, the JSON body of anything else, path parameters over both."""
    values: dict[str, Any] = {}
    if request.method == "GET":
        for key in request.query_params:
            found = request.query_params.getlist(key)
            values[key.removesuffix("[]")] = found if len(found) > 1 else found[0]
    else:
        body = await request.body()
        if body.strip():
            try:
                parsed = orjson.loads(body)
            except orjson.JSONDecodeError as error:
                raise InvalidArgument("The body is not JSON.", field="body") from error
            if not isinstance(parsed, dict):
                raise InvalidArgument("The body is not a JSON object.", field="body")
            values = parsed
    return Fields({**values, **request.path_params})
