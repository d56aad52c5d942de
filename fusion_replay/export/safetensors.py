# SPDX-License-Identifier: Apache-2.0
"""safetensors: every dtype as it is, bfloat16 included. Written here, array by array, without the library.

The format (github.com/huggingface/safetensors, README.md, "Format"): u64 length of the header, the header as JSON
padded with blanks to a multiple of 8, then the raw little-endian arrays without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import UsageError
from fusion_replay.export.arrays import whole
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import DTYPE_BYTES

if TYPE_CHECKING:
    from fusion_replay.export.arrays import NamedArray

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


Each = Callable[[Sequence["NamedArray"]], Iterator["NamedArray"]]


def export(request: Request) -> ExportReport:
    arrays, missing = whole(request.steps, "safetensors", request.skip_missing)
    with output(request.target, request.if_exists) as out:
        write(out.part, arrays, request.head, request.each)
    return request.report("safetensors", out.path, len(arrays), missing=missing)


def write(path: Path, arrays: Sequence[NamedArray], head: dict[str, Any], each: Each = iter) -> None:
    """All arrays by name; ``__metadata__`` maps ``fusion_replay`` to JSON: ``head``, and what each array is.

    Raises:
        UsageError: more names than the header may hold.
    """
    # Widest elements first, so that each array starts at a multiple of its own width: readers map them in place.
    ordered = sorted(arrays, key=lambda a: (-DTYPE_BYTES[a.tensor.dtype], a.name))
    header: dict[str, Any] = {
        "__metadata__": {"fusion_replay": json.dumps({**head, "arrays": {a.name: _described(a) for a in ordered}})}
    }
    at = 0
    for array in ordered:
        tensor = array.tensor
        header[array.name] = {
            "dtype": DTYPES.get(tensor.dtype, "U8"),
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UsageError(
            f"safetensors: {len(arrays)} arrays need a header of {len(text)} bytes, the limit is {MAX_HEADER}"
        )
    with open(path, "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in each(ordered):
            flat_bytes(array.tensor.numpy()).tofile(file)


def _described(array: NamedArray) -> dict[str, Any]:
    """What it is; a dtype that the format lacks is stored as its bytes."""
    return {**array.to_dict(), **({} if array.tensor.dtype in DTYPES else {"stored": "uint8"})}
