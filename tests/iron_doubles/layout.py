# SPDX-License-Identifier: Apache-2.0
"""Buffer layout as every version computes it: inputs, outputs, scratch in first-use order, slices by byte range."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np


def arguments(op: Any) -> list[Any]:
    return list(op.buffers if hasattr(op, "buffers") else op.get_arg_spec())


def calculate(
    runlist: Any, input_args: Any, output_args: Any, explicit: dict[str, int]
) -> tuple[dict[str, tuple[str, int, int]], tuple[int, int, int], dict[str, tuple[str, int, int]]]:
    sizes: dict[str, int] = {}
    slices: dict[str, tuple[str, int, int]] = {}
    for op, *names in runlist:
        for name, spec in zip(names, arguments(op), strict=True):
            found = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", name)
            if found:
                slices[name] = (found[1], int(found[2]), int(found[3]))
            else:
                sizes.setdefault(name, int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize)
    sizes |= explicit
    kinds: dict[str, list[str]] = {"input": list(input_args), "output": list(output_args)}
    kinds["scratch"] = [n for n in sizes if n not in input_args and n not in output_args]
    layout, totals = {}, []
    for kind, names in kinds.items():
        at = 0
        for name in names:
            layout[name] = (kind, at, sizes[name])
            at += sizes[name]
        totals.append(at)
    return layout, (totals[0], totals[1], totals[2]), slices


def planned(
    runlist: Any, input_args: Any, output_args: Any, explicit: dict[str, int], offsets: dict[str, int]
) -> tuple[dict[str, tuple[str, int, int]], tuple[int, int, int], dict[str, tuple[str, int, int]]]:
    """As :func:`calculate`, aligned, and the buffers that ``offsets`` names behind the others of their kind."""
    layout, _, slices = calculate(runlist, input_args, output_args, explicit)
    made: dict[str, tuple[str, int, int]] = {}
    totals = {"input": 0, "output": 0, "scratch": 0}
    for kind in totals:
        cursor = end = 0
        mine = [(n, size) for n, (k, _, size) in layout.items() if k == kind]
        for name, size in (m for m in mine if m[0] not in offsets):
            made[name] = (kind, cursor, size)
            end = cursor + size
            cursor = -(-end // 64) * 64
        for name, size in (m for m in mine if m[0] in offsets):
            made[name] = (kind, cursor + offsets[name], size)
            end = max(end, cursor + offsets[name] + size)
        totals[kind] = end
    return made, (totals["input"], totals["output"], totals["scratch"]), slices


def plan(runlist: Any, pinned: set[str]) -> dict[str, int]:
    """Offsets for what is written and then read, first fit by first write (IRON's takes the tightest gap)."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    size: dict[str, int] = {}
    early: set[str] = set()
    for step, (op, *names) in enumerate(runlist):
        specs = arguments(op)
        for name, spec in zip(names[:-1], specs[:-1], strict=True):
            last[name] = step
            if name not in first:
                early.add(name)
            size[name] = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
        first.setdefault(names[-1], step)
        size[names[-1]] = int(np.prod(specs[-1].shape)) * np.dtype(specs[-1].dtype).itemsize
    placed: dict[str, tuple[int, int]] = {}
    for name in first:
        if name in pinned or name in early or name not in last or "[" in name:
            continue
        rivals = sorted(placed[n] for n in placed if first[n] <= last[name] and first[name] <= last[n])
        at = 0
        for start, stop in rivals:
            if at + size[name] <= start:
                break
            at = max(at, -(-stop // 64) * 64)
        placed[name] = (at, at + size[name])
    return {name: at for name, (at, _) in placed.items()}


def label(sequence_name: str, index: int) -> str:
    return f"f{hashlib.sha1(sequence_name.encode(), usedforsecurity=False).hexdigest()[:6]}_op{index}"


def unique(runlist: Any) -> list[Any]:
    return list({id(op): op for op, *_ in runlist}.values())
