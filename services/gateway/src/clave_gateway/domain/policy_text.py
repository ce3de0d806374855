"""What a policy's modules may be: packages of our own, and only built-in functions that decide by the input alone.

A module of another package could speak for the server that loads it (``system.authz`` says who may administer OPA). A
function that asks the network, the environment or a random source makes a decision that cannot be made again, or
carries the input away. Functions on which engines differ are refused for the same reason as the fuzz would refuse them.
"""

import re
from collections.abc import Mapping

_OWN = re.compile(r"package clave(\.[a-z][a-z0-9_]*)*", re.ASCII)
_PACKAGE = re.compile(r"^[ \t]*package\b.*$", re.MULTILINE)
_COMMENT = re.compile(r"#.*$", re.MULTILINE)
_REFUSED = re.compile(
    r"(?<![\w.])(http\.send|net\.lookup_ip_addr|opa\.runtime|rand\.intn|uuid\.rfc4122|io\.jwt\.\w+|crypto\.\w+(\.\w+)*"
    r"|glob\.match|time\.now_ns|trace|print)\s*\("
)


def fault_of(modules: Mapping[str, str]) -> str | None:
    """Say why modules may be no policy of this installation; None where they may.

    Args:
        modules: Rego text by file name.
    """
    for name, text in sorted(modules.items()):
        plain = _COMMENT.sub("", text)
        packages = [line.strip() for line in _PACKAGE.findall(plain)]
        if len(packages) != 1 or _OWN.fullmatch(packages[0]) is None:
            return f"{name} must be of one package, clave or below it."
        if found := _REFUSED.search(plain):
            return f"{name} calls {found[1]}, which decides by more than the input or not alike on every engine."
    return None
