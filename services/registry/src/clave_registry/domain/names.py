"""What a model, an endpoint, an alias and a tag may be called.

Names end up in URLs, Redis keys, file names of other tools and on dashboards, so they are refused rather than
escaped: what a name may contain is stated once, here.
"""

import re
from collections.abc import Mapping

from clave_common.errors import InvalidArgument

NAME_CHARACTERS_MAX = 128
ALIAS_CHARACTERS_MAX = 255
TAG_KEY_CHARACTERS_MAX = 250
TAG_VALUE_CHARACTERS_MAX = 5_000
TAGS_MAX = 100
TEXT_CHARACTERS_MAX = 5_000

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9])?")
_ALIAS = re.compile(r"[\w-]+", re.ASCII)
_VERSION_LIKE = re.compile(r"v\d+", re.IGNORECASE)
_TAG_KEY = re.compile(r"[\w .:/-]+")


class InvalidName(InvalidArgument):
    """A name is empty, too long, or holds characters that names may not have."""

    code = "invalid_name"


def checked_name(name: str, *, noun: str) -> str:
    """Return the name of a model or an endpoint if it is allowed.

    Args:
        name: 1 to 128 characters: letters, digits, space, ``.``, ``_``, ``-``; a letter or digit at both ends.
        noun: What is being named, for the message.

    Raises:
        InvalidName: It is not allowed.
    """
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(name) or ".." in name:
        raise InvalidName(
            f"A {noun} is named by 1 to {NAME_CHARACTERS_MAX} letters, digits, spaces, '.', '_' or '-', with a letter "
            "or digit at both ends.",
            field="name",
            limit=NAME_CHARACTERS_MAX,
        )
    return name


def checked_alias(alias: str) -> str:
    """Return the alias if it is allowed: word characters and ``-``, neither ``latest`` nor like ``v7``.

    Raises:
        InvalidName: It is not allowed, or would read as a version.
    """
    if len(alias) > ALIAS_CHARACTERS_MAX or not _ALIAS.fullmatch(alias):
        raise InvalidName(f"An alias has 1 to {ALIAS_CHARACTERS_MAX} letters, digits, '_' or '-'.", field="alias")
    if alias.lower() == "latest" or _VERSION_LIKE.fullmatch(alias):
        raise InvalidName(
            f"'{alias}' is reserved: it reads as a version. Choose a word such as 'champion'.", field="alias"
        )
    return alias


def checked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags if every key and value is within its limits.

    Raises:
        InvalidName: Too many tags, a key with odd characters, or a value that is too long.
    """
    if len(tags) > TAGS_MAX:
        raise InvalidName(f"At most {TAGS_MAX} tags are kept.", field="tags", limit=TAGS_MAX)
    for key, value in tags.items():
        checked_tag(key, value)
    return dict(tags)


def checked_tag(key: str, value: str) -> tuple[str, str]:
    """Return one tag if its key and value are within their limits.

    Raises:
        InvalidName: The key has odd characters, or one of them is too long.
    """
    if not 1 <= len(key) <= TAG_KEY_CHARACTERS_MAX or not _TAG_KEY.fullmatch(key):
        raise InvalidName(
            f"A tag's key has 1 to {TAG_KEY_CHARACTERS_MAX} letters, digits, spaces or any of '_.:/-'.", field=key[:80]
        )
    if len(value) > TAG_VALUE_CHARACTERS_MAX:
        raise InvalidName(
            f"A tag's value has at most {TAG_VALUE_CHARACTERS_MAX} characters.",
            field=key,
            limit=TAG_VALUE_CHARACTERS_MAX,
        )
    return key, value
