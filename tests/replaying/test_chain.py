# SPDX-License-Identifier: Apache-2.0
"""Mode cumulative: the chain of references against a byte-by-byte model, and whole sequences against hand results."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from fusion_replay import refs
from fusion_replay.model.runlist import ArgSpec, OperandUse
from fusion_replay.replaying.chain import Chain
from fusion_replay.simulator.operators import ElementwiseAdd, ElementwiseMul, ReLU, StridedCopy

BF16 = ml_dtypes.bfloat16


@dataclass(frozen=True)
class Tensor:
    """The part of a RecordedTensor that a chain looks at."""

    use: OperandUse
    content: bytes
    with_digest: bool = True

    @property
    def nbytes(self) -> int:
        return len(self.content)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.use.spec.shape

    @property
    def dtype(self) -> str:
        return self.use.spec.dtype

    @property
    def digest(self) -> str | None:
        return hashlib.sha256(self.content).hexdigest() if self.with_digest else None

    def numpy(self) -> np.ndarray:
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


def tensor(lo: int, content: bytes) -> Any:
    spec = ArgSpec("A", "inout", (len(content),), "uint8")
    return Tensor(OperandUse(spec, "b", lo, lo + len(content)), content, with_digest=len(content) % 2 == 0)


SIZE = 12
ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
small = st.integers(0, 2)  # few values, so that chance equality happens
actions = st.lists(
    st.tuples(
        st.sampled_from(["read", "write", "forget", "host", "next"]), ranges, st.lists(small, min_size=24, max_size=24)
    ),
    max_size=30,
)


def against_a_model_that_keeps_every_byte(script: list[tuple[str, tuple[int, int], list[int]]]) -> None:
    device = [7] * SIZE  # what the recording sees
    chained: list[int | None] = [None] * SIZE  # what references wrote
    written = [0] * SIZE  # what the device had there when they did
    known = [-1] * SIZE  # the invocation in which that was last known to hold
    invocation, chain = 0, Chain()
    for action, (lo, hi), numbers in script:
        span = range(lo, hi)
        if action == "next":
            invocation += 1
        elif action == "host":
            for i in span:
                device[i] = numbers[i]
        elif action == "forget":
            chain.forget(tensor(lo, bytes(device[lo:hi])))
            for i in span:
                chained[i] = None
        elif action == "write":
            for i in span:
                device[i], chained[i], written[i], known[i] = numbers[i], numbers[SIZE + i], numbers[i], invocation
            result = np.array([chained[i] for i in span], np.uint8)
            chain.write(invocation, tensor(lo, bytes(device[lo:hi])), result)
        else:
            old = [i for i in span if chained[i] is not None and known[i] < invocation]
            touched = any(device[i] != written[i] for i in old)
            for i in old:
                known[i] = invocation
                if touched:
                    chained[i] = None
            hoped = [device[i] if chained[i] is None else chained[i] for i in span]
            assert chain.read(invocation, tensor(lo, bytes(device[lo:hi]))).tolist() == hoped


test_the_chain_against_a_model_that_keeps_every_byte = settings(max_examples=settings().max_examples)(
    given(actions)(against_a_model_that_keeps_every_byte)
)
test_the_chain_against_the_model_in_many_more_histories = pytest.mark.long(
    settings(max_examples=2000)(given(actions)(against_a_model_that_keeps_every_byte))
)


def test_reading_never_changes_what_was_written() -> None:
    chain, result = Chain(), np.arange(8, dtype=np.uint8)
    chain.write(0, tensor(0, b"ABCDEFGH"), result)
    merged = chain.read(0, tensor(4, b"EFGHIJKL"))
    assert bytes(merged) == bytes([4, 5, 6, 7]) + b"IJKL"
    merged[:] = 0
    assert result.tolist() == list(range(8))


# --- whole sequences ------------------------------------------------------------------------------------------------

N = 64


def full(x: float) -> np.ndarray:
    return np.full(N, x, np.float32).astype(BF16)


def accumulate(path: Path, *, rewrite: bool, faults: tuple[str, ...] = ()) -> Path:
    """state += x * w, twice; between the calls the host changes x, and ``state`` too if ``rewrite``."""
    tiles = {"size": N, "tile_size": 16, "num_aie_columns": 4}
    runlist = [(ElementwiseMul(**tiles), "x", "w", "t"), (ElementwiseAdd(**tiles), "state", "t", "state"),
               (ReLU(size=N, num_aie_columns=4, num_channels=1, tile_size=16), "state", "y")]  # fmt: skip
    call = fr.simulate(runlist, device="npu2", faults=faults, input_args=["x"], output_args=["y"])
    call.get_buffer("w")[:] = full(1.0078125)  # 1 + 2**-7
    call.get_buffer("state")[:] = full(100.0)
    with fr.record(path, call):
        for turn, x in enumerate((1.0078125, 3.0)):
            call.get_buffer("x")[:] = full(x)
            if rewrite and turn:
                call.get_buffer("state")[:] = full(50.0)
            call()
    return path


def value(x: float) -> float:
    return float(np.float32(x).astype(BF16))


def test_isolated_and_cumulative_agree_on_the_first_step_only(tmp_path: Path) -> None:
    """The device under floor gives 1.0078125**2 one ULP low; chained, every later step inherits or hides that."""
    path = accumulate(tmp_path / "x.h5", rewrite=False)
    with fr.open(path) as snap:
        device = {s.address: float(s.outputs[0].numpy()[0]) for s in snap.steps()}
    first = value(1.0078125 * 1.0078125)
    state = value(100 + first)
    second = value(3 * 1.0078125)
    expected = {"0:0": first, "0:1": state, "0:2": state, "1:0": second, "1:1": value(state + second)}
    expected["1:2"] = expected["1:1"]
    report = fr.replay(path, mode="cumulative")
    for step in report.steps:
        assert step.stats.worst_actual == device[step.address]
        assert step.stats.worst_expected == expected[step.address], step.address
    assert [(f.invocation, f.buffer, f.address) for f in report.final] == [(0, "y", "0:2"), (1, "y", "1:2")]


def test_the_host_may_rewrite_a_carried_buffer_between_calls(tmp_path: Path) -> None:
    faults = ("0:1:nan",)  # the chain's own state of the first call is nothing like the device's
    report = fr.replay(accumulate(tmp_path / "x.h5", rewrite=True, faults=faults), mode="cumulative")
    by = {s.address: s for s in report.steps}
    assert not by["0:1"]
    assert by["1:1"].stats.worst_expected == value(50 + value(3 * 1.0078125))
    assert by["1:1"]


def test_an_error_of_the_device_stays_visible_in_the_chain_but_not_in_isolation(tmp_path: Path) -> None:
    path = accumulate(tmp_path / "x.h5", rewrite=False, faults=("0:0:zeros",))
    isolated = fr.replay(path)
    assert [s.address for s in isolated.mismatches] == ["0:0"]
    chained = fr.replay(path, mode="cumulative", rule="strict")
    state = value(100 + value(1.0078125**2))
    by = {s.address: s for s in chained.steps}
    assert by["0:2"].stats.worst_expected == state
    assert by["0:2"].stats.worst_actual == 100.0
    assert by["1:1"].stats.worst_expected == value(state + value(3 * 1.0078125))


def test_a_step_without_reference_restarts_the_chain_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = {"size": N, "tile_size": 16, "num_aie_columns": 4}
    runlist = [(ElementwiseMul(**tiles), "x", "w", "t"), (ElementwiseAdd(**tiles), "t", "x", "t"),
               (ReLU(size=N, num_aie_columns=4, num_channels=1, tile_size=16), "t", "y")]  # fmt: skip
    call = fr.simulate(runlist, device="npu2", faults=("0:0:zeros",))
    call.get_buffer("w")[:] = full(2.0)
    call.get_buffer("x")[:] = full(3.0)
    path = tmp_path / "x.h5"
    with fr.record(path, call):
        call()
    assert fr.replay(path, mode="cumulative").steps[2].stats.worst_expected == 9.0  # 3 * 2 + 3
    real, nothing = refs.coverage, refs.Coverage(None, "none is known")
    monkeypatch.setattr(refs, "coverage", lambda op, uses: nothing if op.type == "ElementwiseAdd" else real(op, uses))
    report = fr.replay(path, mode="cumulative")
    assert [s.address for s in report.skips] == ["0:1"]
    assert report.steps[1].stats.worst_expected == 3.0  # the recorded 0 + 3: the only sum there is


def test_partial_writes_keep_the_chains_own_old_contents(tmp_path: Path) -> None:
    """A cache filled one row per call: row 0 keeps the reference's value, not the device's, when row 1 is written."""
    tiles = {"size": N, "tile_size": 16, "num_aie_columns": 4}
    copy = StridedCopy(input_sizes=(N,), input_strides=(1,), input_offset=0, output_sizes=(N,), output_strides=(1,),
                       output_offset=0, input_buffer_size=N, output_buffer_size=2 * N,
                       output_offset_parameter="row")  # fmt: skip
    runlist = [(ElementwiseMul(**tiles), "x", "w", "t"), (copy, "t", "cache")]
    call = fr.simulate(runlist, device="npu2", faults=("0:0:zeros",), input_args=["x"], output_args=["cache"])
    call.get_buffer("w")[:] = full(2.0)
    path = tmp_path / "x.h5"
    with fr.record(path, call):
        for turn, x in enumerate((1.5, 2.5)):
            call.get_buffer("x")[:] = full(x)
            call.write_values({"row": turn * N})
            call()
    report = fr.replay(path, mode="cumulative")
    last = report.steps[-1]
    assert last.address == "1:1"
    assert (last.stats.worst_index, last.stats.worst_actual, last.stats.worst_expected) == ((0,), 0.0, 3.0)
    assert last.verdict.n_failing == N  # the first row alone


def test_filters_judge_less_and_evaluate_all(tmp_path: Path) -> None:
    path = accumulate(tmp_path / "x.h5", rewrite=False, faults=("0:0:zeros",))
    whole = {s.address: s for s in fr.replay(path, mode="cumulative").steps}
    some = fr.replay(path, mode="cumulative", steps=["0:2", "1:1"])
    assert [s.address for s in some.steps] == ["0:2", "1:1"]
    assert all(s == whole[s.address] for s in some.steps)
