# SPDX-License-Identifier: Apache-2.0
"""``keep="mismatch"`` through the software NPU: which steps have contents, against a clean run and the references.

The oracle is a full recording of the same faulty run: its replay, and its digests beside those of a clean one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import NotAttachableError, NothingComparedError, SnapshotError, UsageError
from fusion_replay.simulator import operators as sim
from fusion_replay.simulator.errors import HostRuntimeError
from fusion_replay.simulator.faults import parse_fault
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.base import Run
from fusion_replay.snapshot.fsck import check
from snapshot_maker import bits

BF16 = np.dtype(ml_dtypes.bfloat16)
FAULTS = [
    (),
    ("1:17:zeros",),
    ("0:3:shift", "1:40:nan"),
    ("1:25:stale",),
    ("1:12:unwritten",),
    ("GEMV:swap-columns",),
    ("StridedCopy:zeros",),
]


def decode(*faults: str) -> Run:
    return find("llama-decode").build("npu2", [parse_fault(f) for f in faults], {})


def record(path: Path, run: Run, **how: Any) -> Any:
    """The recorder's report of all of ``run``."""
    recorder = fr.record(path, **how)
    for callable_ in run.callables:
        recorder.attach(callable_)
    with recorder:
        run.execute()
    assert recorder.error is None
    return recorder.report


def seen(path: Path) -> dict[str, dict[tuple[str, str], tuple[str | None, bytes | None]]]:
    """By address what is known of each tensor: digest, and bytes where they are kept."""
    with fr.open(path) as snap:
        return {
            s.address: {(side, t.name): (t.digest, bits(t.numpy()) if t.kept else None) for side, t in s.tensors()}
            for s in snap
        }


def whole(path: Path) -> set[str]:
    """Steps that nobody withheld; all of their contents must be there."""
    with fr.open(path) as snap:
        found = {s.address for s in snap if s.withheld is None}
        assert all(t.kept for a in found for _, t in snap[a].tensors() if t.digest is not None)
        return found


def digests(tensors: dict[Any, tuple[str | None, bytes | None]]) -> dict[Any, str | None]:
    return {spot: digest for spot, (digest, _) in tensors.items()}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "good.h5"
    record(path, decode())
    return path


# --- which steps are kept ---------------------------------------------------------------------------------------


SHORT = FAULTS[:3]  # none, one and two: the other kinds find the same steps in other places
LONG = [pytest.param(faults, marks=pytest.mark.long) for faults in FAULTS[3:]]


@pytest.mark.parametrize("faults", [*SHORT, *LONG], ids=lambda f: "+".join(f) or "clean")
def test_steps_that_deviate_have_contents_and_no_other_has(
    tmp_path: Path, clean: Path, faults: tuple[str, ...]
) -> None:
    record(tmp_path / "full.h5", decode(*faults), verify_static=True)
    full, good = seen(tmp_path / "full.h5"), seen(clean)
    by_reference = {s.address for s in fr.replay(tmp_path / "full.h5").mismatches}
    by_digest = {a for a in full if digests(full[a]) != digests(good[a])}
    assert bool(by_reference) == bool(faults)
    assert by_reference <= by_digest
    for name, how, want in (
        ("reference", {}, by_reference),
        ("against", {"against": clean}, by_digest),
        ("weights", {"against": clean, "weights_in": tmp_path / "w.h5"}, by_digest),
    ):
        path = tmp_path / f"{name}.h5"
        report = record(path, decode(*faults), keep="mismatch", **how)
        assert check(path).ok
        assert whole(path) == want, name
        found = seen(path)
        for address, tensors in full.items():
            assert digests(found[address]) == digests(tensors), address
            if address in want:
                assert found[address] == tensors, address
        assert (report.deviating.looked_at, report.deviating.deviating) == (160, len(want))
        assert (report.deviating.alone, report.deviating.unjudged) == (0, 0)
        first = min(want, key=lambda a: tuple(map(int, a.split(":"))), default=None)
        assert (report.deviating.first or "None").split(" ")[0] == str(first)
        assert {(x.kind, x.count) for x in report.losses} == (
            {("left out", 160 - len(want))} if len(want) < 160 else set()
        )
        with fr.open(path) as snap:
            reason = "as in good.h5" if "against" in how else "as the reference"
            assert {s.withheld for s in snap} - {None} <= {reason}
            assert snap.provenance["recording"]["deviating"]["deviating"] == len(want)


def test_nothing_deviates_and_little_is_written(tmp_path: Path, clean: Path) -> None:
    for how in ({}, {"against": clean}):
        path = tmp_path / "same.h5"
        report = record(path, decode(), keep="mismatch", if_exists="replace", **how)
        assert report.bytes_unique == 0
        assert report.file_bytes < 40_000
        assert str(report.deviating).startswith("none of 160 steps deviates from ")
        with pytest.raises(NothingComparedError, match="none of its 160 steps deviated when it was recorded"):
            fr.replay(path)


def test_what_is_kept_can_be_replayed_and_compared(tmp_path: Path, clean: Path) -> None:
    record(tmp_path / "bad.h5", decode("1:17:zeros"), keep="mismatch", against=clean)
    report = fr.replay(tmp_path / "bad.h5")
    assert [s.address for s in report.mismatches] == ["1:17"]
    assert report.compared > 1
    assert {s.reason for s in report.skips} == {
        "its contents were not kept, as in good.h5: record with keep 'all' to judge it"
    }
    found = fr.diff(clean, tmp_path / "bad.h5")
    assert found.first is not None
    assert found.first.address == "1:17"


def test_digests_are_enough_to_compare_with(tmp_path: Path, clean: Path) -> None:
    record(tmp_path / "digests.h5", decode(), level="digest")
    for earlier in (clean, tmp_path / "digests.h5"):
        record(tmp_path / "bad.h5", decode("1:17:zeros"), keep="mismatch", against=earlier, if_exists="replace")
        assert "1:17" in whole(tmp_path / "bad.h5")
        assert "1:16" not in whole(tmp_path / "bad.h5")


def test_filters_and_limits_choose_among_what_deviates(tmp_path: Path, clean: Path) -> None:
    def kept(**how: Any) -> list[str]:
        record(tmp_path / "a.h5", decode("1:17:zeros"), keep="mismatch", against=clean, if_exists="replace", **how)
        return sorted(whole(tmp_path / "a.h5"), key=lambda a: tuple(map(int, a.split(":"))))

    everything = kept()
    assert kept(max_steps=3) == everything[:3]
    assert kept(op="GEMV") == [a for a in everything if fr.open(clean)[a].op.type == "GEMV"]
    assert kept(invocation=0) == []
    assert kept(max_invocations=1) == everything  # the first call has none
    assert kept(step="17-40", only_matching=True) == [a for a in everything if 17 <= int(a.split(":")[1]) <= 40]
    assert 0 < len(kept(max_bytes=100_000)) < len(everything)


def test_a_step_that_is_not_there_is_kept_and_counted_apart(tmp_path: Path, clean: Path) -> None:
    run = find("llama-decode").build("npu2", [], {"tokens": 3})
    report = record(tmp_path / "long.h5", run, keep="mismatch", against=clean)
    assert whole(tmp_path / "long.h5") == {f"2:{n}" for n in range(80)}
    assert (report.deviating.deviating, report.deviating.alone, report.deviating.first_alone) == (0, 80, "2:0 RMSNorm")
    assert "80 without a counterpart there, kept, first 2:0 RMSNorm" in str(report.deviating)


def test_a_callable_that_is_refused_in_the_block_leaves_no_file(tmp_path: Path, clean: Path) -> None:
    x, path = np.ones(4, BF16), tmp_path / "a.h5"
    other = fr.simulate([(sim.ReLU(size=1024), "a", "b")], device="npu2")
    refused = pytest.raises(SnapshotError, match="no step could be compared")
    with refused, fr.record(path, keep="mismatch", against=clean) as recorder:
        recorder.attach(other)
    assert list(tmp_path.glob("a*")) == []
    path.write_text("what was there")
    with fr.record(path, if_exists="replace") as recorder, pytest.raises(NotAttachableError):
        recorder.attach("no callable")
    assert path.read_text() == "what was there"
    with fr.record(path, keep="mismatch", against=clean, if_exists="replace") as recorder:
        with recorder.step("Mine", {"A": x}) as step:
            step.outputs["C"] = x
        with pytest.raises(SnapshotError):
            recorder.attach(other)
    assert whole(path) == {"0:0"}


@pytest.mark.parametrize("how", [{}, {"against": True}])
def test_the_step_that_raises_is_kept(tmp_path: Path, clean: Path, how: dict[str, Any]) -> None:
    how = {"against": clean} if how else {}
    run = decode("1:17:timeout")
    recorder = fr.record(tmp_path / "a.h5", keep="mismatch", **how)
    for callable_ in run.callables:
        recorder.attach(callable_)
    with pytest.raises(HostRuntimeError), recorder:
        run.execute()
    assert whole(tmp_path / "a.h5") == {"1:17"}
    with fr.open(tmp_path / "a.h5") as snap:
        assert snap["1:17"].status == "failed"


# --- the run itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", [False, True])
def test_the_run_is_as_without_a_recorder(tmp_path: Path, clean: Path, against: bool) -> None:
    plain, recorded = decode("1:17:zeros"), decode("1:17:zeros")
    plain.execute()
    record(tmp_path / "a.h5", recorded, keep="mismatch", **({"against": clean} if against else {}))
    for one, other in zip(plain.callables, recorded.callables, strict=True):
        for name in one.op.subbuffer_layout:
            assert bits(one.get_buffer(name).numpy()) == bits(other.get_buffer(name).numpy()), name


# --- arrays -----------------------------------------------------------------------------------------------------


def adds(path: Path, calls: Sequence[bool], op: str = "ElementwiseAdd", spoil: bool = False, **how: Any) -> Any:
    """Additions given as arrays; right where ``calls`` says so. ``spoil``: the body writes over its inputs."""
    rng = np.random.default_rng(7)
    with fr.record(path, keep="mismatch", if_exists="replace", **how) as rec:
        for right in calls:
            a, b = (rng.standard_normal(64).astype(BF16) for _ in "ab")
            with rec.step(op, inputs={"A": a, "B": b}, params={"size": 64}) as step:
                step.outputs["C"] = a + b if right else np.zeros_like(a)
                if spoil:
                    a[:], b[:] = 0, 0
    assert rec.error is None
    return rec.report


@pytest.mark.parametrize("spoil", [False, True])
def test_steps_given_as_arrays(tmp_path: Path, spoil: bool) -> None:
    path = tmp_path / "a.h5"
    report = adds(path, [True, False, True, False, True], spoil=spoil)
    assert whole(path) == {"1:0", "3:0"}
    assert str(report.deviating) == "2 of 5 steps deviate from the reference, first 1:0 ElementwiseAdd"
    adds(tmp_path / "b.h5", [True] * 5)
    report = adds(path, [True, False, True, False, True], spoil=spoil, against=tmp_path / "b.h5")
    assert whole(path) == {"1:0", "3:0"}
    assert str(report.deviating) == "2 of 5 steps deviate from b.h5, first 1:0 ElementwiseAdd"


def test_what_can_not_be_judged_is_kept(tmp_path: Path) -> None:
    report = adds(tmp_path / "a.h5", [True, False], op="Frobnicate")
    assert whole(tmp_path / "a.h5") == {"0:0", "1:0"}
    assert report.losses == ()
    assert "2 that could not be judged, kept, first 0:0 Frobnicate: no reference for operator" in str(report.deviating)
    assert report.notes == (str(report.deviating),)
    report = adds(tmp_path / "b.h5", [True, True], op="Frobnicate", against=tmp_path / "a.h5")
    assert whole(tmp_path / "b.h5") == {"1:0"}


def test_another_operator_at_the_same_address(tmp_path: Path) -> None:
    adds(tmp_path / "a.h5", [True, True])
    with fr.record(tmp_path / "b.h5", keep="mismatch", against=tmp_path / "a.h5") as rec:
        for op in ("ElementwiseMul", "elementwise_add"):  # the second by its alias
            with rec.step(op, inputs={"A": np.zeros(4, BF16), "B": np.zeros(4, BF16)}) as step:
                step.outputs["C"] = np.zeros(4, BF16)
    assert rec.report is not None
    found = rec.report.deviating
    assert found is not None
    assert (found.alone, found.first_alone) == (1, "0:0 ElementwiseMul: there it is ElementwiseAdd")
    assert found.deviating == 1


def test_an_output_that_keeps_its_contents_for_a_good_reason(tmp_path: Path) -> None:
    """The same call twice leaves the same bits: no step deviates, as replay says. A kernel that writes nothing does."""
    add = sim.ElementwiseAdd(size=2048, tile_size=256, num_aie_columns=4)

    def calls(*faults: str) -> Any:
        call = fr.simulate(
            [(add, "x", "h", "y")], "npu2", input_args=["x", "h"], output_args=["y"], faults=list(faults)
        )
        for name in ("x", "h"):
            buffer = call.get_buffer(name)
            with buffer.overwrite() as array:
                array[:] = np.random.default_rng(ord(name)).standard_normal(array.shape).astype(BF16)
            buffer.to("npu")
        return call

    for faults, want in (((), set()), (("0:0:unwritten",), {"0:0"})):
        call = calls(*faults)
        with fr.record(tmp_path / "a.h5", call, keep="mismatch", if_exists="replace"):
            call()
            call()
        assert whole(tmp_path / "a.h5") == want


def test_steps_from_several_threads(tmp_path: Path) -> None:
    with fr.record(tmp_path / "a.h5", keep="mismatch") as rec:

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for i in range(10):
                a, b = (rng.standard_normal(40_000).astype(BF16) for _ in "ab")
                with rec.step("ElementwiseAdd", inputs={"A": a, "B": b}, params={"size": 40_000}) as step:
                    step.outputs["C"] = np.zeros_like(a) if i == seed else a + b

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert rec.error is None
    assert check(tmp_path / "a.h5").ok
    with fr.open(tmp_path / "a.h5") as snap:
        kept = [s for s in snap if s.withheld is None]
        assert len(kept) == 4
        assert all(not s.outputs["C"].numpy().any() for s in kept)
        assert [s.address for s in kept] == [s.address for s in fr.replay(snap).mismatches]


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"keep": "some"}, "expected 'all' or 'mismatch'"),
        ({"keep": "mismatch", "level": "digest"}, "no contents are kept that it could choose"),
        ({"against": "good.h5"}, "goes with keep 'mismatch'"),
        ({"against": Path("good.h5"), "keep": "all"}, "goes with keep 'mismatch'"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fr.record(tmp_path / "a.h5", **how)


def damaged(path: Path, clean: Path) -> None:
    data = bytearray(clean.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data[:-50])


def empty(path: Path, clean: Path) -> None:
    with fr.record(path):
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path, clean: None, "no such file"),
        (damaged, "h5"),
        (empty, "holds no step to compare with"),
        (lambda path, clean: adds(path, [True]), "records ElementwiseAdd of 1 step, which is not llama-decode of 80"),
    ],
)
def test_nothing_runs_where_nothing_could_be_compared(
    tmp_path: Path, clean: Path, make: Callable[[Path, Path], Any], words: str
) -> None:
    make(tmp_path / "earlier.h5", clean)
    with pytest.raises(SnapshotError, match=words) as caught:
        record(tmp_path / "a.h5", decode(), keep="mismatch", against=tmp_path / "earlier.h5")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("a.h5*"))
