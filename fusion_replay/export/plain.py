# SPDX-License-Identifier: Apache-2.0
"""An ordinary HDF5 file: the whole tree at any number of steps, every tensor whole, filters that every reader has.

Nothing of ours is needed to read it: no user block, no tables, no stacks, no packs. Equal tensors of one shape are one
dataset under several names (hard links).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5s

from fusion_replay.errors import MissingDependencyError
from fusion_replay.export.arrays import safe_name, step_name, whole
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.model.runlist import DTYPE_BYTES, SMALL, stored_dtype
from fusion_replay.snapshot.describe import dump_json
from fusion_replay.snapshot.encodings.chunks import Layout
from fusion_replay.snapshot.seal import hdf5

_MAX_ATTRIBUTE = 60_000  # bytes; HDF5 keeps attributes in the object header, which ends at 64 KiB

if TYPE_CHECKING:
    from fusion_replay.export.arrays import NamedArray
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot


def export(request: Request) -> ExportReport:
    """All chosen steps; the whole of :mod:`fusion_replay.export.plain` is in :func:`write`."""
    arrays, missing = whole(request.steps, "plain-h5", request.skip_missing)
    with output(request.target, request.if_exists) as out:
        write(
            out.part,
            request.snapshot,
            request.steps,
            request.each(arrays),
            request.head,
            request.compression or "gzip",
            float32=request.float32,
        )
    return request.report("plain-h5", out.path, len(arrays), missing=missing)


def write(
    path: Path,
    snapshot: Snapshot,
    steps: Sequence[Step],
    arrays: Iterable[NamedArray],
    head: dict[str, Any],
    compression: str = "gzip",
    *,
    float32: bool = False,
) -> None:
    """``/sequences``, ``/invocation_NNNN/step_NNNN_OP/SIDE/ARGUMENT`` and, as JSON text, ``/provenance``, ``/losses``.

    Args:
        compression: "gzip" (level 4) and "zstd" (filter 32015, needs the extra hdf5 to write and to read) behind byte
            shuffle, or "none".
        float32: floats that HDF5 itself lacks (bfloat16, float8, float4) become float32, which has all their values.
    """
    with h5py.File(path, "x", libver=("earliest", "v110")) as file:
        for name, value in head.items():
            _attribute(file, name, value)
        _text(file, "provenance", snapshot.provenance)
        _text(file, "losses", [loss.to_dict() for loss in snapshot.losses])
        _sequences(file, snapshot)
        for step in steps:
            _step(file, step)
        seen: dict[tuple[int | None, tuple[int, ...]], str] = {}
        for array in arrays:
            key = (array.tensor.row, array.tensor.shape)
            if key in seen:
                file[array.name] = file[seen[key]]
            else:
                _tensor(file, array.name, array.tensor, compression, float32)
                seen[key] = array.name
            _use(file[array.name.rpartition("/")[0]], array, float32)


def _widened(dtype: str, float32: bool) -> bool:
    return float32 and (dtype == "bfloat16" or (dtype in SMALL and dtype.startswith("float")))


def _use(group: Any, array: NamedArray, float32: bool) -> None:
    """The buffer belongs to this use, and the dataset may be shared by others: so it stands on the group.

    So does an element type that HDF5 lacks, whose bytes (or values, as float32) the dataset holds.
    """
    name = array.name.rpartition("/")[2]
    _attribute(group, f"buffer of {name}", array.tensor.buffer)
    dtype = array.tensor.dtype
    if stored_dtype(dtype) != dtype or _widened(dtype, float32):
        _attribute(group, f"dtype of {name}", array.tensor.dtype)


def _sequences(file: h5py.File, snapshot: Snapshot) -> None:
    for number, sequence in enumerate(snapshot.sequences):
        made = file.create_group(f"sequences/{number:04d}_{safe_name(sequence.name)}")
        _attribute(made, "name", sequence.name)
        _attribute(made, "origin", dict(sequence.origin))
        _attribute(made, "input_args", " ".join(sequence.input_args))
        _attribute(made, "output_args", " ".join(sequence.output_args))
        lines = [f"{s.index} {sequence.operators[s.operator].type} {s.flow}".encode() for s in sequence.steps]
        if lines:
            made.create_dataset("runlist", data=np.array(lines))


def _step(file: h5py.File, step: Step) -> None:
    made = file.require_group(step_name(step))
    _attribute(made, "label", step.label)
    _attribute(made, "status", step.status)
    found = {
        "params": dict(step.op.params),
        "values": step.values,
        "state": step.state,
        "error": step.error,
        "elapsed_ns": step.elapsed_ns,
        "digests": {f"{side}/{t.name}": t.digest for side, t in step.tensors() if t.digest},
    }
    for name, value in found.items():
        if value or value == 0:
            _attribute(made, name, value)


def _tensor(file: h5py.File, name: str, tensor: RecordedTensor, compression: str, float32: bool) -> None:
    options: dict[str, Any] = {}
    if tensor.shape and tensor.nbytes and compression != "none":
        options = {"chunks": Layout.of(tensor.shape, DTYPE_BYTES[tensor.dtype]).chunk_shape, "shuffle": True}
        options |= {"compression": "gzip", "compression_opts": 4} if compression == "gzip" else _zstd()
    wide = _widened(tensor.dtype, float32)
    kind = hdf5.element_type("float32" if wide else stored_dtype(tensor.dtype))
    made = file.create_dataset(name, tensor.shape, h5py.Datatype(kind.copy()), **options)
    if tensor.nbytes:
        values = np.ascontiguousarray(tensor.numpy().astype(np.float32) if wide else tensor.numpy())
        # Type in memory and in the file are the same, so that HDF5 converts nothing: NaN payloads stay.
        made.id.write(h5s.ALL, h5s.ALL, values.reshape(-1).view(np.uint8), kind)


def _zstd() -> dict[str, Any]:
    try:
        import hdf5plugin
    except ImportError:
        raise MissingDependencyError(
            "plain-h5 with zstd needs the package hdf5plugin: pip install 'fusion-replay[hdf5]', or --compression gzip"
        ) from None
    return dict(hdf5plugin.Zstd(clevel=1))


def _attribute(target: Any, name: str, value: Any) -> None:
    """Text as it is, anything else as JSON; beside the others as a dataset where it is too long for an attribute."""
    text = _storable(value if isinstance(value, str) else dump_json(value).decode())
    if len(text.encode("utf-8", "replace")) <= _MAX_ATTRIBUTE:
        target.attrs[name] = text
    else:
        _text(target, f"{name}.json", value)


def _storable(text: str) -> str:
    """HDF5 ends a text at the first NUL, and takes no half of a surrogate pair."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _text(file: h5py.File, name: str, data: Any) -> None:
    file.create_dataset(name, data=_storable(dump_json(data).decode()), dtype=h5py.string_dtype())
