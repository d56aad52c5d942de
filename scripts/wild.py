# SPDX-License-Identifier: Apache-2.0
"""No honest element is outside its bound: python scripts/wild.py ELEMENTS [OPERATOR...] prints a line an operator.

Kernels of the software NPU get numbers of 13 wild distributions in drawn shapes, on both devices and in both rounding
modes, until so many elements of each operator and device were held against the bound that decides in a replay, against
that of an unknown device (arrays), and against the device's own model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fusion_replay import refs
from fusion_replay.compare.numerics.evaluator import bound
from fusion_replay.compare.numerics.stages import DEVICES, MODES
from fusion_replay.errors import UsageError
from wild_numbers import KINDS, outside, run

_CALL = 1 << 17  # elements of one call, about


def drawn(op: str, device: str, r: np.random.Generator) -> dict[str, Any]:
    """Parameters that the operator takes on this device."""

    def one(*choices: Any) -> Any:
        return choices[r.integers(len(choices))]

    width = one(64, 128, 192, 512, 1024)
    rows = _CALL // width
    if op in ("RMSNorm", "LayerNorm"):
        weighted = {"weighted": one(True, False)} if op == "RMSNorm" else {}
        return {"size": rows * width, "tile_size": width, **weighted}
    if op == "Softmax":
        return {"rows": rows // 16 * 16, "cols": width, "rtp_vector_size": one(None, 1, width - 3)}
    if op == "RoPE":
        turns = one(8, 32)
        return {"rows": rows // 32 * 32, "cols": width, "angle_rows": turns, "method_type": one(0, 1)}
    if op == "GEMV":
        epilogue = one("none", "gelu") if device == "npu2" else "none"
        return {"M": 4096, "K": one(64, 64, 64, 192), "num_batches": 2, "repeat": one(1, 2), "epilogue": epilogue,
                "kernel_vector_size": one(None, 16, 32, 64)}  # fmt: skip
    if op == "GEMM":
        return {
            "M": 512, "K": one(64, 64, 192, 512), "N": 256, "tile_m": 16, "tile_k": one(16, 32, 64), "tile_n": 16,
            "num_aie_columns": 1, "prio_accuracy": one(True, False), "round_conv_even": one(True, False),
            "emulate_bf16_mmul_with_bfp16": one(True, False), "b_col_maj": one(True, False),
            "c_col_maj": one(True, False), "epilogue": one("none", "gelu"),
        }  # fmt: skip
    if op == "Dequant":
        return {"size": _CALL, "tile_size": one(64, 1024, 4096), "group_size": 32}
    if op == "DepthwiseConv1d":
        return {"rows": _CALL // 256, "channels": 256, "num_aie_columns": 1}
    if op == "GQAContext":
        return {"groups": 32, "heads_per_group": one(1, 4, 8), "seq_len": one(64, 192, 512)}
    if op == "DualGEMVSiLUMul":
        return {"M": 4096, "K": one(64, 64, 64, 192), "num_aie_columns": 1, "tile_size_output": 16}
    if op == "WeightedRMSNorm":
        return {"rows": rows, "tile_size": width}
    if op == "FusedQKVProj":
        return {"embedding_dim": width, "q_dim": 2048, "k_dim": 1024, "v_dim": 1024, "num_aie_columns": 1}
    if op == "MHA":
        return {"num_heads": 4, "seq_len": one(50, 128, 300), "num_KV_heads": one(1, 2, 4),
                "heads_interleaved": one(True, False)}  # fmt: skip
    extra = {"AXPY": {"scalar_factor": float(r.uniform(-5, 5))}, "Clamp": {"low": -0.3, "high": 1.7}}
    extra["Pointwise"] = {"mode": one("add", "mul", "gelu")}
    extra["LeakyReLU"] = {"alpha": float(r.uniform(0, 0.5))}
    return {"size": _CALL, **extra.get(op, {})}


def held(op: str, device: str, elements: int) -> Iterator[tuple[int, list[int], int]]:
    """(elements, outside of each bound, unbounded) of one call after another."""
    r, done = np.random.default_rng([len(op), DEVICES.index(device)]), 0
    while done < elements:
        params, kinds, mode = drawn(op, device, r), list(r.choice(KINDS, 2)), str(r.choice(MODES))
        numerics, given, inputs, actual = run(op, device, params, kinds, int(r.integers(1 << 30)), mode)
        models = numerics.models(given, device)
        mine = [m for m in models if len(models) == 1 or m.rounding == mode]
        found, free = [], 0
        with np.errstate(all="ignore"):
            for level, of in (("P", models), ("P", None), ("M", mine)):
                try:
                    one = bound(numerics, given, inputs, {}, of or numerics.models(given, None), level)
                except UsageError:  # no kernel on another device
                    found.append(0)
                    continue
                bad = outside(one, actual)
                if level == "P" and bad.any():  # as a replay does: conversion errors of a constant operand add up
                    for model in models:
                        bad &= outside(bound(numerics, given, inputs, {}, [model], "M"), actual)
                found.append(int(bad.sum()))
                free = free or int((np.isinf(one.lo) & np.isinf(one.hi) & (one.lo != one.hi)).sum())
        if any(found):
            print("OUTSIDE", op, device, params, kinds, mode, found, flush=True)
        done += actual.size
        yield actual.size, found, free


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("elements", type=float)
    parser.add_argument("operators", nargs="*")
    options = parser.parse_args()
    names = options.operators or [spec.type for spec in refs.specs() if spec.numerics is not None]
    alarms = 0
    for op in names:
        numerics = refs.lookup(op).numerics  # type: ignore[union-attr]
        for device in numerics.devices:
            begin, total, free, outs = time.monotonic(), 0, 0, np.zeros(3, np.int64)
            for size, found, unbounded in held(op, device, int(options.elements)):
                total, free, outs = total + size, free + unbounded, outs + found
            alarms += int(outs.sum())
            print(f"{op} {device}: {total:,} elements, outside {outs[0]}, as arrays {outs[1]}, its model {outs[2]}; "
                  f"{free / total:.0%} unbounded; {time.monotonic() - begin:.0f} s", flush=True)  # fmt: skip
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
