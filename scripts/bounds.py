# SPDX-License-Identifier: Apache-2.0
"""How tight bounds are and what they find: python scripts/bounds.py RECORDING... prints a table.

For each operator the median number of bf16 values that its hand-set tolerance (T), its bound (B) and its own device
model (M) accept, and the share of single elements that each finds when one element is off by a share of itself or one
of its bits is flipped. Elements are drawn from the recordings, seeded. The figures are about the software NPU.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.compare.blocks import Blocks
from fusion_replay.compare.numerics.evaluator import Bound, bound
from fusion_replay.compare.numerics.intervals import even_bf16, places
from fusion_replay.compare.rules import rule_for
from fusion_replay.model.bf16 import BFLOAT16, bits_to_float32
from fusion_replay.operators import runtime_values
from fusion_replay.replaying.judge import Plan, evaluate_step, judge
from fusion_replay.snapshot import open_snapshot

SHARES = tuple(2.0**-n for n in range(2, 9))
FACTORS = (1.01, 1.004)
DRAWN = 400  # elements of one step


@dataclass
class Tally:
    """Of one operator on one device."""

    steps: int = 0
    elements: int = 0
    outside: int = 0
    widths: dict[str, list[npt.NDArray[Any]]] = field(default_factory=lambda: defaultdict(list))
    found: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+")
    parser.add_argument(
        "--flips", type=int, default=0, help="so many draws per bit: one bit of one element of one step"
    )
    options = parser.parse_args()
    if options.flips:
        for path in options.recordings:
            print("\n".join(_flips(path, options.flips)))
        return 0
    tallies: dict[tuple[str, str], Tally] = defaultdict(Tally)
    for path in options.recordings:
        for key, judged in _steps(path):
            _add(tallies[key], *judged)
    for line in _lines(tallies):
        print(line)
    return 0


def _steps(path: str) -> Iterator[tuple[tuple[str, str], tuple[Any, ...]]]:
    plan = Plan()
    with open_snapshot(path) as snapshot:
        for step in snapshot.steps():
            spec = refs.lookup(step.op.type)
            if spec is None or spec.numerics is None or step.status != "complete":
                continue
            device = step.sequence.origin["device"]
            evaluation = evaluate_step(step, plan)
            params = spec.bind(step.op.params)
            values = runtime_values(spec, params, step.values)
            models = spec.numerics.models(params, device)
            each = [bound(spec.numerics, params, evaluation.given, values, [m], "M") for m in models]
            inside = bound(spec.numerics, params, evaluation.given, values, models, "P")
            actual = step.outputs[0].numpy().reshape(-1)
            expected = evaluation.results[0].reshape(-1)
            own = min(each, key=lambda b: int(_outside(b, actual.astype(np.float32)).sum()))
            yield (spec.type, device), (actual, expected, plan.tolerance(step, spec), inside, own)


def _add(tally: Tally, actual: Any, expected: Any, tolerance: Any, inside: Bound, own: Bound) -> None:
    at = np.random.default_rng(tally.steps).choice(actual.size, min(DRAWN, actual.size), replace=False)
    tally.steps += 1
    tally.elements += actual.size
    tally.outside += int(_outside(inside, actual.astype(np.float32)).sum())
    known = np.isfinite(inside.lo) & np.isfinite(inside.hi)
    tally.widths["B"].append((places(inside.hi) - places(inside.lo) + 1)[known])
    tally.widths["M"].append((places(own.hi) - places(own.lo) + 1)[known])
    rule = rule_for("tolerance", actual, expected, tolerance=tolerance)
    tally.widths["T"].append(_accepted(rule, expected[at], expected))
    values = actual[at].astype(np.float32)
    for name, changed in _changes(values):
        moved = changed != values
        if not moved.any():
            continue
        for label, found in (("B", _outside(_part(inside, at), changed)), ("M", _outside(_part(own, at), changed))):
            tally.found[name, label].append(float(found[moved].mean()))
        failing = _failing(rule, changed.astype(BFLOAT16), expected[at])
        tally.found[name, "T"].append(float(failing[moved].mean()))


def _changes(values: npt.NDArray[np.float32]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    for share in SHARES:
        yield f"2^{int(np.log2(share))}", even_bf16(values * np.float32(1 + share))
    for factor in FACTORS:
        yield f"x{factor}", even_bf16(values * np.float32(factor))
    bits = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    for bit in range(16):
        yield f"bit {bit}", bits_to_float32(bits ^ np.uint16(1 << bit))


def _part(b: Bound, at: npt.NDArray[np.int64]) -> Bound:
    return Bound(b.lo[at], b.hi[at], b.models)


def _outside(b: Bound, x: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    free = np.isinf(b.lo) & np.isinf(b.hi) & (b.lo != b.hi)
    return ~(((b.lo <= x) & (x <= b.hi)) | free | (np.isnan(x) & np.isnan(b.lo)))


def _failing(rule: Any, actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        return np.asarray(rule.failing(Blocks(actual, expected).block(0)))


def _accepted(rule: Any, expected: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many bf16 values the tolerance accepts around each expected one, by trying them in both directions."""
    start = places(expected.astype(np.float32))
    counts = np.ones(start.size, np.int64)
    from fusion_replay.compare.numerics.intervals import at_places

    for way in (1, -1):
        reach = np.zeros(start.size, np.int64)
        step = 1 << 14
        while step:  # the furthest place that passes, by halving
            trial = reach + step
            value = at_places((start + way * trial).astype(np.int32)).astype(BFLOAT16)
            passes = ~_failing(rule, value, expected)
            reach = np.where(passes, trial, reach)
            step //= 2
        counts += reach
    return counts


def _flips(path: str, draws: int) -> Iterator[str]:
    """Share of the draws that a replay finds, by bit: by the tolerance alone, and by rule auto (here: the bound)."""
    plan, r, found = Plan(), np.random.default_rng(0), np.zeros((16, 2), np.int64)
    with open_snapshot(path) as snapshot:
        steps = [s for s in snapshot.steps() if s.status == "complete" and s.outputs[0].dtype == "bfloat16"]
        chosen = r.integers(len(steps), size=(16, draws))
        for number in np.unique(chosen):
            step, bits = steps[number], np.nonzero(chosen == number)[0]
            evaluation = evaluate_step(step, plan)
            actual = step.outputs[0].numpy()
            for bit in bits:
                wrong = actual.copy()
                wrong.reshape(-1).view(np.uint16)[r.integers(wrong.size)] ^= np.uint16(1 << bit)
                for i, rule in enumerate(("tolerance", "auto")):
                    found[bit, i] += not judge(step, Plan(rule), evaluation, [wrong])
    yield f"{path}: {draws} draws per bit over {len(steps):,} steps, share found"
    yield "| bit | " + " | ".join(map(str, range(16))) + " |"
    yield "|" + "---|" * 17
    for i, what in enumerate(("tolerance", "bound")):
        yield f"| {what} | " + " | ".join(f"{100 * n / draws:.0f}" for n in found[:, i]) + " |"


def _lines(tallies: dict[tuple[str, str], Tally]) -> Iterator[str]:
    names = [f"2^{int(np.log2(s))}" for s in SHARES] + [f"x{f}" for f in FACTORS]
    bits = [f"bit {n}" for n in range(16)]
    yield "| operator | device | steps | elements | outside | accepts T/B/M | " + " | ".join(names) + " |"
    yield "|" + "---|" * (6 + len(names))
    for (op, device), t in sorted(tallies.items()):
        accepts = "/".join(f"{np.median(np.concatenate(t.widths[k])):.0f}" for k in "TBM")
        cells = ["/".join(_percent(t.found.get((name, k))) for k in "TBM") for name in names]
        yield f"| {op} | {device} | {t.steps} | {t.elements:,} | {t.outside} | {accepts} | {' | '.join(cells)} |"
    yield ""
    yield "| operator | device | " + " | ".join(bits) + " |"
    yield "|" + "---|" * (2 + len(bits))
    for (op, device), t in sorted(tallies.items()):
        cells = ["/".join(_percent(t.found.get((name, k))) for k in "TBM") for name in bits]
        yield f"| {op} | {device} | {' | '.join(cells)} |"


def _percent(shares: list[float] | None) -> str:
    return "-" if not shares else f"{100 * np.mean(shares):.0f}"


if __name__ == "__main__":
    sys.exit(main())
