# SPDX-License-Identifier: Apache-2.0
"""Every kind of fault on every operator: what rule ``auto`` finds, and that it finds nothing in a clean run.

Each case is recorded with two calls on new inputs; a fault strikes the second, so that what it leaves behind are the
honest results of a call before it. An injection counts where it changed bits of an output.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import refs
from fusion_replay.errors import UsageError
from fusion_replay.simulator.faults.catalogue import STEP_KINDS
from fusion_replay.simulator.kernels import has_kernel
from fusion_replay.simulator.workloads import find

GROSS = ("zeros", "unwritten", "stale", "shift", "swap-columns", "batch", "drop-tile", "nan")
RAISING = {"timeout", "hang"}
FINE = tuple(sorted(set(STEP_KINDS) - set(GROSS) - RAISING))

STREAM = ("num_aie_columns=4", "tile_size=512")
BINARY = ("tile_size=256",)
CASES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ReLU", "GELU", "Sigmoid", "Tanh", "LeakyReLU", "Clamp", "AXPY", "Dequant"), STREAM),
    **dict.fromkeys(("ElementwiseAdd", "ElementwiseMul", "SiLU"), BINARY),
    "LayerNorm": ("num_aie_columns=4", "tile_size=128"),
    "RMSNorm": ("num_aie_columns=4", "tile_size=128"),
    "Softmax": ("num_aie_columns=4", "rows=32"),
    "RoPE": ("num_aie_columns=4",),
    "GEMV": ("num_batches=4", "num_aie_columns=4", "tile_size_output=16", "M=64", "K=256"),
    "GEMM": ("M=256", "K=128", "N=512"),
    "Transpose": ("num_batches=2", "num_aie_columns=2", "M=64", "N=128"),
    "MHA": ("num_pipelines=2", "seq_len=256"),
    "SiLUMul": STREAM,
    "WeightedRMSNorm": ("num_aie_columns=4", "tile_size=128"),
    "DepthwiseConv1d": ("num_aie_columns=4",),
    "DualGEMVSiLUMul": ("tile_size_output=16",),
    "Sample": ("steps=4",),
}
"""Parameters beside those of the ``op:`` workload, so that columns, batches and tiles exist to be spoiled."""
NOT_ON = {(op, "npu1") for op in ("FlowKVDecode", "MHA", "Pointwise")}
OPERATORS = sorted(s.type for s in refs.specs() if has_kernel(s.type))


@dataclass
class Tally:
    """Injections of one kind into one operator that changed bits, and how many of them were a mismatch."""

    counted: int = 0
    found: int = 0


def test_the_kinds_are_all_here() -> None:
    assert set(GROSS) | set(FINE) | RAISING == set(STEP_KINDS)
    assert set(CASES) <= set(OPERATORS)


class Bench:
    """One operator on one device: clean recordings by seed, and faulty ones judged against them."""

    def __init__(self, op: str, device: str, folder: Path) -> None:
        self.op, self.device, self.folder = op, device, folder
        self._clean: dict[int, list[str | None]] = {}

    def clean(self, seed: int) -> list[str | None]:
        """Digests of the second call's outputs; the whole clean run is judged on the way."""
        if seed not in self._clean:
            path = self._record((), seed)
            report = fr.replay(path, workers=1)
            assert report.passed, f"clean run of {self.op} on {self.device}, seed {seed}:\n{report}"
            assert report.compared == 2
            self._clean[seed] = _digests(path)
        return self._clean[seed]

    def inject(self, fault: str, seed: int) -> bool | None:
        """Whether the fault was a mismatch; None where it changed no bit of an output."""
        honest = self.clean(seed)
        path = self._record((f"1:0:{fault}",), seed)
        if _digests(path) == honest:
            return None
        return not fr.replay(path, steps="1:0", workers=1).passed

    def args(self) -> Any:
        return self._build((), 0).callable.op.steps[0]

    def _build(self, faults: tuple[str, ...], seed: int) -> Any:
        params = CASES.get(self.op, ())
        return find(f"op:{self.op}").build(self.device, faults, {"param": params, "calls": 2, "seed": seed})

    def _record(self, faults: tuple[str, ...], seed: int) -> Path:
        run = self._build(faults, seed)
        path = self.folder / f"{self.op}-{self.device}.h5"
        with fr.record(path, run.callable, if_exists="replace"):
            run.execute()
        return path


def _digests(path: Path) -> list[str | None]:
    with fr.open(path) as snap:
        return [t.digest for t in snap["1:0"].outputs.values()]


def injections(kind: str, bench: Bench, count: int, rng: np.random.Generator) -> Iterator[str]:
    """``count`` ways to spell the kind for this operator: the plain one, then with arguments drawn at random."""
    step = bench.args()
    size = next(a.size for a in step.args if a.writes)
    inputs = sum(a.reads for a in step.args)
    for i in range(count):
        text = kind
        if i and kind == "shift":
            text = f"shift:{int(rng.choice([b for b in (1, 16, 64, 512) if b < size] or [1]))}"
        elif i and kind == "drop-tile":
            text = f"drop-tile:{int(rng.integers(0, 4))}"
        elif i and kind == "swap-columns":
            a, b = rng.choice(4, 2, replace=False)
            text = f"swap-columns:{a}:{b}"
        elif i and kind in ("nan", "bitflip"):
            text = f"{kind}:{int(rng.integers(size))}"
        elif i and kind == "stale":
            text = f"stale:{int(rng.integers(inputs))}"
        yield text


def sweep(bench: Bench, kinds: tuple[str, ...], seeds: range, each: int) -> dict[str, Tally]:
    """Verdicts of all injections that the operator can suffer."""
    tallies: dict[str, Tally] = {}
    rng = np.random.default_rng([len(bench.op), *map(ord, bench.op)])
    for kind in kinds:
        for seed in seeds:
            for fault in injections(kind, bench, each, rng):
                try:
                    found = bench.inject(fault, seed)
                except UsageError as refused:
                    if "cannot apply" not in str(refused):
                        raise
                    continue
                if found is not None:
                    tally = tallies.setdefault(kind, Tally())
                    tally.counted += 1
                    tally.found += found
    return tallies


def assert_gross_faults_are_found(tallies: dict[str, Tally], what: str) -> None:
    gross = [t for kind, t in tallies.items() if kind in GROSS]
    counted, found = sum(t.counted for t in gross), sum(t.found for t in gross)
    assert counted >= 3, f"{what}: only {counted} injections changed anything"
    missed = {kind: f"{t.found} of {t.counted}" for kind, t in tallies.items() if t.found < t.counted and kind in GROSS}
    assert found >= 0.95 * counted, f"{what}: {found} of {counted} gross faults found; {missed}"


def device_in_turns(op: str) -> str:
    """Every second operator on npu1, where it has a design there: one device per operator in the short run."""
    return "npu1" if OPERATORS.index(op) % 2 and (op, "npu1") not in NOT_ON else "npu2"


@pytest.mark.parametrize(
    ("op", "device"),
    [
        pytest.param(op, device, marks=[] if device == device_in_turns(op) else pytest.mark.long)
        for op in OPERATORS
        for device in ("npu1", "npu2")
        if (op, device) not in NOT_ON
    ],
)
def test_clean_runs_match(op: str, device: str, tmp_path: Path) -> None:
    bench = Bench(op, device, tmp_path)
    assert bench.clean(1) != bench.clean(2)


@pytest.mark.parametrize("op", OPERATORS)
def test_gross_faults_are_mismatches(op: str, tmp_path: Path) -> None:
    device = device_in_turns(op)
    tallies = sweep(Bench(op, device, tmp_path), GROSS, range(1), 1)
    assert_gross_faults_are_found(tallies, f"{op} on {device}")


@pytest.mark.long
@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_full_sweep(device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, totals, too_few = [], Counter[str](), []
    for op in OPERATORS:
        if (op, device) in NOT_ON:
            continue
        bench = Bench(op, device, tmp_path)
        tallies = sweep(bench, GROSS, range(4), 4) | sweep(bench, FINE, range(4), 2)
        try:
            assert_gross_faults_are_found(tallies, f"{op} on {device}")
        except AssertionError as wrong:
            too_few.append(str(wrong))
        for kind, tally in tallies.items():
            totals[f"{kind} counted"] += tally.counted
            totals[f"{kind} found"] += tally.found
            if kind in FINE or tally.found < tally.counted:
                lines.append(f"{op:18}{kind:18}{tally.found:4} of {tally.counted:4} found")
    head = [f"{'all':18}{k:18}{totals[f'{k} found']:4} of {totals[f'{k} counted']:4} found" for k in (*GROSS, *FINE)]
    with capsys.disabled():  # on stderr, which pytest-xdist's workers share with their master
        print(f"\nFaults on {device}: every kind, then gross kinds not always found and the others", file=sys.stderr)
        print("\n".join([*head, *lines]), file=sys.stderr)
    assert not too_few, "\n".join(too_few)
