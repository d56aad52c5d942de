# SPDX-License-Identifier: Apache-2.0
"""safetensors: every dtype as it is, bfloat16 included. Written here, array by array, without the library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.export.arrays import whole
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.model import safetensors_head
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.model.safetensors_head import DTYPES

if TYPE_CHECKING:
    from fusion_replay.export.arrays import NamedArray

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
    described = json.dumps({**head, "arrays": {a.name: _described(a) for a in ordered}})
    sizes = ((a.name, a.tensor.dtype, a.tensor.shape) for a in ordered)
    begin = safetensors_head.head(sizes, {"fusion_replay": described})
    with open(path, "xb") as file:
        file.write(begin)
        for array in each(ordered):
            flat_bytes(array.tensor.numpy()).tofile(file)


def _described(array: NamedArray) -> dict[str, Any]:
    """What it is; a dtype that the format lacks is stored as its bytes."""
    return {**array.to_dict(), **({} if array.tensor.dtype in DTYPES else {"stored": "uint8"})}
