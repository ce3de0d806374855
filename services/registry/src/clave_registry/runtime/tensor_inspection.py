"""Looks into a safetensors file; runs only inside the sandbox.

The header is JSON, the rest is bytes; every tensor must lie inside of them, none may overlap another, and each must be
as long as its shape says.

Source: github.com/huggingface/safetensors, section "Format".
"""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

HEADER_BYTES_MAX = 100_000_000
RANK_MAX = 32
_HEAD_BYTES = 8
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def inspect(data: bytes) -> dict[str, Any]:
    """Describe a safetensors file and list what speaks against keeping it.

    Returns:
        ``faults``; ``operators`` (the element types that occur) and ``columns`` (names of the tensors, at most 1,000).
    """
    empty: dict[str, Any] = {"inputs": [], "outputs": [], "opsets": {}, "operators": [], "columns": []}
    length = int.from_bytes(data[:_HEAD_BYTES], "little")
    if len(data) < _HEAD_BYTES or not 2 <= length <= min(HEADER_BYTES_MAX, len(data) - _HEAD_BYTES):  # noqa: PLR2004 - "{}"
        return {**empty, "faults": ["it is no safetensors file: its header is longer than the file"]}
    try:
        header = json.loads(data[_HEAD_BYTES : _HEAD_BYTES + length], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return {**empty, "faults": [f"it is no safetensors file: its header is no JSON ({str(error)[:80]})"]}
    if not isinstance(header, dict):
        return {**empty, "faults": ["it is no safetensors file: its header is no object"]}
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    faults = list(_faults(tensors, len(data) - _HEAD_BYTES - length))[:20]
    kinds = sorted({str(entry.get("dtype")) for entry in tensors.values() if isinstance(entry, dict)})
    return {**empty, "faults": faults, "operators": kinds[:50], "columns": [name[:256] for name in tensors][:1000]}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _faults(tensors: dict[str, Any], size: int) -> Iterator[str]:
    spans: list[tuple[int, int]] = []
    for name, entry in tensors.items():
        shown = name[:80]
        try:
            bits, shape = _BITS[entry["dtype"]], [int(n) for n in entry["shape"]]
            start, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            yield f"tensor '{shown}' has no known type, shape or place"
            return
        if len(shape) > RANK_MAX or any(n < 0 for n in shape):
            yield f"tensor '{shown}' has an impossible shape"
        elif not 0 <= start <= end <= size:
            yield f"tensor '{shown}' lies outside of the file"
        elif (end - start) * 8 != prod(shape) * bits:
            yield f"tensor '{shown}' is not as long as its shape says"
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            yield "its tensors overlap or leave a gap"
            return
        at = end
    if at != size:
        yield "bytes follow the last tensor"
