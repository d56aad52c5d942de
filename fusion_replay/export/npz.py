# SPDX-License-Identifier: Apache-2.0
"""NumPy's own format: ``np.load(F)[NAME]``. bfloat16, which it lacks, as uint16 bits; ``meta.json`` says which."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.export.arrays import whole
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output

if TYPE_CHECKING:
    from fusion_replay.export.arrays import NamedArray

META = "meta.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same arrays give the same file


def export(request: Request) -> ExportReport:
    arrays, missing = whole(request.steps, "npz", request.skip_missing)
    with output(request.target, request.if_exists) as out:
        write(out.part, request.each(arrays), request.head, compress=request.compression == "deflate")
    bits = "bfloat16 is stored as its bits in uint16, which meta.json says: .view(ml_dtypes.bfloat16)"
    notes = (bits,) if any(array.tensor.dtype == "bfloat16" for array in arrays) else ()
    return request.report("npz", out.path, len(arrays), missing=missing, notes=notes)


def write(path: Path, arrays: Iterable[NamedArray], head: dict[str, Any], *, compress: bool = False) -> None:
    """One ``NAME.npy`` each, and ``meta.json`` with ``head`` and what each array is; one array in memory at a time."""
    described = {}
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "x", method, allowZip64=True) as archive:
        for array in arrays:
            values = array.tensor.numpy()
            described[array.name] = array.to_dict()
            if values.dtype.isbuiltin != 1:  # ml_dtypes' own: np.save would write it as raw void
                values = values.view(f"u{values.dtype.itemsize}")
                described[array.name]["stored"] = values.dtype.name
            entry = zipfile.ZipInfo(f"{array.name}.npy", _EPOCH)
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(
                    member, np.ascontiguousarray(values).reshape(values.shape), allow_pickle=False
                )
        entry = zipfile.ZipInfo(META, _EPOCH)
        archive.writestr(entry, json.dumps({**head, "arrays": described}, indent=1))
