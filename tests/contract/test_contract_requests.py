"""What every request of a contract does with what it does not know."""

import pytest
from clave_contracts.registry import ModelCreate
from pydantic import ValidationError


def faults(body: dict) -> list:
    with pytest.raises(ValidationError) as caught:
        ModelCreate.model_validate(body)
    return caught.value.errors(include_input=False, include_url=False, include_context=False)


def test_each_of_a_few_faults_is_told():
    assert [fault["loc"] for fault in faults({"name": "a b", "surprise": 1})] == [("name",), ("surprise",)]


def test_many_faults_are_counted():
    told = faults({f"k{number}": 1 for number in range(5_000)})
    assert [(fault["loc"], fault["msg"]) for fault in told] == [((), "Value error, 5001 faults, too many to tell")]
