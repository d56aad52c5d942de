# SPDX-License-Identifier: Apache-2.0
"""``export()``: choose the steps, the format and the name; each format has a module of its own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.errors import UsageError
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.selection import feeding

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot
    from fusion_replay.snapshot.target import IfExists


@dataclass(frozen=True, slots=True)
class Format:
    """``module`` has ``export(request) -> ExportReport``; ``suffix`` ends the name where none was given.

    ``compressions``: the choices there are, the default first.
    """

    module: str
    suffix: str
    compressions: tuple[str, ...] = ()


FORMATS = {
    "h5": Format("snapshot", "-part.h5"),
    "plain-h5": Format("plain", "-plain.h5", ("gzip", "zstd", "none")),
    "npz": Format("npz", ".npz", ("none", "deflate")),
    "safetensors": Format("safetensors", ".safetensors"),
    "jsonl": Format("jsonl", ".jsonl"),
    "xrt": Format("xrt", "-xrt"),
}
ISSUE = Format("issue", "-issue")


def export(
    snapshot: str | os.PathLike[str] | Snapshot,
    path: str | os.PathLike[str] | None = None,
    as_: str = "h5",
    *,
    steps: str | Sequence[str] = (),
    op: str | None = None,
    buffer: str | None = None,
    invocation: int | None = None,
    slice_: bool = False,
    compression: str | None = None,
    skip_missing: bool = False,
    issue: bool = False,
    with_weights: bool | None = None,
    float32: bool = False,
    if_exists: IfExists | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ExportReport:
    """Write some of a recording's steps, or all, in another format.

    Args:
        snapshot: a file, or an open Snapshot (left open).
        path: the file or folder to write; by default named after the snapshot, in the current folder.
        as_: "h5" (a snapshot of these steps, addresses kept), "plain-h5" (ordinary HDF5, everything whole), "npz",
            "safetensors", "jsonl" (one record per step, arrays by digest and statistics), "xrt" (a folder that
            ``xrt-runner --replay`` runs).
        steps: addresses and ranges: "3:412", "10-20", "3:400-412". ``op``, ``buffer``, ``invocation``: as
            ``Snapshot.steps``.
        slice_: with one step, also the steps of its invocation whose results it depends on.
        compression: plain-h5: "gzip", "zstd" or "none"; npz: "none" or "deflate".
        skip_missing: leave out arrays of which only digests were kept, instead of refusing.
        issue: a folder to attach to a bug report on one step: ``issue.md``, ``step.h5``, ``repro.py``; without host,
            user, paths, command line, environment.
        with_weights: with ``issue``, keep the contents of all weights, or of none; by default those of the step itself
            go along, up to 16 MiB.
        float32: with "plain-h5", bfloat16 and smaller floats as float32, for viewers that know none of them.
        if_exists: "error", "replace" (files only, once the new one is complete) or "number" (``NAME-001.npz``); by
            default an error for a ``path`` that was given, and a number where the default name is taken.
        progress: called with (arrays or steps done, in all), by formats that write them one by one.

    Raises:
        UsageError: an unknown format or policy, a filter that matches nothing, a target that exists.
        MissingError: the format holds contents, and only digests of some were kept; or device files.
        SnapshotError: no usable snapshot, or one whose contents are damaged.
    """
    if as_ not in FORMATS:
        raise UsageError(f"format {as_!r}: expected one of {', '.join(FORMATS)}")
    if issue and as_ != "h5":
        raise UsageError(f"issue: always the same three files; leave out the format {as_}")
    if with_weights is not None and not issue:
        raise UsageError("with_weights goes with issue; other exports keep every contents that was kept")
    format_ = ISSUE if issue else FORMATS[as_]
    if float32 and as_ != "plain-h5":
        raise UsageError(f"float32: plain-h5 takes it, format {as_} keeps every dtype as it is; leave it out")
    _check_compression(as_, format_, compression)
    from fusion_replay.snapshot import opened
    from fusion_replay.snapshot.selection import select

    with opened(snapshot) as snap:
        addresses = [steps] if isinstance(steps, str) else list(steps)
        selected = chosen = select(snap, addresses, op, buffer, invocation)
        if not chosen:
            raise UsageError(f"{snap.path}: it holds no step to export")
        if slice_ or issue:
            step = only(selected, "slice" if slice_ else "issue")
            chosen = feeding(snap, step) if slice_ else selected
        target = Path(path) if path is not None else default_name(snap, format_, addresses)
        if if_exists is None:
            if_exists = "number" if path is None and os.path.lexists(target) else "error"
        module = importlib.import_module(f"fusion_replay.export.{format_.module}")
        request = Request(snap, chosen, target, if_exists, compression, skip_missing, with_weights, float32, progress)
        report = module.export(request, step) if issue else module.export(request)
        assert isinstance(report, ExportReport)
        return report


def only(steps: Sequence[RecordedStep], what: str) -> RecordedStep:
    if len(steps) != 1:
        raise UsageError(f"{what}: expected one step, such as --step {steps[-1].address}, found {len(steps)}")
    return steps[0]


def default_name(snapshot: Snapshot, format_: Format, addresses: Sequence[str]) -> Path:
    """``decode.h5`` -> ``decode-3-412.npz``, in the current folder."""
    stem = snapshot.path.name.removesuffix(".journal").removesuffix(".h5")
    return Path("-".join([stem, *(address.replace(":", "-") for address in addresses[:1])]) + format_.suffix)


def _check_compression(as_: str, format_: Format, compression: str | None) -> None:
    if compression is not None and compression not in format_.compressions:
        takes = f"takes {', '.join(format_.compressions)}" if format_.compressions else "has no choice; leave it out"
        raise UsageError(f"compression {compression!r}: {as_} {takes}")


__all__ = ["FORMATS", "export"]
