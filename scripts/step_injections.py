#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults put into single steps of all operators: is the step found, and is its cause named right, or not at all?

Small steps, each on inputs of its own, run on the software NPU, both devices; half of them are struck by a fault and
half are honest. ``injections.py`` breaks whole models by what breaks runlists (stale, unwritten, leaking modes); this
breaks what a kernel computes, in as many ways as operators have. A cause that is graded proved and wrong is a defect,
and so is any cause on an honest step. Figures are those of the software NPU.

    scripts/step_injections.py --count 600 --seed 1 [--kinds KIND,...] [-v]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from step_faults import BLIND, KINDS, OPERATORS, Fault, drawn, inputs_of

import fusion_replay as fr
from fusion_replay.diverge.explain import explain_step
from fusion_replay.simulator import simulate
from fusion_replay.simulator.kernels import builtin_kernels, user_kernels
from fusion_replay.simulator.kernels._base import Kernel
from fusion_replay.simulator.operators import operator_class

_STEPS = 12  # of one recording


@dataclass
class Outcome:
    """One step. ``kind``: "" where it is honest; ``beyond``: reported as a mismatch or outside its bound."""

    op: str
    kind: str
    told: str
    changed: bool
    beyond: bool
    named: str = ""
    grade: str = ""
    rivals: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0
    expected: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        if self.kind in BLIND:
            return "wrong" if self.grade == "proved" and self.named not in self.expected else "right"
        if self.named in self.expected:
            return "right"
        if any(r.split(" (")[0] in self.expected for r in self.rivals):
            return "rival"
        return "located" if self.grade in ("located", "") else "wrong"


def batch(rng: np.random.Generator, folder: Path, kinds: Sequence[str]) -> list[Outcome]:
    """One recording."""
    device = str(rng.choice(["npu1", "npu2"]))
    steps, struck = [], {}
    for index in range(_STEPS):
        kind = kinds[rng.integers(len(kinds))] if index % 2 else ""
        ops = [op for op in builtin_kernels() if (device == "npu2" or op != "MHA") and _fits(kind, op)]
        op = ops[rng.integers(len(ops))]
        fault = None
        for _ in range(20):  # until the kind finds something to do in what was drawn
            params, scale = drawn(op, device, rng)
            given = inputs_of(op, params, rng, scale)
            fault = KINDS[kind].make(op, params, given, rng, device) if kind else None
            if fault is not None or not kind:
                break
        steps.append((op, params, given))
        if fault is not None:
            struck[index] = (kind, fault)
    runlist = [(operator_class(op)(**p), *(f"{n}_{i}" for n in _names(op, p))) for i, (op, p, _) in enumerate(steps)]
    changed: dict[int, bool] = {}
    with mock.patch.dict(user_kernels(), {op: _struck(op, struck, changed) for op, _, _ in steps}):
        run = simulate(runlist, device)
        for i, (op, params, given) in enumerate(steps):
            for name, array in zip(_names(op, params, True), given, strict=True):
                buffer = run.get_buffer(f"{name}_{i}")
                with buffer.mutate() as held:
                    held.reshape(-1).view(np.uint8)[: array.nbytes] = array.reshape(-1).view(np.uint8)
                buffer.to("npu")
        path = folder / "steps.h5"
        with fr.record(path, run, if_exists="replace"):
            run()
    return list(_judged(path, steps, struck, changed))


def _judged(path: Path, steps: Any, struck: Any, changed: dict[int, bool]) -> Any:
    with fr.open(path) as snapshot:
        for report in fr.replay(snapshot, workers=1).steps:
            kind, fault = struck.get(report.index, ("", Fault("", ())))
            beyond = not report or report.outside is not None
            out = Outcome(steps[report.index][0], kind, fault.told, changed.get(report.index, False), beyond,
                          expected=fault.names)  # fmt: skip
            if beyond:
                begin = time.process_time()
                told = explain_step(snapshot, report)
                out.seconds = time.process_time() - begin
                if told is not None:
                    c = told.cause
                    out.named, out.grade, out.rivals = c.name, c.grade, c.rivals
                    out.detail = "; ".join(map(str, told.causes))
            yield out


def _names(op: str, params: Any, reads: bool = False) -> list[str]:
    spec = operator_class(op).spec
    return [a.name for a in spec.arg_specs(params) if a.reads or not reads]


def _fits(kind: str, op: str) -> bool:
    return op in OPERATORS and (not kind or KINDS[kind].ops is None or op in KINDS[kind].ops)


def _struck(op: str, struck: Any, changed: dict[int, bool]) -> Kernel:
    own = builtin_kernels()[op]

    def compute(d: Any) -> Any:
        out = own.compute(d)
        if d.step in struck:
            wrong = struck[d.step][1].apply(own, d, out[0].reshape(-1).copy())
            changed[d.step] = not np.array_equal(wrong.view(np.uint8), out[0].reshape(-1).view(np.uint8))
            out = [wrong]
        return out

    return Kernel(op, compute, lambda _p, _core: None, own.note, own.source)


def report(outcomes: list[Outcome]) -> str:
    honest = [o for o in outcomes if not o.kind]
    done = [o for o in outcomes if o.kind and o.changed]
    beyond = [o for o in done if o.beyond]
    known = [o for o in beyond if o.kind not in BLIND and o.expected]
    good = sum(o.verdict in ("right", "rival") for o in known)
    proofs = [o for o in beyond if o.grade == "proved" and o.named not in o.expected]
    lines = [
        f"{len(honest)} honest steps, {sum(o.beyond for o in honest)} reported; {len(done)} faults changed an output, "
        f"{len(beyond)} lie outside the bound",
        f"cause that can be told: {good} of {len(known)} right among those named ({good / max(1, len(known)):.1%})",
        f"of kinds that no hypothesis was written for: {sum(o.kind in BLIND for o in beyond)}",
        f"wrong and graded proved: {len(proofs)}",
        *(f"   {o.op} {o.kind}: {o.told} -> {o.detail}" for o in proofs),
        f"slowest search {max((o.seconds for o in beyond), default=0):.2f} s of CPU",
        f"{'kind':22}{'struck':>7}{'outside':>8}{'right':>7}{'rival':>7}{'place':>7}{'wrong':>7}  named instead",
    ]
    for kind in KINDS:
        of = [o for o in done if o.kind == kind]
        out = [o for o in of if o.beyond]
        if of:
            v = Counter(o.verdict for o in out)
            other = Counter(f"{o.named} {o.grade}" for o in out if o.verdict not in ("right", "rival"))
            cells = "".join(f"{v[n]:>7}" for n in ("right", "rival", "located", "wrong"))
            lines.append(
                f"{kind:22}{len(of):>7}{len(out):>8}{cells}  {', '.join(f'{n} {c}' for n, c in other.items())}"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=600, help="faults that change an output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="of these alone, with commas")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each fault that was not named")
    options = parser.parse_args()
    rng, outcomes = np.random.default_rng(options.seed), []
    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    with tempfile.TemporaryDirectory() as folder:
        while sum(bool(o.kind) and o.changed for o in outcomes) < options.count:
            for o in batch(rng, Path(folder), kinds):
                outcomes.append(o)
                bad = o.beyond if not o.kind else o.beyond and o.verdict not in ("right", "rival")
                if options.verbose and bad:
                    print(f"{o.op} {o.kind}: {o.told}\n    -> {o.detail}", file=sys.stderr, flush=True)
    print(report(outcomes))
    wrong = [o for o in outcomes if o.beyond and (not o.kind or (o.grade == "proved" and o.verdict == "wrong"))]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
