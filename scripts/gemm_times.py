#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The references of the GEMM part of IRON's CI matrix: numpy's time against torch's, and elements that differ.

    scripts/gemm_times.py                  # torch on CUDA; says "not run" where there is none
    scripts/gemm_times.py --device cpu

Each product runs once to warm up and is then timed, copies to and from the device not included. Exits 1 where more than
one element in a thousand differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fusion_replay.model.arrays import to_torch
from fusion_replay.model.bf16 import BFLOAT16, Array
from fusion_replay.refs import find, reference
from fusion_replay.simulator.operators import parameters_of
from fusion_replay.simulator.workloads.draws import contents
from fusion_replay.simulator.workloads.matrix import cases

MOST_DIFFERING = 1e-3


def products(only: str) -> dict[str, dict[str, Any]]:
    """Name of the parameter set -> parameters of its GEMM, one of those that mean the same product."""
    found: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}
    for case in cases(only=only):
        params = parameters_of(case.build().callable.op.steps[0].op)
        means = tuple(params[p.name] for p in find("GEMM").params if p.decides)
        found.setdefault(means, (case.name, params))
    return dict(found.values())


def timed(params: dict[str, Any], inputs: Sequence[Array], device: str | None) -> tuple[float, Array]:
    """Seconds of the second of two runs, and its result."""
    seconds, out = 0.0, inputs[0]
    for _ in range(2):
        _settle(device)
        begin = time.perf_counter()
        (out,) = reference("GEMM", params, inputs, "iron-2026-09")
        _settle(device)
        seconds = time.perf_counter() - begin
    return seconds, out


def _settle(device: str | None) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="gemm", help="one parameter set, by its name")
    chosen = parser.parse_args(words)
    import torch

    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("not run: torch finds no CUDA device here")
        return 0
    worst, total = 0.0, [0.0, 0.0]
    for name, params in products(chosen.only).items():
        rng = np.random.default_rng(0)
        inputs = [contents("GEMM", params, a, rng).view(BFLOAT16) for a in find("GEMM").arg_specs(params) if a.reads]
        ours_s, ours = timed(params, inputs, None)
        theirs_s, theirs = timed(params, [to_torch(x, chosen.device) for x in inputs], chosen.device)
        differ = int((ours.view(np.int16) != theirs.cpu().view(torch.int16).numpy()).sum())
        print(
            f"{name}: numpy {ours_s * 1e3:.1f} ms, torch on {chosen.device} {theirs_s * 1e3:.1f} ms, "
            f"{differ} of {ours.size} elements differ"
        )
        worst = max(worst, differ / ours.size)
        total = [total[0] + ours_s, total[1] + theirs_s]
    print(f"all: numpy {total[0]:.2f} s, torch on {chosen.device} {total[1]:.2f} s")
    return int(worst > MOST_DIFFERING)


if __name__ == "__main__":
    sys.exit(main())
