"""What a policy's modules may be: packages of our own, and only built-in functions that decide by the input alone.

A module of another package could speak for the server that loads it (``system.authz`` says who may administer OPA). A
function that asks the network, the environment or a random source makes a decision that cannot be made again, or
carries the input away. Functions on which engines differ are refused for the same reason as the fuzz would refuse them.

Texts are judged without their comments and with their strings emptied, so that neither hides a call from this reading;
ways of naming a function that this reading could not follow (``http["send"]``, templates, ``with f as``) are refused.
"""

import re
from collections.abc import Mapping

_OWN = re.compile(r"package clave(\.[a-z][a-z0-9_]*)*", re.ASCII)
_PACKAGE = re.compile(r"^[ \t]*package\b.*$", re.MULTILINE)
_UNSEEN = re.compile(r"[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\uffef\U00010000-\U0010ffff]")
_WORDS = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<template>\$["`])|(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)|(?P<open>["`])""", re.VERBOSE
)
_REFUSED = re.compile(
    r"(?<![\w.])(http\.send|net\.lookup_ip_addr|opa\.runtime|rand\.intn|uuid\.rfc4122|io\.jwt\.\w+|crypto\.\w+(\.\w+)*"
    r"|glob\.match|time\.now_ns|json\.match_schema|json\.verify_schema|(?:trace|print)(?=\s*\())(?!\w)"
)
_INDIRECT = re.compile(
    r"(?<![\w.])(?:http|net|opa|rand|uuid|io|crypto|glob|time|json)\s*\[|\]\s*\(|\bwith\s+(?!input\b|data\b)"
)


def fault_of(modules: Mapping[str, str]) -> str | None:
    """Say why modules may be no policy of this installation; None where they may.

    Args:
        modules: Rego text by file name.
    """
    for name, text in sorted(modules.items()):
        if unseen := _UNSEEN.search(text):
            return f"{name} holds the character U+{ord(unseen[0]):04X}, which readers would not see."
        plain = _plain(text)
        if plain is None:
            return f"{name} holds a template, or a string that does not end."
        packages = [line.strip() for line in _PACKAGE.findall(plain)]
        if len(packages) != 1 or _OWN.fullmatch(packages[0]) is None:
            return f"{name} must be of one package, clave or below it."
        if found := _REFUSED.search(plain):
            return f"{name} names {found[1]}, which decides by more than the input or not alike on every engine."
        if _INDIRECT.search(plain):
            return f"{name} names a function by a string or replaces one; name it plainly."
    return None


def _plain(text: str) -> str | None:
    """Leave comments out and empty the strings; None where that cannot be done."""
    kept: list[str] = []
    at = 0
    for word in _WORDS.finditer(text):
        if word["template"] or word["open"]:
            return None
        kept += [text[at : word.start()], '""' if word["string"] else ""]
        at = word.end()
    return "".join([*kept, text[at:]])
