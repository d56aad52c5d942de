# SPDX-License-Identifier: Apache-2.0
"""IRON's compare figures (amd/IRON ``iron/common/sequence.py`` at
979f9b4e24bc33bda28a871b91f519e69194cb3b), in numpy.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

FORM = "[compare step %d] %s -> %s: max_abs=%.4g mean_abs=%.4g max_rel=%.4g ref_max=%.4g%s"
SKIPPED = "[compare step %d] %s -> %s: no reference (skipped)"


def head(index: int, op: Any, in_names: list[str], out_name: str) -> dict[str, Any]:
    kind = type(op).__name__
    return {"step": index, "op": kind, "op_name": kind, "inputs": list(in_names), "output": out_name}


def figures(npu: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    ref = expected.reshape(npu.shape).astype(np.float32)
    diff, size = np.abs(npu.astype(np.float32) - ref), np.abs(ref)
    return {
        "skipped": False,
        "max_abs": float(diff.max()),
        "mean_abs": float(diff.mean()),
        "max_rel": float((diff / (size + 1e-6)).max()),
        "ref_max": float(size.max()),
    }


def log(logger: logging.Logger, level: int, stats: dict[str, Any], fail: bool) -> None:
    four = (stats["max_abs"], stats["mean_abs"], stats["max_rel"], stats["ref_max"])
    logger.log(level, FORM, stats["step"], stats["op"], stats["output"], *four, "  MISMATCH" if fail else "")


def error(stats: dict[str, Any]) -> RuntimeError:
    return RuntimeError(
        f"[compare step {stats['step']}] {stats['op']} (name={stats['op_name']}) -> {stats['output']}: NPU output "
        f"deviates from reference (max_abs={stats['max_abs']:.4g}, max_rel={stats['max_rel']:.4g})"
    )
