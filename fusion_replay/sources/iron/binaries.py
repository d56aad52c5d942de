# SPDX-License-Identifier: Apache-2.0
"""Which files IRON's kernels were loaded from, asked of what each version keeps; nothing here touches a device.

Kernels say it themselves (Xilinx/mlir-aie ``python/utils/npukernel.py``: ``xclbin_path``, ``insts_path``,
``kernel_name``). The HRX fork's plan holds loaded handles, so its policy is asked (amd/IRON
``iron/common/sequence.py``, ``op_xclbin_map`` and its like). A single operator keeps its own two files
(``iron/common/base.py``: ``_xclbin_path`` and ``_insts_path``, earlier ``xclbin_artifact`` and ``insts_artifact``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fusion_replay.model.runlist import DTYPE_BYTES, OperatorDescription, SequenceDescription
from fusion_replay.sources.describe import arg_specs
from fusion_replay.sources.iron.hook_point import PLANS
from fusion_replay.sources.protocol import KernelPaths

SINGLE_KERNEL = "MLIR_AIE"
"""The kernel's name in the xclbin of a single operator (amd/IRON ``iron/common/base.py``)."""


def kernel_paths(callable_: Any, sequence: SequenceDescription) -> tuple[KernelPaths, ...]:
    """The files behind each operator of a callable's sequence; none for the software NPU, which has none."""
    if sequence.origin.get("variant") == "simulator":
        return ()
    first = {step.operator: step.index for step in reversed(sequence.steps)}
    found = []
    for number in sorted(first):
        operator = callable_.op.runlist[first[number]][0]
        paths = _of_step(callable_, number, first[number])
        found.append(replace(paths, places=_places(operator, sequence.operators[number])))
    return tuple(found)


def operator_paths(operator: Any, kernel: Any = None) -> tuple[KernelPaths, ...]:
    """As :func:`kernel_paths` for a call of an operator alone, by the kernel that was dispatched or its own fields."""
    if getattr(kernel, "xclbin_path", None) is not None:
        return (_of_kernel(0, kernel),)
    own = getattr(operator, "__dict__", {})
    xclbin = _path(own.get("_xclbin_path") or own.get("xclbin_artifact"))
    instructions = _path(own.get("_insts_path") or own.get("insts_artifact"))
    return (_told(0, SINGLE_KERNEL, xclbin, instructions),)


def _of_step(callable_: Any, number: int, index: int) -> KernelPaths:
    name = next((name for name in PLANS if isinstance(getattr(callable_, name, None), list)), None)
    kernel = None if name is None else getattr(callable_, name)[index][PLANS[name]]
    if getattr(kernel, "xclbin_path", None) is not None:
        return _of_kernel(number, kernel)
    policy = getattr(callable_, "_dispatch", None) or getattr(callable_.op, "_dispatch", None)
    operator = id(callable_.op.runlist[index][0])

    def known(*names: str) -> Any:
        maps = (getattr(policy, name, None) for name in names)
        return next((m[operator] for m in maps if isinstance(m, dict) and operator in m), None)

    xclbin = _path(known("op_xclbin_path_map", "op_xclbin_map"))
    instructions = _path(known("op_insts_path_map", "op_insts_map"))
    return _told(number, str(known("op_kernel_name_map") or ""), xclbin, instructions)


def _of_kernel(number: int, kernel: Any) -> KernelPaths:
    name, xclbin = str(kernel.kernel_name or ""), _path(kernel.xclbin_path)
    instructions = _path(getattr(kernel, "insts_path", None))
    if instructions is None and getattr(kernel, "dispatch_params", None):
        taken = ", ".join(map(str, kernel.dispatch_params))
        return KernelPaths(number, name, xclbin, None, f"the instructions are made at each dispatch, from {taken}")
    return _told(number, name, xclbin, instructions)


def _told(number: int, name: str, xclbin: Path | None, instructions: Path | None) -> KernelPaths:
    missing = [what for what, path in (("xclbin", xclbin), ("instruction file", instructions)) if path is None]
    absent = f"nothing here names its {' and its '.join(missing)}" if missing else None
    return KernelPaths(number, name, xclbin, instructions, absent)


def _places(operator: Any, description: OperatorDescription) -> tuple[int, ...]:
    """Bytes from each tensor's start to its argument's contents; empty where all start at once."""
    places = tuple(place * DTYPE_BYTES[spec.dtype] for spec, place in arg_specs(operator, description))
    return places if any(places) else ()


def _path(found: Any) -> Path | None:
    """A path, or an artifact that has one."""
    found = getattr(found, "filename", found)
    return None if found is None else Path(str(found))


__all__ = ["SINGLE_KERNEL", "kernel_paths", "operator_paths"]
