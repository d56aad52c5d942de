# SPDX-License-Identifier: Apache-2.0
"""What is kept of a run: what the policy says of each step, and what is in the file afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import NothingComparedError, UsageError
from fusion_replay.recording import underway
from fusion_replay.recording.option_declaration import size_in_bytes
from fusion_replay.recording.options import Options
from fusion_replay.recording.retention import Retention
from fusion_replay.refs import canonical
from fusion_replay.simulator import operators as sim
from fusion_replay.snapshot.fsck import check
from snapshot_maker import gemv_silu

BF16 = np.dtype(ml_dtypes.bfloat16)
SIZE = 2048  # elements of each vector below: 4,096 bytes


def made(faults: Any = ()) -> Any:
    """x + h -> y, SiLU y -> y, y * h -> z."""
    add, mul = (kind(size=SIZE, tile_size=256, num_aie_columns=4) for kind in (sim.ElementwiseAdd, sim.ElementwiseMul))
    silu = sim.SiLU(size=SIZE, tile_size=256, num_aie_columns=4)
    runlist = [(add, "x", "h", "y"), (silu, "y", "y"), (mul, "y", "h", "z")]
    return fr.simulate(runlist, "npu2", input_args=["x", "h"], output_args=["z"], faults=faults)


def fill(call: Any, name: str, seed: int) -> None:
    buffer = call.get_buffer(name)
    with buffer.overwrite() as array:
        array[:] = np.random.default_rng([seed, ord(name)]).standard_normal(array.shape).astype(BF16)
    buffer.to("npu")


def recorded(path: Path, calls: int = 3, **how: Any) -> Any:
    """Kept addresses, all addresses, the report."""
    call = made()
    with fr.record(path, call, **how) as rec:
        for i in range(calls):
            for name in ("x", "h"):
                fill(call, name, i)
            call()
    with fr.open(path) as snap:
        kept = [s.address for s in snap if all(t.kept for side in (s.inputs, s.outputs) for t in side.values())]
        whole = [s.address for s in snap if s.withheld is None]
        assert set(whole) <= set(kept)
        return whole, [s.address for s in snap], rec.report


ALL = [f"{i}:{s}" for i in range(3) for s in range(3)]


@pytest.mark.parametrize(
    ("how", "kept"),
    [
        ({"op": "silu"}, ["0:1", "1:1", "2:1"]),
        ({"op": "SiLU,elementwise_mul"}, ["0:1", "0:2", "1:1", "1:2", "2:1", "2:2"]),
        ({"op": ["SiLU", "ElementwiseMul"], "invocation": "0,2"}, ["0:1", "0:2", "2:1", "2:2"]),
        ({"step": 1}, ["0:1", "1:1", "2:1"]),
        ({"step": "1:0,2"}, ["0:2", "1:0", "1:2", "2:2"]),
        ({"step": "1-2", "invocation": 1}, ["1:1", "1:2"]),
        ({"buffer": "z"}, ["0:2", "1:2", "2:2"]),
        ({"buffer": "h[0:2]", "invocation": "1-2"}, ["1:0", "1:2", "2:0", "2:2"]),
        ({"max_steps": 4}, ALL[:4]),
        ({"max_invocations": 2}, ALL[:6]),
        ({"max_invocations": 1, "op": "SiLU", "invocation": "1-2"}, ["1:1"]),
    ],
)
def test_which_steps_are_kept(tmp_path: Path, how: dict[str, Any], kept: list[str]) -> None:
    whole, listed, report = recorded(tmp_path / "a.h5", **how)
    assert (whole, listed) == (kept, ALL)
    assert {x.kind for x in report.losses} == {"left out"}
    assert sum(x.count for x in report.losses) == len(ALL) - len(kept)
    assert check(tmp_path / "a.h5").ok
    replayed = fr.replay(tmp_path / "a.h5")
    assert replayed.passed
    assert {s.address for s in replayed.steps} >= set(kept)
    assert {s.kind for s in replayed.skips} <= {"not_kept"}
    with fr.open(tmp_path / "a.h5") as snap:
        asked = snap.provenance["recording"]["kept"]
        assert asked.keys() == how.keys()


def test_digests_of_what_is_left_out_are_those_of_a_whole_recording(tmp_path: Path) -> None:
    recorded(tmp_path / "whole.h5")
    recorded(tmp_path / "part.h5", op="SiLU")
    with fr.open(tmp_path / "whole.h5") as whole, fr.open(tmp_path / "part.h5") as part:
        for a, b in zip(whole, part, strict=True):
            assert [t.digest for _, t in a.tensors()] == [t.digest for _, t in b.tensors()]
    assert (tmp_path / "part.h5").stat().st_size < (tmp_path / "whole.h5").stat().st_size


def test_only_matching_records_nothing_else(tmp_path: Path) -> None:
    whole, listed, report = recorded(tmp_path / "a.h5", op="SiLU", only_matching=True)
    assert whole == listed == ["0:1", "1:1", "2:1"]
    assert [(x.detail, x.count) for x in report.losses] == [("steps outside the filter; not recorded", 6)]
    assert fr.replay(tmp_path / "a.h5").compared == 3


def test_bytes_are_counted_before_compression_and_once(tmp_path: Path) -> None:
    """Of the first call x, h, y, y', z are new, 4,096 bytes each: five fit, or four and a half."""
    whole, _, report = recorded(tmp_path / "a.h5", calls=1, max_bytes=5 * 4096)
    assert whole == ["0:0", "0:1", "0:2"]
    assert not report.losses
    whole, _, report = recorded(tmp_path / "b.h5", calls=2, max_bytes=4 * 4096 + 2048)
    assert whole == ["0:0", "0:1"]
    assert [(x.detail, x.count) for x in report.losses] == [
        ("tensors beyond max_bytes 18432; their digests are kept", 1),
        ("steps beyond max_bytes 18432; their digests are kept", 3),
    ]
    with fr.open(tmp_path / "b.h5") as snap:
        assert [t.kept for t in snap["0:2"].outputs.values()] == [False]
        assert all(t.kept for t in snap["0:1"].outputs.values())
        assert {s.address: s.withheld for s in snap if s.invocation} == {
            f"1:{i}": "beyond max_bytes 18432" for i in range(3)
        }
    replayed = fr.replay(tmp_path / "b.h5")
    assert (replayed.compared, replayed.skipped) == (2, 4)
    assert any("record with a higher limit" in s.reason for s in replayed.skips)


@pytest.mark.parametrize("only", [False, True])
def test_a_filter_that_matches_nothing(tmp_path: Path, only: bool) -> None:
    target = tmp_path / "a.h5"
    with pytest.raises(
        UsageError, match=r"no step matched op GEMV, .*; the run had .*ElementwiseAdd, .*SiLU; buffers "
    ):
        recorded(target, op="GEMV", only_matching=only)
    assert target.exists() is not only
    assert [p.name for p in tmp_path.iterdir()] == ([] if only else ["a.h5"])
    if not only:
        with pytest.raises(NothingComparedError, match="outside the filter"):
            fr.replay(target)


def test_a_file_to_be_replaced_stays_where_nothing_matched(tmp_path: Path) -> None:
    recorded(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(UsageError, match="nothing was recorded"):
        recorded(tmp_path / "a.h5", op="GEMV", only_matching=True, if_exists="replace")
    assert (tmp_path / "a.h5").read_bytes() == before


def test_one_name_of_several_that_is_in_no_sequence_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no step matched Typo of op SiLU,Typo"):
        recorded(tmp_path / "a.h5", op="SiLU,Typo")
    assert fr.replay(tmp_path / "a.h5").compared == 3


def test_the_error_of_the_run_is_not_hidden(tmp_path: Path) -> None:
    call = made()

    def run() -> None:
        with fr.record(tmp_path / "a.h5", call, op="GEMV"):
            call()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()


def test_steps_given_as_arrays(tmp_path: Path) -> None:
    with fr.record(tmp_path / "a.h5", op="Keep", max_steps=1) as rec:
        for name in ("Leave", "Keep", "Keep"):
            with rec.step(name, {"A": np.arange(4, dtype=np.float32)}) as step:
                step.outputs["B"] = np.full(4, len(name), np.float32)
    with fr.open(tmp_path / "a.h5") as snap:
        assert [s.withheld for s in snap] == ["outside the filter", None, "beyond max_steps 1"]


def test_weights_left_out_at_first_are_kept_when_a_step_is_to_be(tmp_path: Path) -> None:
    gemv = sim.GEMV(M=256, K=256, num_aie_columns=4, tile_size_input=4, tile_size_output=64)
    call = fr.simulate([(gemv, "W", "x", "h"), (gemv, "W", "h", "y")], "npu2", input_args=["x"], output_args=["y"])
    fill(call, "W", 7)
    with fr.record(tmp_path / "a.h5", call, step="1:1") as rec:
        for i in range(2):
            fill(call, "x", i)
            call()
    assert rec.report is not None
    assert rec.report.notes == ()
    with fr.open(tmp_path / "a.h5") as snap:
        assert snap["1:1"].inputs["A"].kept
        assert len({s.inputs["A"].digest for s in snap}) == 1
        assert [s.address for s in snap if s.noticed.get("rewritten")] == []
    assert [s.address for s in fr.replay(tmp_path / "a.h5").steps] == ["1:1"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"level": "some"}, "level 'some'"),
        ({"max_bytes": -1}, "max_bytes -1: expected a count above 0"),
        ({"max_bytes": "-2G"}, "max_bytes '-2G': expected a size above 0"),
        ({"max_bytes": "9999999T"}, "max_bytes '9999999T'"),
        ({"max_steps": 0}, "max_steps 0"),
        ({"max_steps": True}, "max_steps True"),
        ({"max_invocations": 1 << 70}, "max_invocations"),
        ({"max_bytes": 1, "level": "digest"}, "keeps no contents that it could limit"),
        ({"op": "GEMV", "level": "digest"}, "add only_matching"),
        ({"op": "GEMV,,SiLU"}, "op 'GEMV,,SiLU': expected names"),
        ({"op": ""}, "op ''"),
        ({"step": "x"}, "step 'x': expected numbers"),
        ({"step": "1:x"}, "step 'x': expected numbers"),
        ({"invocation": "5-3"}, "expected 3-5"),
        ({"invocation": -1}, "invocation '-1'"),
        ({"buffer": "x[4:2]"}, r"buffer 'x\[4:2\]'"),
        ({"only_matching": True}, "goes with a filter"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fr.record(tmp_path / "a.h5", **how)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2G", 2_000_000_000), ("2GiB", 2**31), ("1.5 MB", 1_500_000), ("3k", 3000)]
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


def test_a_slice_of_a_buffer() -> None:
    sequence = gemv_silu(8, 16)  # step 2 sees bytes 8 to 16 of y
    assert Retention(Options(buffer="y[0:8]"), canonical).chooses(sequence) == {0, 1}
    assert Retention(Options(buffer="y[15:16]"), canonical).chooses(sequence) == {0, 1, 2}


def test_limits_count_steps_that_deviate_when_that_is_known() -> None:
    sequence = gemv_silu(8, 16)
    retention = Retention(Options(keep="mismatch", max_steps=2, max_invocations=1), canonical)

    def reason(invocation: int, step: int) -> str | None:
        return retention.reason(0, sequence, invocation, step, False)

    assert [reason(i, s) for i in range(3) for s in range(3)] == [None] * 9, "none of them has deviated"
    assert retention.admit(3) is None
    assert reason(4, 0) == "beyond max_invocations 1"
    assert (reason(3, 1), reason(3, 2)) == (None, None)  # two at a time, of which one may be kept
    assert retention.admit(4) == "beyond max_invocations 1"
    assert (retention.admit(3), retention.admit(3)) == (None, "beyond max_steps 2")
    assert reason(3, 0) == "beyond max_steps 2"


@pytest.mark.parametrize("arrays", [False, True])
def test_a_step_that_fails_counts_as_one_that_deviates(arrays: bool, tmp_path: Path) -> None:
    call = made(["ElementwiseAdd:timeout"])
    with fr.record(tmp_path / "a.h5", None if arrays else call, keep="mismatch", max_steps=2) as rec:

        def fails(number: int) -> None:
            fill(call, "x", number)
            if not arrays:
                call()
            with rec.step("One", inputs={"A": np.full(9, number)}):
                raise RuntimeError

        for number in range(4):
            with pytest.raises(RuntimeError):
                fails(number)
    with fr.open(tmp_path / "a.h5") as snap:
        assert {s.status for s in snap} == {"failed"}
        assert [s.withheld for s in snap] == [None, None, *["beyond max_steps 2"] * 2]
        assert [all(t.kept for t in s.inputs.values()) for s in snap] == [True, True, False, False]


def test_what_is_kept_as_data() -> None:
    options = Options.of(keep="mismatch", against=Path("some/where/good.h5"), max_bytes="1k")
    assert options.against == "some/where/good.h5"
    assert options.kept == {"keep": "mismatch", "against": "good.h5", "max_bytes": 1000}
    assert Options().kept == Options(level="digest").kept == {}


def test_what_is_to_come_is_told_once(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "WORTH_TELLING", 20_000)
    recorded(tmp_path / "a.h5", calls=3)
    told = [line for line in capfd.readouterr().err.splitlines() if "per invocation" in line]
    assert told == [f"fusion-replay: {tmp_path / 'a.h5'}: about 0 B once + 20.5 kB per invocation"]  # five of 4,096
    monkeypatch.setattr(underway, "WORTH_TELLING", 21_000)
    recorded(tmp_path / "b.h5", calls=1)
    assert "per invocation" not in capfd.readouterr().err
