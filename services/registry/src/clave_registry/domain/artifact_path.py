"""Where an artifact may lie inside its version.

An artifact path is a relative POSIX path. It is never normalised into something acceptable: each bypass of a path
filter so far (percent-encoding twice, a fragment, a backslash, a drive letter) lived in such a normalisation. What is
not plainly a relative path is refused.
"""

import unicodedata
from urllib.parse import unquote

from clave_common.errors import InvalidArgument

PATH_CHARACTERS_MAX = 500
PATH_SEGMENTS_MAX = 20
SEGMENT_BYTES_MAX = 255
_DECODINGS_MAX = 8
_FORBIDDEN = frozenset("\\#?")


class InvalidArtifactPath(InvalidArgument):
    """A path leaves its version, or could be read as one that does."""

    code = "invalid_artifact_path"


def checked_artifact_path(path: str) -> str:
    r"""Return an artifact's path if it can only mean one place inside its version.

    Args:
        path: For example ``model.onnx`` or ``monitoring/reference.parquet``; at most 500 characters, 20 segments.

    Raises:
        InvalidArtifactPath: It is absolute, leaves its folder, holds control characters, ``\``, ``#`` or ``?``, or
            decodes (in any number of percent-encodings) to a path that does.
    """
    if not 1 <= len(path) <= PATH_CHARACTERS_MAX:
        raise _refusal(path, f"has not 1 to {PATH_CHARACTERS_MAX} characters")
    for form in _decoded_forms(path):
        _require_plain(path, form)
    return path


def _decoded_forms(path: str) -> list[str]:
    forms = [path]
    for _ in range(_DECODINGS_MAX):
        decoded = unquote(forms[-1], errors="replace")
        if decoded == forms[-1]:
            return forms
        forms.append(decoded)
    raise _refusal(path, "is percent-encoded too many times")


def _require_plain(path: str, form: str) -> None:
    compatible = unicodedata.normalize("NFKC", form)
    for text in (form, compatible):
        if any(character in _FORBIDDEN or unicodedata.category(character) in {"Cc", "Cs"} for character in text):
            raise _refusal(path, "holds a control character, '\\', '#' or '?'")
        segments = text.split("/")
        if len(segments) > PATH_SEGMENTS_MAX:
            raise _refusal(path, f"has more than {PATH_SEGMENTS_MAX} segments")
        if any(segment in {"", ".", ".."} or segment != segment.strip() for segment in segments):
            raise _refusal(path, "is absolute, or has an empty, '.' or '..' segment")
        if any(len(segment.encode(errors="replace")) > SEGMENT_BYTES_MAX for segment in segments):
            raise _refusal(path, f"has a segment of more than {SEGMENT_BYTES_MAX} bytes")
        if len(segments[0]) >= 2 and segments[0][1] == ":" and segments[0][0].isalpha():  # noqa: PLR2004 - "C:"
            raise _refusal(path, "names a drive")


def _refusal(path: str, why: str) -> InvalidArtifactPath:
    shown = path[:120].encode("unicode_escape").decode()
    return InvalidArtifactPath(
        f"The artifact path {why}. Use a relative path such as 'monitoring/reference.parquet'.",
        field="path",
        path=shown,
    )
