#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Faults of the software NPU in random steps of whole models: are the step, the cause and the place named?

Every kind of fault is injected into every operator type it can apply to, in random steps of a 16-layer llama decode of
small width and (where its weights are installed) of the MiniLM encoder. Each injection is a recording of its own,
compared with the clean recording and replayed against the references. One counts where it changed bits of an output.
Figures are those of the software NPU.

    scripts/injections.py --count 500 --seed 1 [--json FILE] [--models llama,minilm] [--diff-every N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

import fusion_replay as fr
from fusion_replay.diverge import pairwise
from fusion_replay.diverge.diff import diff
from fusion_replay.diverge.evidence import Evidence
from fusion_replay.diverge.explain import explain
from fusion_replay.diverge.rounding import rounds
from fusion_replay.errors import FusionReplayError
from fusion_replay.replaying.judge import Evaluation, Plan, evaluate_step
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.faults import parse_fault, runtime
from fusion_replay.simulator.faults.catalogue import STEP_KINDS
from fusion_replay.simulator.workloads import find

GROSS = ("zeros", "unwritten", "stale", "shift", "swap-columns", "batch", "drop-tile", "nan")
STATUS = ("timeout", "hang")
EXPECTED = {
    "zeros": "zeros",
    "unwritten": "never-written",
    "stale": "stale-input",
    "shift": "shifted",
    "swap-columns": "columns-swapped",
    "batch": "batch-repeated",
    "drop-tile": "dropped-tile",
    "truncate-scalar": "truncated-scalar",
    "rounding-leak": "rounding",
    "bitflip": "bit-flip",
    "nan": "nan",
    "nondeterministic": "nondeterministic",
}
"""Kind of fault -> the cause that it is."""
SAME = {"never-written": ("dropped-tile",), "dropped-tile": ("never-written",), "stale-input": ("stale-output",)}
"""Other names for what it did."""
REPEATS = (7, 8, 9)
"""Seeds of the runs by which a fault that falls elsewhere each time is told."""
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"workload": "llama-decode", "options": {"config": "narrow", "tokens": 2, "position": 5}},
    "minilm": {"workload": "minilm", "options": {}},
    "tiny": {
        "workload": "llama-decode",
        "options": {"config": "tiny", "context": 64, "tokens": 2, "position": 5, "layers": 1},
    },
}


@dataclass
class Outcome:
    """One injection. ``first``: where the recordings part; ``introduced``, ``suspects``: all that ``diff`` lists so;
    ``changed``: is its output beyond the step's tolerance of the clean one; ``named``: the first cause against the
    clean recording, with ``grade`` and ``rivals``; ``beyond``: does ``replay`` of it fail; ``replayed``: the cause
    against the reference, with ``replay_grade``; ``place``: None where it is not confined to a column or tile."""

    model: str
    op: str
    kind: str
    fault: str
    address: str
    counted: bool = False
    first: str | None = None
    step_named: bool = False
    diff_named: bool | None = None
    introduced: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()
    changed: bool | None = None
    named: str | None = None
    grade: str = ""
    rivals: tuple[str, ...] = ()
    detail: str = ""
    verdict: str = ""  # right, rival, located, wrong
    beyond: bool | None = None
    replayed: str | None = None
    replay_grade: str = ""
    replay_verdict: str = ""
    seconds: float = 0.0
    place: bool | None = None
    leak: bool | None = None


class Model:
    """One model: its clean recording, and injections into it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.workload = find(MODELS[name]["workload"])
        self.clean_path = folder / f"{name}-clean.h5"
        run = self.build(())
        self.steps = run.callable.op.steps
        self.invocations = run.invocations
        with fr.record(self.clean_path, run.callable, if_exists="replace"):
            run.execute()
        report = fr.replay(self.clean_path)
        assert report.passed, report
        self.clean = fr.open(self.clean_path)
        self.digests = digests(self.clean)
        self.evaluated: dict[str, Any] = {}

    def build(self, faults: Sequence[str], seed: int | None = None) -> Any:
        run = self.workload.build("npu2", faults, MODELS[self.name]["options"])
        if seed is not None:
            run.callable.npu.seed = seed  # of the faults' own choices; the weights have theirs
        return run

    def applicable(self) -> dict[tuple[str, str], list[int]]:
        """(operator type, kind) -> steps of the runlist that it can strike."""
        found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for step in self.steps:
            for kind in STEP_KINDS.values():
                alone = kind.name in EXPECTED or kind.name in STATUS  # others need a fusion
                if alone and kind.refuses(parse_fault(f"0:{step.index}:{kind.name}"), step) is None:
                    found[step.spec.type, kind.name].append(step.index)
        return found

    def draw(self, kind: str, steps: list[int], rng: np.random.Generator) -> tuple[str, str]:
        """(fault, address): a random step and invocation, arguments at random where the kind takes some."""
        at = int(rng.choice(steps))
        # What is stale or kept needs something that was there before: mostly not the first token.
        invocation = int(rng.integers(self.invocations)) if rng.random() < 0.3 else self.invocations - 1
        step, text = self.steps[at], kind
        output = next(a for a in step.args if a.writes)
        if rng.random() < 0.5:
            text = arguments(kind, output.size, output.nbytes // output.size, step, rng)
        if STEP_KINDS[kind].refuses(parse_fault(f"{invocation}:{at}:{text}"), step) is not None:
            text = kind
        return f"{invocation}:{at}:{text}", f"{invocation}:{at}"

    def diff(self, outcome: Outcome, snapshot: Any) -> None:
        """Is the first step of which ``diff`` says that a difference was introduced there the first that differs?"""
        with mock.patch.object(pairwise, "evaluate_step", self._evaluated):
            steps = diff(self.clean, snapshot, workers=1).steps
        outcome.introduced = tuple(s.address for s in steps if s.kind == "introduced")
        outcome.suspects = tuple(s.address for s in steps if s.suspect)
        outcome.diff_named = outcome.introduced[:1] == (outcome.first,)
        verdicts = [o.verdict for s in steps if s.address == outcome.first for o in s.outputs]
        outcome.changed = any(not v for v in verdicts if v is not None)

    def _evaluated(self, step: Any, plan: Plan) -> Evaluation:
        """As diff does it, but the references of the clean recording are asked once and not for every injection."""
        if not any(step.sequence is sequence for sequence in self.clean.sequences):
            return evaluate_step(step, plan)
        if step.address not in self.evaluated:
            self.evaluated[step.address] = evaluate_step(step, plan)
        return self.evaluated[step.address]

    def inject(self, fault: str, kind: str, address: str, *, with_diff: bool = True) -> Outcome:
        op = self.steps[int(address.split(":")[1])].spec.type
        outcome = Outcome(self.name, op, kind, fault, address)
        path = self.folder / f"{self.name}-faulty.h5"
        if kind in STATUS:
            return self._status(outcome, fault, path, with_diff)
        record(self.build((fault,)), path)
        with fr.open(path) as snapshot:
            first = first_difference(self.clean, self.digests, snapshot)
            outcome.counted, outcome.first = first is not None, first
            if first is None:
                return outcome
            outcome.step_named = first == address or kind == "rounding-leak"
            if with_diff:
                self.diff(outcome, snapshot)
            repeats: tuple[Any, ...] = ()
            if kind == "nondeterministic":
                repeats = tuple(self._again(fault, first, seed) for seed in REPEATS)
            self._explain(outcome, snapshot, first, repeats)
            self._replay(outcome, path, snapshot, first)
        return outcome

    def _again(self, fault: str, address: str, seed: int) -> Any:
        """The step of another run on the same inputs, in which the fault falls elsewhere."""
        path = self.folder / f"{self.name}-again-{seed}.h5"
        record(self.build((fault,), seed), path)
        return fr.open(path)[address]

    def _status(self, outcome: Outcome, fault: str, path: Path, with_diff: bool) -> Outcome:
        record(self.build((fault,)), path)
        with fr.open(path) as snapshot:
            step = snapshot[outcome.address]
            outcome.counted, outcome.first = True, step.address
            outcome.named = step.status
            outcome.step_named = step.status != "complete"
            if with_diff:
                self.diff(outcome, snapshot)
            told = "TIMEOUT" in (step.error or "") if outcome.kind == "timeout" else True
            outcome.verdict = "right" if outcome.step_named and told else "wrong"
        return outcome

    def _explain(self, outcome: Outcome, snapshot: Any, first: str, repeats: tuple[Any, ...]) -> None:
        told = explain(snapshot[first], snapshot, self.clean[first], repeats=repeats)
        assert told is not None, "bits differ, and nothing was said"
        outcome.named, outcome.rivals = told.cause.name, told.cause.rivals
        outcome.grade, outcome.detail = told.cause.grade, f"{told.cause.detail}, {told.cause.where}"
        outcome.verdict = verdict(EXPECTED[outcome.kind], told.cause)
        outcome.place = self.place(outcome, told)
        if outcome.kind == "rounding-leak":
            outcome.leak = self.leak(outcome, snapshot, told)

    def _replay(self, outcome: Outcome, path: Path, snapshot: Any, first: str) -> None:
        """Everything before it is what the clean run did, which matches; so its own verdict decides."""
        try:
            report = fr.replay(snapshot, steps=first, workers=1)
        except FusionReplayError as error:  # a sampler's reference refuses NaN logits: said, not compared
            outcome.beyond, outcome.detail = None, f"{outcome.detail} (not compared: {error})"
            return
        outcome.beyond = not report.passed
        if outcome.beyond:
            begin = time.process_time()
            told = explain(snapshot[first], snapshot)
            outcome.seconds = time.process_time() - begin
            expected = "neighbour-data" if outcome.kind == "nondeterministic" else EXPECTED[outcome.kind]
            if told is not None:
                outcome.replayed, outcome.replay_grade = told.cause.name, told.cause.grade
                outcome.replay_verdict = verdict(expected, told.cause)

    def place(self, outcome: Outcome, told: Any) -> bool | None:
        """Is the column (or element) right, where the fault is confined to one? By formulas of its own."""
        kind, args = outcome.kind, outcome.fault.split(":")[3:]
        step = self.steps[int(outcome.address.split(":")[1])]
        where = told.where
        if kind in ("nan", "bitflip"):
            element = where.first
            if args and element != int(args[0]):
                return False
            return where.wrong == 1 and all(confined(step, element, r) in (None, i) for r, i in where.confined.items())
        if kind == "swap-columns" and where.level("column") is not None:
            a, b = (int(args[0]), int(args[1])) if args else (0, 1)
            return {p.index for p in where.level("column").parts} <= {a, b}
        if kind == "drop-tile":
            tile = own_tile(step)
            if tile is None:
                return None
            number = where.first // tile
            if args and number != int(args[0]):
                return False
            inside = where.last // tile == number
            return inside and confined(step, where.first, "column") in (None, where.confined.get("column"))
        return None

    def leak(self, outcome: Outcome, snapshot: Any, told: Any) -> bool:
        """The fault says that the kernel before the struck one left the mode: that one must be named, or lie in the
        stretch that is; and the first step that rounds from there on is the first affected."""
        if told.leak is None or told.leak.leaking is None:
            return outcome.address in ("0:0",)
        steps = Evidence(snapshot).before(snapshot[told.leak.affected])
        leaking = [s.address for s in steps]
        struck = outcome.address
        true = leaking[leaking.index(struck) + 1] if struck in leaking else leaking[0]
        since = told.leak.since or leaking[-1]
        named = leaking[: leaking.index(since) + 1]
        between = [] if struck not in leaking else steps[: leaking.index(struck) + 1]
        return true in named and not any(rounds(s) for s in between)


def arguments(kind: str, size: int, width: int, step: Any, rng: np.random.Generator) -> str:
    if kind == "shift":
        return f"shift:{int(rng.choice([b for b in (1, 16, 64, 512) if b < size] or [1]))}"
    if kind == "swap-columns":
        a, b = rng.choice(8, 2, replace=False)
        return f"swap-columns:{a}:{b}"
    if kind == "drop-tile":
        return f"drop-tile:{int(rng.integers(8))}"
    if kind == "bitflip":
        return f"bitflip:{int(rng.integers(size))}:{int(rng.integers(8 * width))}"
    if kind == "nan":
        return f"nan:{int(rng.integers(size))}"
    if kind == "stale":
        return f"stale:{int(rng.integers(sum(a.reads for a in step.args)))}"
    if kind == "truncate-scalar":
        return f"truncate-scalar:{int(rng.integers(1, 9))}"
    return kind


def own_tile(step: Any) -> int | None:
    """Elements of one tile that lie together, where the design says so and has several."""
    size = next(a.size for a in step.args if a.writes)
    for name in ("tile_size_output", "tile_size"):
        tile = getattr(step.params, name, None)
        if tile and tile < size:
            return int(tile)
    return None


def confined(step: Any, element: int, role: str) -> int | None:
    """Column of an element, for designs that give each column one run of a batch; None: not said here."""
    columns = getattr(step.params, "num_aie_columns", None)
    if role != "column" or not columns or step.spec.type in ("GEMM", "MHA", "Transpose"):
        return None
    size = next(a.size for a in step.args if a.writes) // (getattr(step.params, "num_batches", None) or 1)
    return element % size // (size // columns)


def verdict(expected: str, cause: Any) -> str:
    """ "located" where only a place was named: no answer, and none that is wrong."""
    names = (expected, *SAME.get(expected, ()))
    if cause.name in names:
        return "right"
    if any(r.split(" (")[0] in names for r in cause.rivals):
        return "rival"
    return "located" if cause.grade == "located" else "wrong"


def record(run: Any, path: Path) -> None:
    """What a fault raises is part of the recording. A hang is interrupted as soon as it hangs, as a watchdog would."""

    def stop(_seconds: float) -> None:
        raise TimeoutError("the run hung and was stopped")

    asleep = mock.patch.object(runtime, "time", SimpleNamespace(sleep=stop))
    ends = suppress(HostRuntimeError, TimeoutError)
    with asleep, ends, fr.record(path, run.callable, if_exists="replace"):
        run.execute()


def digests(snapshot: Any) -> dict[str, tuple[str | None, ...]]:
    return {s.address: tuple(t.digest for t in s.outputs.values()) for s in snapshot.steps()}


def first_difference(clean: Any, known: dict[str, tuple[str | None, ...]], snapshot: Any) -> str | None:
    """By digests alone, without alignment or dataflow: what ``diff`` must find."""
    for step in snapshot.steps():
        if known[step.address] != tuple(t.digest for t in step.outputs.values()):
            return str(step.address)
    return None


def plan(models: Sequence[Model], count: int, seed: int) -> Iterator[tuple[Model, str, str, str]]:
    """Every (model, operator type, kind) in turn, in an order drawn by the seed, until there are ``count``."""
    rng = np.random.default_rng(seed)
    cells = [(m, op, kind, steps) for m in models for (op, kind), steps in m.applicable().items()]
    given = 0
    while given < count:
        order = rng.permutation(len(cells))
        for model, _, kind, steps in (cells[i] for i in order):
            fault, address = model.draw(kind, steps, rng)
            yield model, kind, fault, address
            given += 1
            if given == count:
                return


def report(outcomes: list[Outcome], seconds: float) -> str:
    counted = [o for o in outcomes if o.counted]
    content = [o for o in counted if o.kind not in STATUS]
    asked = [o for o in counted if o.diff_named is not None]
    beyond = [o for o in content if o.beyond]
    gross = [o for o in content if o.kind in GROSS and o.beyond is not None]
    share = sum(bool(o.beyond) for o in gross) / len(gross) if gross else 0.0
    placed = [o for o in content if o.place is not None]
    leaks = [o for o in content if o.leak is not None]
    right, rival, located = (sum(o.verdict == v for o in counted) for v in ("right", "rival", "located"))
    proofs = [o for o in content if (o.grade, o.verdict) == ("proved", "wrong")]
    proofs += [o for o in beyond if (o.replay_grade, o.replay_verdict) == ("proved", "wrong") and o not in proofs]
    slowest = max((o.seconds for o in content), default=0.0)
    lines = [
        f"{len(outcomes)} injections on the software NPU in {seconds:.0f} s, {len(counted)} changed an output",
        f"first step of other digests is the struck one (of a leak: the first that rounds from there on): "
        f"{sum(o.step_named for o in counted)} of {len(counted)}",
        f"diff names it: {sum(bool(o.diff_named) for o in asked)} of {len(asked)} asked",
        f"beyond the step's tolerance: {len(beyond)} of {len(content)}; of the gross kinds {share:.1%} of {len(gross)}",
        f"cause named: {right} right, {rival} as a rival that the output cannot tell from it, {located} a place alone, "
        f"{len(counted) - right - rival - located} wrong: {(right + rival) / max(len(counted), 1):.1%}",
        f"wrong and graded proved: {len(proofs)}{''.join(f'; {o.fault} {o.named} {o.replayed}' for o in proofs)}",
        f"column, tile or element right: {sum(bool(o.place) for o in placed)} of {len(placed)}",
        f"rounding leak, both steps right: {sum(bool(o.leak) for o in leaks)} of {len(leaks)}",
        f"replay alone, cause named: {sum(o.replay_verdict in ('right', 'rival') for o in beyond)} of {len(beyond)}; "
        f"the slowest search took {slowest:.1f} s of CPU",
        "",
        f"{'kind':17}{'counted':>8}{'step':>6}{'beyond':>8}{'right':>7}{'rival':>7}{'place':>7}{'wrong':>7}"
        "  named instead",
    ]
    for kind in STEP_KINDS:
        of = [o for o in counted if o.kind == kind]
        if of:
            other = Counter(o.named or "none" for o in of if o.verdict != "right")
            verdicts = [sum(o.verdict == v for o in of) for v in ("right", "rival", "located", "wrong")]
            named, past = sum(o.step_named for o in of), sum(bool(o.beyond) for o in of)
            cells = "".join(f"{n:>7}" for n in verdicts)
            instead = ", ".join(f"{n} {c}" for n, c in other.most_common())
            lines.append(f"{kind:17}{len(of):>8}{named:>6}{past:>8}{cells}  {instead}")
    return "\n".join(lines)


def run(
    count: int,
    seed: int,
    models: Sequence[str],
    folder: Path,
    *,
    diff_every: int = 1,
    progress: bool = False,
    log: Path | None = None,
    skip: int = 0,
) -> list[Outcome]:
    """``log``: every outcome as it comes, a line each; what is there already is not done again. ``skip``: as many
    of the plan are left out at its beginning."""
    made = [Model(name, folder) for name in models]
    outcomes = [] if log is None or not log.exists() else [Outcome(**json.loads(o)) for o in log.open(encoding="utf-8")]
    planned = islice(plan(made, skip + count, seed), skip, None)
    for number, (model, kind, fault, address) in enumerate(planned):
        if number < len(outcomes):
            if (outcomes[number].model, outcomes[number].fault) != (model.name, fault):
                raise FusionReplayError(f"{log}: line {number + 1} is {outcomes[number].fault}, expected {fault}")
            continue
        outcomes.append(model.inject(fault, kind, address, with_diff=number % diff_every == 0))
        o = outcomes[-1]
        if log is not None:
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(o)) + "\n")
        if progress:
            print(number, o.model, o.op, o.fault, o.counted, o.verdict, o.named, o.grade, o.rivals, o.beyond,
                  o.replay_verdict, o.replayed, o.replay_grade, round(o.seconds, 2), o.place, o.leak, flush=True,
                  file=sys.stderr)  # fmt: skip
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Inject faults into whole models; are step, cause and place named?")
    parser.add_argument("--count", type=int, default=500, help="injections")
    parser.add_argument("--seed", type=int, default=1, help="of steps and arguments")
    parser.add_argument("--models", default="llama,minilm", help="of llama, minilm, tiny (one layer, cheap)")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first N of those drawn (to share the work)")
    parser.add_argument("--json", type=Path, help="append every outcome to this file, one a line")
    parser.add_argument("--diff-every", type=int, default=1, help="ask diff about every Nth (it takes longest)")
    parser.add_argument("-v", "--verbose", action="store_true", help="one line per injection on stderr")
    options = parser.parse_args()
    folder, begin = Path(tempfile.mkdtemp(prefix="injections_")), time.monotonic()
    try:
        models = options.models.split(",")
        every, verbose = options.diff_every, options.verbose
        outcomes = run(
            options.count,
            options.seed,
            models,
            folder,
            diff_every=every,
            progress=verbose,
            log=options.json,
            skip=options.skip,
        )
    finally:
        shutil.rmtree(folder)
    print(report(outcomes, time.monotonic() - begin))
    wrong = sum(o.counted and (o.verdict == "wrong" or not o.step_named or o.diff_named is False) for o in outcomes)
    return 0 if wrong <= 0.05 * len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
