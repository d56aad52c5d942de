# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file: which arrays follow it, where, and what is said of them.

The format (github.com/huggingface/safetensors, README.md, "Format"): u64 length of the header, the header as JSON
padded with blanks to a multiple of 8, then the raw little-endian arrays without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import DTYPE_BYTES

DTYPES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}
MAX_HEADER = 100_000_000
"""Bytes; readers refuse more (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""


def head(arrays: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """All that stands before the arrays, which follow in this order; each is (name, dtype, shape).

    A dtype that the format lacks is declared as its bytes, uint8.

    Raises:
        UsageError: more names than the header may hold.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape in arrays:
        end = at + math.prod(shape) * DTYPE_BYTES[dtype]
        entries[name] = {"dtype": DTYPES.get(dtype, "U8"), "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UsageError(
            f"safetensors: {len(entries) - 1} arrays need a header of {len(text)} bytes, the limit is {MAX_HEADER}"
        )
    return len(text).to_bytes(8, "little") + text


__all__ = ["DTYPES", "MAX_HEADER", "head"]
