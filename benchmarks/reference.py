# SPDX-License-Identifier: Apache-2.0
"""What asking IRON's own references adds to a recorded token: ``python -m benchmarks.reference``.

A token of the tests' doubles of September's operators: layers of a product whose class the catalogue does not cover (a
FastFlowLM GEMM's), an activation and a product of elements that it does. The doubles compute in numpy, as their
references do, so that asking for every one of a token's references is as much work as the device has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fusion_replay as fr
from benchmarks.common import Candidate, finish, machine, measure, parser, scratch, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from iron_doubles import autumn, v6
from iron_doubles.operators import BF16

NEVER, ASKED, ALL = "--no-reference", "the uncovered ones", "--with-reference"
PLAIN, ALONE = "unrecorded", "the uncovered references alone"
CHOICES = {NEVER: False, ASKED: None, ALL: True}


def token(layers: int, width: int) -> v6.StepCallable:
    silu, mul = autumn.SiLU(size=width), autumn.ElementwiseMul(size=width)
    product = autumn.PackedGEMM(M=1, K=width, N=width)
    runlist = []
    for i in range(layers):
        runlist += [(product, "x", f"W{i}", "h"), (silu, "h", "a"), (mul, "a", "x", "x")]
    callable_ = v6.OperatorSequence("token", runlist, ["x"], ["x"], {}).compile().get_callable()
    rng = np.random.default_rng(1)
    for name in ("x", *(f"W{i}" for i in range(layers))):
        view = callable_.get_buffer(name).numpy_view().reshape(-1)
        view[:] = (rng.standard_normal(view.size, np.float32) / width).astype(BF16)
    return callable_


def recorded(choice: str, layers: int, width: int, tokens: int) -> Candidate:
    def run(folder: Path) -> dict[str, float]:
        callable_ = token(layers, width)
        if choice == PLAIN:
            callable_()
            return timed(callable_, tokens)
        with fr.record(folder / "r.h5", callable_, with_reference=CHOICES[choice]):
            callable_()  # the weights are written once
            return timed(callable_, tokens)

    return run


def alone(layers: int, width: int, tokens: int) -> Candidate:
    def run(_folder: Path) -> dict[str, float]:
        asked = []
        for op, _, _, args in token(layers, width)._steps[::3]:
            asked.append((op, [x.numpy().copy().reshape(b.shape) for x, b in zip(args, op.inputs, strict=False)]))
        return timed(lambda: [op.reference(*inputs) for op, inputs in asked], tokens)

    return run


def timed(work: Callable[[], object], times: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return {"token": (time.perf_counter() - wall) / times, "token cpu": (time.process_time() - cpu) / times}


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    layers, width, tokens = (2, 64, 1) if options.tiny else (8, 1024, 6)
    with scratch(options) as name:
        candidates: dict[str, Candidate] = {c: recorded(c, layers, width, tokens) for c in (PLAIN, *CHOICES)}
        candidates[ALONE] = alone(layers, width, tokens)
        results = measure(candidates, options.rounds, Path(name))
    print(machine())
    rows = [[n, *(f"{results.median(n, what) * 1e3:.2f}" for what in ("token", "token cpu"))] for n in results.runs]
    print(table(["", "ms a token", "CPU ms"], rows))
    summary = {
        f"share of a recorded token{', CPU' if what != 'token' else ''}, {choice}": 1
        - results.ratio(NEVER, choice, what, what)
        for choice in (ASKED, ALL)
        for what in ("token", "token cpu")
    }
    finish(options, results, summary)


if __name__ == "__main__":
    main()
