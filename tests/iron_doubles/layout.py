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


def label(sequence_name: str, index: int) -> str:
    return f"f{hashlib.sha1(sequence_name.encode(), usedforsecurity=False).hexdigest()[:6]}_op{index}"


def unique(runlist: Any) -> list[Any]:
    return list({id(op): op for op, *_ in runlist}.values())
