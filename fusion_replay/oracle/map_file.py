# SPDX-License-Identifier: Apache-2.0
"""The map as a file: which tensor of a model is which buffer at which step, to be edited and kept.

JSON, one entry a tensor or a pattern of tensors::

    {"format": "fusion-replay.oracle-map/1", "tensors": [
      {"tensor": "encoder.layer.0.output", "step": "0:68", "buffer": "hidden", "layout": "a b -> a/64 b"},
      {"tensor": "encoder.layer.{n}.intermediate.dense", "buffer": "ffn_hidden", "after": "W_ffn_up_{n}", "write": 1}
    ]}

``{n}`` stands for a number and ``*`` for any text; what they match in the tensor's name goes into ``buffer`` and
``after``. Without ``step`` it is the write number ``write`` (from 0) of the buffer, counted from the first step that
touches ``after``, where that is said. ``"side": "input"`` is what a step reads from outside, not what it writes.
``layout`` may be left out where the shapes leave one choice.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import UsageError
from fusion_replay.model import serialise
from fusion_replay.model.text import one_line
from fusion_replay.oracle.layout import TensorLayout, parse
from fusion_replay.oracle.layouts import plain_layouts
from fusion_replay.oracle.mapping import Mapping, OracleBoundary, Unmapped, also
from fusion_replay.snapshot.target import IfExists, publish

if TYPE_CHECKING:
    from fusion_replay.oracle.file import Oracle, OracleTensor
    from fusion_replay.oracle.places import Location, Places

FORMAT = "fusion-replay.oracle-map/1"
_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One line of the file, as it stands there."""

    tensor: str
    buffer: str = ""
    step: str = ""
    layout: str = ""
    after: str = ""
    write: int = 0
    side: str = ""


def write_map(mapping: Mapping, path: str | os.PathLike[str], *, if_exists: IfExists = "error") -> Path:
    """Write what was found; tensors without a place are listed with their reason under ``unmapped``.

    Raises:
        TargetExistsError, UsageError: it can't be written there.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise UsageError(f"{target}: can't be written: the folder {target.parent} does not exist")
    data = {
        "format": FORMAT,
        "tensors": [
            {
                "tensor": b.name,
                "step": b.place.address,
                "buffer": b.place.buffer,
                "layout": str(b.layout),
                **({} if b.place.output else {"side": "input"}),
                "evidence": b.evidence,
            }
            for b in mapping.boundaries
        ],
        "unmapped": [{"tensor": u.tensor.name, "why": u.why, "places": list(u.places)} for u in mapping.unmapped],
    }
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
        return publish(part, target, if_exists)
    finally:
        part.unlink(missing_ok=True)


def read_map(path: str | os.PathLike[str], oracle: Oracle, where: Places) -> Mapping:
    """The boundaries that a map names, in the order of the recording's steps.

    Raises:
        UsageError: no such file, no map, or an entry that fits no tensor or no place; the message names it.
    """
    boundaries: dict[str, OracleBoundary] = {}
    for number, entry in enumerate(_entries(Path(path))):
        what = f"{path}: entry {number}, {one_line(entry.tensor)!r:.120}"
        matched = list(_tensors(entry, oracle, what))
        for tensor, groups in matched:
            place = _place(entry, groups, where, what)
            layout = _layout(entry, tensor, place, where, what)
            boundaries[tensor.name] = OracleBoundary(
                tensor, also(oracle, tensor), place, layout, f"by {Path(path).name}"
            )
    ordered = sorted(boundaries.values(), key=lambda b: (b.place.row, b.place.output, b.place.position))
    keys = {b.tensor.key for b in ordered}
    left = {t.key: t for t in oracle.tensors if t.is_float and t.key not in keys}
    unmapped = tuple(Unmapped(t, "is not in the map") for t in left.values())
    return Mapping(tuple(ordered), unmapped, tuple(t.name for t in oracle.tensors if not t.is_float))


# --- parts ----------------------------------------------------------------------------------------------------------


def _entries(path: Path) -> list[MapEntry]:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path}: expected a map of at most {_LARGEST >> 20} MiB")
        data: Any = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("tensors"), list):
            raise UsageError(f"{path}: expected a map of format {FORMAT}; `fusion-replay oracle map` writes one")
        return [serialise.from_dict(MapEntry, entry, f"entry {i}") for i, entry in enumerate(data["tensors"])]
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a map of tensors there, found none") from None
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: no map of tensors ({one_line(str(error))[:200]})") from None


def _tensors(entry: MapEntry, oracle: Oracle, what: str) -> Iterator[tuple[OracleTensor, tuple[str, ...]]]:
    wild = "{n}" in entry.tensor or "*" in entry.tensor
    if not wild:
        yield oracle[entry.tensor], ()
        return
    parts = re.split(r"(\{n\}|\*)", entry.tensor)
    pattern = "".join({"{n}": "([0-9]+)", "*": "(.*)"}.get(p, re.escape(p)) for p in parts)
    found = [(t, m.groups()) for t in oracle.tensors if (m := re.fullmatch(pattern, t.name)) is not None]
    if not found:
        raise UsageError(f"{what}: no tensor of {oracle.path} has such a name")
    yield from found


def _filled(text: str, groups: tuple[str, ...]) -> str:
    left = list(groups)
    return re.sub(r"\{n\}|\*", lambda m: left.pop(0) if left else m.group(), text)


def _place(entry: MapEntry, groups: tuple[str, ...], where: Places, what: str) -> Location:
    buffer, after = _filled(entry.buffer, groups), _filled(entry.after, groups)
    if entry.step:
        its = [p for p in where.all if p.address == entry.step and buffer in ("", p.buffer)]
        outputs = [p for p in its if p.output and entry.side != "input"] or [p for p in its if not p.output]
        if len(outputs) != 1:
            has = ", ".join(p.buffer for p in where.all if p.address == entry.step) or "no contents of it"
            raise UsageError(f"{what}: step {entry.step} has {has}; expected one of them as its buffer, not {buffer!r}")
        return outputs[0]
    start = 0
    if after:
        if after not in where.touched:
            raise UsageError(f"{what}: no step touches {after!r}")
        start = where.touched[after]
    writes = [p for p in where.all if p.buffer == buffer and p.output and p.row >= start]
    given = [p for p in where.all if p.buffer == buffer and not p.output]
    if given and (not writes or entry.side == "input"):
        return given[0]
    if not 0 <= entry.write < len(writes):
        raise UsageError(f"{what}: write {entry.write} of {buffer!r}: the recording has {len(writes)} from there on")
    return writes[entry.write]


def _layout(entry: MapEntry, tensor: OracleTensor, place: Location, where: Places, what: str) -> TensorLayout:
    if entry.layout:
        return parse(entry.layout, tensor.shape, place.elements)
    known = plain_layouts(tensor.shape, place.elements, where.hints)
    if len(known) != 1:
        ways = ", ".join(map(str, known[:4])) or "no way"
        raise UsageError(
            f"{what}: {tensor.shape} fits {place.label}, {place.elements:,} elements, in {ways}; say which as layout"
        )
    return known[0]


__all__ = ["FORMAT", "MapEntry", "read_map", "write_map"]
