"""Page tokens: bound to their query, and of the shape that it needs, whoever made them."""

from datetime import datetime
from typing import Any

import pytest
from clave_common.errors import InvalidArgument
from clave_common.pages import decode_token, encode_token

AT = "2026-11-22T08:00:00+00:00"


@pytest.mark.parametrize(
    ("position", "kinds"),
    [([7], (int,)), ([AT, "run_1"], (datetime, str)), ([1, 2, 0.5, False], (int, int, float, bool)), ([3], (float,))],
)
def test_a_token_leads_back_to_its_place(position: list[Any], kinds: tuple[type, ...]) -> None:
    assert decode_token(encode_token(position, query="q"), query="q", kinds=kinds) == position
    assert decode_token(encode_token(position, query="q"), query="q", kinds=None) == position
    with pytest.raises(InvalidArgument):
        decode_token(encode_token(position, query="q"), query="another", kinds=kinds)


@pytest.mark.parametrize(
    ("position", "kinds"),
    [
        ([], (int,)),
        ([1, 2], (int,)),
        (["1"], (int,)),
        ([True], (int,)),
        ([2**63], (int,)),
        ([1.5], (int,)),
        ([None], (str,)),
        ([{}], (str,)),
        (["yesterday"], (datetime,)),
        (["2026-11-22T08:00:00"], (datetime,)),
        ([0], (datetime,)),
        (["1"], (float,)),
        ([0], (bool,)),
    ],
)
def test_a_token_of_another_shape_is_refused(position: list[Any], kinds: tuple[type, ...]) -> None:
    with pytest.raises(InvalidArgument):
        decode_token(encode_token(position, query="q"), query="q", kinds=kinds)
