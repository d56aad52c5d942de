#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults that only fusion makes, in random steps of a 16-layer llama decode: are fusion, step and suspect named?

The separate run is recorded once. Each injection is a fused run of the same seed with one fault, compared with it
(``diff_fused``) and bisected (``bisect_fused``). Honest fused runs follow, every second one with folds that drop
roundings: nothing may be accused. Figures are those of the software NPU.

    scripts/fusions.py --count 100 --honest 50 --seed 1 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.simulator.faults import parse_fault
from fusion_replay.simulator.faults.catalogue import KINDS
from fusion_replay.simulator.workloads import find

OPTIONS = {"config": "narrow", "context": 64, "tokens": 2, "position": 8, "intermediates": "own"}
FUSED = {**OPTIONS, "dispatch": "fused"}
SUSPECT = {
    "alias-race": "in place",
    "reset-swallowed": "configuration",
    "offset-collision": "overlapping offsets",
    "dropped-copy": "dropped copy",
    "stale-value": "per-call value",
}
REPEATS = 2


@dataclass(frozen=True)
class Case:
    """One injection: what was said of it. ``told``: that the fusion is to blame; ``window``: it has the step in it."""

    fault: str
    kind: str
    told: bool
    says: str
    step: int | None
    window: tuple[int | None, int | None]
    located: bool
    suspect: str
    first: bool
    windows: int


def record(path: Path, faults: Sequence[str], **options: Any) -> None:
    run = find("llama-decode").build("npu2", list(faults), options)
    weights = path.parent / f"weights-{options.get('seed', 0)}.h5"
    given = {"whole_calls": True, "repeat_calls": REPEATS, "weights_in": weights, "if_exists": "replace"}
    with fr.record(path, run.callable, **given):
        run.execute()


def sequence(faults: Sequence[str], **options: Any) -> Any:
    return find("llama-decode").build("npu2", list(faults), options).callable.op


def places(kind: str, rng: np.random.Generator, steps: Sequence[Any]) -> Iterator[int]:
    """Steps at which a fault of this kind can be, in random order."""
    for at in rng.permutation(len(steps)).tolist():
        fault = parse_fault(f"0:{at}:{kind}")
        if KINDS[kind].refuses(fault, steps[at]) is None and KINDS[kind].built_in(fault, steps):
            yield at


def injections(count: int, seed: int) -> Iterator[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    honest = sequence((), **FUSED)
    wells = {kind: places(kind, rng, honest.steps) for kind in SUSPECT}
    made = 0
    while made < count:
        kind = list(SUSPECT)[made % len(SUSPECT)]
        at = next(wells[kind])
        try:
            sequence([f"0:{at}:{kind}"], **FUSED)
        except UsageError:
            continue  # the plan has no buffer that this one could be laid over
        made += 1
        yield kind, at


def inject(kind: str, at: int, separate: Path, folder: Path) -> Case:
    fault = f"0:{at}:{kind}"
    record(folder / "fused.h5", [fault], **FUSED)
    said = fr.diff_fused(separate, folder / "fused.h5")
    bad = next((c.against for c in said.calls if c.state == "wrong"), None)
    found = fr.bisect_fused(sequence([fault], **FUSED), separate, invocation=bad, repeats=REPEATS)
    inside = found.first is not None and found.last is not None and found.first <= at <= found.last
    small = inside and found.last - found.first < 16 if inside and found.last is not None else False
    first = found.suspects[0] if found.suspects else None
    return Case(
        fault,
        kind,
        "the fusion is not" in said.sentence,
        said.kind,
        found.step,
        (found.first, found.last),
        found.step == at or bool(small),
        "" if first is None else first.kind,
        first is not None and first.kind == SUSPECT[kind] and first.step == at,
        len(found.windows),
    )


def honest(number: int, separate: Path, folder: Path) -> tuple[str, bool]:
    """What ``diff`` says of an honest fused run, and whether ``bisect --fused`` accuses anything."""
    seed = number // 2
    options = {**FUSED, "seed": seed, "folds": bool(number % 2)}
    if number % 2 == 0:
        record(separate, (), **{**OPTIONS, "seed": seed})
    record(folder / "fused.h5", (), **options)
    said = fr.diff_fused(separate, folder / "fused.h5")
    return said.kind, bool(fr.bisect_fused(sequence((), **options), separate, repeats=REPEATS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--honest", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.count:
            record(folder / "separate.h5", (), **OPTIONS)
        for kind, at in injections(given.count, given.seed):
            cases.append(inject(kind, at, folder / "separate.h5", folder))
            print(cases[-1], flush=True)
        clean = []
        for i in range(given.honest):
            clean.append(honest(i, folder / "honest.h5", folder))
            print(f"honest {i}: {clean[-1]}", flush=True)
    n = max(len(cases), 1)
    most = 2 * math.log2(626) + 6
    print(f"{len(cases)} injections: fusion named in {sum(c.told for c in cases)}, step or window in")
    print(f"  {sum(c.located for c in cases)} ({sum(c.located for c in cases) / n:.0%}), suspect first in", end=" ")
    print(f"{sum(c.first for c in cases)} ({sum(c.first for c in cases) / n:.0%})")
    print(f"windows: at most {max((c.windows for c in cases), default=0)} of {most:.1f} allowed")
    print(f"{len(clean)} honest fused runs: {dict(Counter(k for k, _ in clean))}, accused {sum(b for _, b in clean)}")
    if given.json is not None:
        given.json.write_text(json.dumps({"cases": [asdict(c) for c in cases], "honest": clean}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
