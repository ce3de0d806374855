"""What a policy's text may say: nothing that reaches beyond it, however it is written."""

import pytest
from clave_gateway.domain.policy_text import fault_of
from clave_gateway.policy_files import read_modules, shipped_policy_dir

HEAD = "package clave.extra\n\nimport rego.v1\n\n"
ASK = 'http.send({"method": "GET", "url": "http://127.0.0.1/"})'


def test_the_shipped_policy_is_one() -> None:
    assert fault_of(read_modules(shipped_policy_dir() / "clave")) is None


@pytest.mark.parametrize(
    "text",
    [
        'x := concat("#", ["a"])  # http.send({}) is only talked about\n',
        'x := "http.send({})"\n',
        'x if data.clave["http.send"] with input as {}\n',
        "trace := 1\n\nx := trace + count([1])\n",
        'x := y["a"][0]\n',
    ],
)
def test_what_only_looks_like_a_call_is_let_through(text: str) -> None:
    assert fault_of({"extra.rego": HEAD + text}) is None


@pytest.mark.parametrize(
    "text",
    [
        f"x := {ASK}\n",
        f'x if {{ mark := "#"; {ASK} }}\n',
        f"x if {{ mark := `#\n#`; {ASK} }}\n",
        f'x if {{ mark := "\\"#"; {ASK} }}\n',
        'x := http["send"]({"method": "GET", "url": "http://127.0.0.1/"})\n',
        'x := io["jwt"].decode("a.b.c")\n',
        "f(_) := 1\n\nx := y if y := f({}) with f as http.send\n",
        "f(_) := 1\n\nx := y if y := f({}) with data.clave.extra.f as opa.runtime\n",
        "x := $`{" + ASK + "}`\n",
        'x := json.match_schema({}, {"$ref": "http://127.0.0.1/"})\n',
        "x := `an endless string\n",
    ],
)
def test_a_call_is_found_wherever_it_hides(text: str) -> None:
    assert fault_of({"extra.rego": HEAD + text}) is not None


@pytest.mark.parametrize(
    "text",
    [
        "\rpackage system.authz\n\nallow := true\n\nx := `\npackage clave.extra\n`\n",
        "\ufeffpackage system.authz\n\nallow := true\n\nx := `\npackage clave.extra\n`\n",
        "# a remark\rpackage system.authz\n\nx := `\npackage clave.extra\n`\n",
        "package system.authz\n\nx := `\npackage clave.extra\n`\n",
    ],
)
def test_a_string_names_no_package(text: str) -> None:
    assert fault_of({"extra.rego": text}) is not None
