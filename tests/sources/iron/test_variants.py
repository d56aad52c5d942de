# SPDX-License-Identifier: Apache-2.0
"""Every form of IRON through the one adapter: recorded is what the double's device saw and wrote, bit for bit."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay import sources
from fusion_replay.errors import NotAttachableError
from fusion_replay.report import overview
from fusion_replay.sources.iron import source as iron
from iron_doubles import HOOKS, VARIANTS, Variant, machine, v0, v6
from iron_doubles import block as llama
from iron_doubles.memory import POISON
from iron_doubles.operators import BF16

every = pytest.mark.parametrize("variant", VARIANTS, ids=str)
comparing = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.compare], ids=str)


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


def fill(variant: Variant, callable_: Any, contents: dict[str, np.ndarray]) -> None:
    for name, values in contents.items():
        variant.write(callable_, name, values)


def build_block(variant: Variant, dispatch: Any = None) -> Any:
    runlist = llama.block(variant.ops, variant.values).runlist
    callable_ = variant.build(runlist, llama.INPUTS, llama.OUTPUTS, llama.SIZES, dispatch)
    fill(variant, callable_, llama.weights())
    return callable_


def decode(variant: Variant, callable_: Any, invocations: int = 2) -> list[bytes]:
    """Run as an application does; what it reads as its result after each call."""
    results = []
    for i in range(invocations):
        fill(variant, callable_, llama.token(i))
        if variant.values:
            callable_.write_values(llama.values(i))
        callable_()
        results.append(variant.result(callable_, "logits").tobytes())
    return results


def left_behind(callable_: Any) -> dict[str, Any]:
    """Device memory of every buffer and slice, and which side each claims to be on."""
    buffers = {n: callable_.get_buffer(n) for n in (*callable_.op.subbuffer_layout, *callable_.op.slice_info)}
    return {n: (t.on_device().tobytes(), t.device) for n, t in buffers.items()}


def check_against_the_device(path: Path, log: list[machine.Dispatch]) -> int:
    """Compare every recorded input and output with the device's own notes; how many arrays there were."""
    arrays = 0
    with fr.open(path) as snapshot:
        steps = list(snapshot.steps())
        assert len(steps) == len(log)
        for step, seen in zip(steps, log, strict=True):
            assert step.status == "complete"
            assert step.op.type == type(seen.op).__name__
            shifts = window_shifts(seen)
            for side, memory in ((step.inputs, seen.before), (step.outputs, seen.after)):
                for tensor in side.values():
                    at = shifts[tensor.position]
                    there = memory[tensor.position][at : at + tensor.nbytes].tobytes()
                    assert tensor.numpy().tobytes() == there, f"{step.label} {tensor.name}"
                    arrays += 1
            for tensor in step.outputs.values():
                before, after = (side[tensor.position][shifts[tensor.position] :] for side in (seen.before, seen.after))
                same = before[: tensor.nbytes].tobytes() == after[: tensor.nbytes].tobytes()
                assert tensor.unchanged in (None, same), f"{step.label} {tensor.name}"
                if tensor.previous is not None:
                    assert tensor.previous.numpy().tobytes() == before[: tensor.nbytes].tobytes()
    return arrays


def window_shifts(seen: machine.Dispatch) -> list[int]:
    """Bytes from an argument's start to the window that its spec names."""
    op = seen.op
    shifts = [0] * len(op.args())
    if hasattr(op, "place"):
        shifts[1] = (op.place + int(seen.scalars[op.offset_symbol])) * 2
    return shifts


# --- the doubles are what they say --------------------------------------------------------------------------------


def offers(variant: Variant) -> dict[str, bool]:
    callable_ = build_block(variant)
    sequence, op = callable_.op, callable_.op.runlist[0][0]
    compare = build_block(variant, "compare") if variant.compare else None
    policy = getattr(sequence, "_dispatch", None)
    return {
        "runlist": hasattr(sequence, "runlist"),
        "get_buffer": hasattr(callable_, "get_buffer"),
        "callable.op": hasattr(callable_, "op"),
        "get_arg_spec": hasattr(op, "get_arg_spec"),
        "op.buffers": hasattr(op, "buffers"),
        "reference": callable(getattr(op, "reference", None)),
        "call_reference": hasattr(op, "call_reference"),
        "policy": policy is not None,
        "policy.set_up_artifacts": hasattr(policy, "set_up_artifacts"),
        "policy.compile": hasattr(policy, "compile"),
        "_iter_steps": hasattr(callable_, "_iter_steps"),
        "_run_step": hasattr(callable_, "_run_step"),
        "_execution_plan": hasattr(callable_, "_execution_plan"),
        "_steps": hasattr(callable_, "_steps"),
        "last_step_stats": hasattr(compare, "last_step_stats"),
        "kernel()": callable(variant.kernel("x", "y")),
        "kernel.dispatch_params": hasattr(variant.kernel("x", "y"), "dispatch_params"),
        "dispatch_values": hasattr(callable_, "dispatch_values"),
        "load_and_run": hasattr(machine.DefaultNPURuntime, "load_and_run"),
    }


@every
def test_a_double_offers_what_its_version_has_and_nothing_else(variant: Variant) -> None:
    assert offers(variant) == {hook: variant.label in having.split() for hook, having in HOOKS.items()}


@every
def test_a_double_cites_what_it_follows_and_where_it_differs(variant: Variant) -> None:
    import sys

    told = sys.modules[variant.sequence.__module__].__doc__ or ""
    assert "iron/common/" in told
    assert "ifference" in told


@every
def test_device_memory_is_poisoned_and_host_memory_is_not_it(variant: Variant) -> None:
    tensor = build_block(variant).get_buffer("attn_weights")
    assert set(tensor.on_device().tolist()) == {POISON}
    assert not np.shares_memory(tensor.on_device(), tensor.allocation.host)


# --- the llama block ----------------------------------------------------------------------------------------------


@every
def test_the_llama_block_is_recorded_as_the_device_saw_it(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    callable_ = build_block(variant)
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise") as rec:
        decode(variant, callable_)
    assert rec.report is not None
    assert rec.report.losses == ()
    n_steps = len(callable_.op.runlist)
    assert rec.report.steps == 2 * n_steps
    assert check_against_the_device(tmp_path / "a.h5", npu.log) > 5 * n_steps
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert [i.status for i in snapshot.invocations] == ["complete", "complete"]
        for index in llama.block(variant.ops, variant.values).in_place:
            step = snapshot[0, index]
            shared = next(t for t in step.inputs.values() if t.buffer == step.outputs[0].buffer)
            assert shared.digest != step.outputs[0].digest  # taken before the kernel, not after
        wrote = snapshot[0, 6].outputs[0]
        old = wrote.previous
        assert old is not None
        assert (old.numpy() != wrote.numpy()).sum() <= llama.KV * llama.DIM  # the cache kept its other rows


@every
def test_recording_changes_no_result_no_buffer_and_no_side(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    alone = build_block(variant)
    plain = decode(variant, alone)
    runs = len(npu.log)
    watched = build_block(variant)
    with fr.record(tmp_path / "a.h5", watched, on_error="raise"):
        seen = decode(variant, watched)
    assert seen == plain
    assert left_behind(watched) == left_behind(alone)
    assert len(npu.log) == 2 * runs
    again = decode(variant, watched)  # detached: the third and fourth call of both
    assert again == decode(variant, alone)
    assert left_behind(watched) == left_behind(alone)


@every
def test_the_callable_is_left_as_it_was(variant: Variant) -> None:
    callable_ = build_block(variant)
    plan = "_steps" if hasattr(callable_, "_steps") else "_execution_plan"
    entries, own = list(getattr(callable_, plan)), dict(vars(callable_))
    source = sources.attach(callable_)
    source.attach(Nobody())
    decode(variant, callable_, 1)
    source.detach()
    assert all(a is b for a, b in zip(getattr(callable_, plan), entries, strict=True))
    assert vars(callable_).keys() == own.keys()


class Nobody:
    """An observer that looks at nothing."""

    def invocation_started(self, sequence: Any) -> None: ...
    def prepared(self, kernels: Any) -> None: ...
    def before(self, step: Any) -> None: ...
    def after(self, step: Any, result: Any) -> None: ...
    def failed(self, step: Any, error: BaseException) -> None: ...
    def judged(self, step: Any, statistics: Any) -> None: ...
    def invocation_finished(self) -> None: ...


@every
def test_the_origin_names_form_flavour_and_evidence(variant: Variant) -> None:
    origin = sources.attach(build_block(variant)).sequence.origin
    assert (origin["variant"], origin["flavour"], origin["dispatch"]) == (variant.label, variant.flavour, "separate")
    assert origin["evidence"].startswith("_steps" if variant.label == "V6" else "_execution_plan")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.values], ids=str)
def test_values_of_the_call_are_kept_by_symbol_and_by_name(variant: Variant, tmp_path: Path) -> None:
    callable_ = build_block(variant)
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        decode(variant, callable_)
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert snapshot["1:6"].values == {"cache_offset": 128, "output_offset": 128}
        assert snapshot["0:12"].values == {"softmax_vector_size": 4, "vector_size": 4}
        assert snapshot["0:0"].values == {}


@every
def test_time_and_state_of_the_runtime_are_kept(variant: Variant, tmp_path: Path) -> None:
    callable_ = build_block(variant)
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        decode(variant, callable_, 1)
    with fr.open(tmp_path / "a.h5") as snapshot:
        expected = (None, None) if variant.label == "V2h" else (1003, "ERT_CMD_STATE_COMPLETED")
        assert (snapshot["0:2"].elapsed_ns, snapshot["0:2"].state) == expected


@every
def test_a_kernel_that_times_out_is_a_failed_step_with_its_inputs(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    callable_ = build_block(variant)
    npu.fail_at = 4
    with (
        pytest.raises(RuntimeError, match=r"^Kernel returned ert_cmd_state.ERT_CMD_STATE_TIMEOUT$"),
        fr.record(tmp_path / "a.h5", callable_),
    ):
        decode(variant, callable_)
    with fr.open(tmp_path / "a.h5") as snapshot:
        step = snapshot["0:4"]
        assert (len(snapshot), step.status, step.op.type) == (5, "failed", "RoPE")
        assert "ERT_CMD_STATE_TIMEOUT" in str(step.error)
        assert step.inputs["A"].numpy().tobytes() == npu.log[1].after[2].tobytes()


# --- single steps: directions, dtypes, places ---------------------------------------------------------------------


@every
def test_several_outputs_before_an_input_and_other_dtypes(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    op = variant.ops.SplitSigns(32)
    callable_ = variant.build([(op, "a", "c", "n", "b")], ["a", "b"], ["c", "n"])
    rng = np.random.default_rng(3)
    fill(variant, callable_, {"a": rng.standard_normal(32).astype(BF16), "b": rng.integers(0, 9, 32, np.uint8)})
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        callable_()
    assert check_against_the_device(tmp_path / "a.h5", npu.log) == 4
    with fr.open(tmp_path / "a.h5") as snapshot:
        step = snapshot["0:0"]
        dtypes = {t.position: (t.direction, t.dtype) for side in (step.inputs, step.outputs) for t in side.values()}
        assert dtypes == {0: ("in", "bfloat16"), 1: ("out", "bfloat16"), 2: ("out", "int32"), 3: ("in", "uint8")}


@every
def test_inout_has_both_sides(variant: Variant, tmp_path: Path, npu: machine.Machine) -> None:
    callable_ = variant.build([(variant.ops.Accumulate(32), "s", "x")], ["x"], ["s"])
    fill(variant, callable_, {"s": np.arange(32, dtype=np.int32), "x": np.full(32, 1000, np.int32)})
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        callable_()
        callable_()
    assert check_against_the_device(tmp_path / "a.h5", npu.log) == 6
    with fr.open(tmp_path / "a.h5") as snapshot:
        sums = [(s.inputs[0].numpy()[5], s.outputs[0].numpy()[5]) for s in snapshot.steps()]
    assert sums == [(5, 1005), (1005, 2005)]


def test_a_placed_output_follows_its_offset(tmp_path: Path, npu: machine.Machine) -> None:
    variant = VARIANTS[-1]
    callable_ = variant.build([(variant.ops.Scatter(32), "x", "cache")], ["x"], ["cache"], {"cache": 256})
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        for position in (0, 32):
            fill(variant, callable_, {"x": np.full(32, 1 + position, BF16)})
            callable_.write_values({"position": np.int32(position)})
            callable_()
    assert check_against_the_device(tmp_path / "a.h5", npu.log) == 4
    assert npu.log[1].after[1].view(BF16)[64:96].tolist() == [33.0] * 32


def test_an_arena_that_grows_stays_watched(tmp_path: Path, npu: machine.Machine) -> None:
    variant = VARIANTS[-1]
    runlist = llama.block(variant.ops, True).runlist
    sequence = v6.OperatorSequence("double", runlist, llama.INPUTS, llama.OUTPUTS, buffer_sizes=llama.SIZES).compile()
    arena = v6.ScratchArena(1 << 19)
    callable_ = sequence.get_callable(arena)
    fill(variant, callable_, llama.weights())
    steps, buffer = callable_._steps, callable_.get_buffer("W_query")
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        first = decode(variant, callable_, 1)
        arena.grow(1 << 20)
        second = decode(variant, callable_, 2)
    assert callable_._steps is not steps
    assert callable_.get_buffer("W_query") is not buffer
    assert not any(type(entry[1]) is iron.KernelProxy for entry in callable_._steps)
    check_against_the_device(tmp_path / "a.h5", npu.log)
    assert len(npu.log) == 3 * len(runlist)
    assert first == second[:1]  # the same token over the same cache row


# --- compare mode -------------------------------------------------------------------------------------------------


def small(variant: Variant, dispatch: str, wrong: int | None = None) -> tuple[Any, list[Any]]:
    """x -> y -> z -> out by SiLU, whose reference agrees; ``wrong``: the step whose reference does not."""
    ops = [variant.ops.SiLU(64) for _ in range(3)]
    if wrong is not None:
        lies = np.full(64, 100, BF16)
        ops[wrong].reference = lambda *_: lies
        ops[wrong].call_reference = lambda *_: {"C": lies}
    runlist = [(ops[0], "x", "y"), (ops[1], "y", "z"), (ops[2], "z", "out")]
    callable_ = variant.build(runlist, ["x"], ["out"], dispatch=dispatch)
    fill(variant, callable_, {"x": np.linspace(-2, 2, 64).astype(BF16)})
    return callable_, ops


FIGURES = ("max_abs", "mean_abs", "max_rel", "ref_max")


@comparing
def test_compare_mode_is_recorded_with_its_own_statistics(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    callable_, _ = small(variant, "compare")
    with fr.record(tmp_path / "a.h5", callable_, on_error="raise"):
        callable_()
        first = list(getattr(callable_, "last_step_stats", ()))
        callable_()
    check_against_the_device(tmp_path / "a.h5", npu.log)
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert snapshot.sequences[0].origin["dispatch"] == "compare"
        kept = [step.iron for step in snapshot.steps()]
    assert len(kept) == 6
    assert None not in kept
    if variant.label == "V6":
        assert [list(k) for k in kept[:3]] == [["y"], ["z"], ["out"]]
        return
    for entry, stats in zip(first, kept[:3], strict=True):
        assert stats is not None
        assert {k: stats[k] for k in FIGURES} == {k: entry[k] for k in FIGURES}


@comparing
def test_the_step_that_compare_mode_stops_at_is_recorded_with_its_figures(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    callable_, _ = small(variant, "compare", wrong=1)
    raises = variant.label not in ("V1", "V1b")
    stop = pytest.raises(RuntimeError, match=r"^\[compare step 1\] SiLU") if raises else contextlib.nullcontext()
    with stop, fr.record(tmp_path / "a.h5", callable_):
        callable_()
    check_against_the_device(tmp_path / "a.h5", npu.log)  # with its output: the kernel did come back
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert len(snapshot) == (2 if raises else 3)
        stats = snapshot["0:1"].iron
        out = snapshot["0:1"].outputs[0].numpy().astype(np.float32)
    assert stats is not None
    largest = float(np.abs(out - np.float32(100)).max())
    if variant.label == "V6":
        assert stats == {"z": {"max_abs": largest}}
        return
    assert stats["max_abs"] == largest
    assert stats["ref_max"] == 100.0
    if variant.label != "V1":
        assert stats["mismatch"] is True


@comparing
def test_nothing_is_logged_that_would_not_have_been(
    variant: Variant, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    logger = sys.modules[variant.compare.__module__].logger
    level, filters = logger.level, list(logger.filters)
    callable_, _ = small(variant, "compare")
    with fr.record(tmp_path / "a.h5", callable_):
        callable_()
    assert caplog.records == []
    assert (logger.level, logger.filters) == (level, filters)
    with caplog.at_level("INFO"), fr.record(tmp_path / "b.h5", callable_):
        callable_()
    assert len(caplog.records) == 3


@pytest.mark.parametrize("label", ["V3", "V6"])
def test_two_recordings_of_one_module_keep_their_figures_apart(label: str, tmp_path: Path) -> None:
    import sys

    variant = next(v for v in VARIANTS if v.label == label)
    logger = sys.modules[variant.compare.__module__].logger
    right, _ = small(variant, "compare")
    wrong, _ = small(variant, "compare", wrong=2)
    first, second = fr.record(tmp_path / "a.h5", right), fr.record(tmp_path / "b.h5", wrong)
    with first:
        with second:
            right()
            with pytest.raises(RuntimeError):
                wrong()
        right()
    assert (logger.level, logger.filters) == (0, [])
    with fr.open(tmp_path / "a.h5") as a, fr.open(tmp_path / "b.h5") as b:
        good, bad = [s.iron for s in a.steps()], [s.iron for s in b.steps()]
    assert good[:3] == good[3:]
    assert bad[:2] == good[:2]
    assert bad[2] != good[2]
    assert None not in good + bad


# --- what is not a correct decode, and what cannot be recorded ----------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.values], ids=str)
def test_a_decode_without_its_values_is_recorded_with_a_warning(
    variant: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runlist = llama.block(variant.ops, values=True).runlist
    callable_ = variant.build(runlist, llama.INPUTS, llama.OUTPUTS, llama.SIZES)
    fill(variant, callable_, llama.weights())
    with fr.record(tmp_path / "a.h5", callable_):
        decode(variant, callable_, 1)
    told = "not a correct decode: Softmax and StridedCopy expect a value per call"
    assert told in capsys.readouterr().err
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert f"  caution: {told}" in str(overview.overview(snapshot))


@every
def test_no_warning_where_the_values_come_with_the_call_or_nobody_asks_for_any(variant: Variant) -> None:
    assert "caution" not in sources.attach(build_block(variant)).sequence.origin


@every
def test_fused_callables_are_refused_with_the_way_to_separate_dispatch(variant: Variant) -> None:
    runlist = [(variant.ops.SiLU(64), "x", "y")]
    if variant.label == "V0b":
        sequence = v0.FusedMLIROperator("double", runlist, ["x"], ["y"])
        sequence.full_elf = True
        fused = sequence.compile().get_callable()
        words = r"pull request 117.*dispatch='separate'"
    else:
        fused = variant.build(runlist, ["x"], ["y"], dispatch="fused")
        words = r"no step can be seen; build the sequence with dispatch='separate'"
    with pytest.raises(NotAttachableError, match=words):
        sources.attach(fused)


def test_the_one_kernel_form_before_pull_request_117_is_refused() -> None:
    sequence = v0.FusedMLIROperator("double", [(VARIANTS[0].ops.SiLU(64), "x", "y")], ["x"], ["y"]).compile()
    with pytest.raises(NotAttachableError, match=r"update IRON to pull request 117 or later.*dispatch='separate'"):
        sources.attach(v0.FusedXclbinCallableV0a(sequence))


# --- the doubles catch a careless recorder ------------------------------------------------------------------------


def by_raw_view(tensor: Any) -> np.ndarray:
    view = tensor.torch_view() if hasattr(tensor, "torch_view") else tensor.data
    return np.ascontiguousarray(view).reshape(-1).view(np.uint8)


def by_numpy(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def by_numpy_with_a_stray_write(tensor: Any) -> np.ndarray:
    view = tensor.numpy().reshape(-1).view(np.uint8)
    before = np.array(view)
    view[:] = 0
    return before


def caught(variant: Variant, tmp_path: Path, npu: machine.Machine) -> list[str]:
    """What a recording shows to be wrong: "results" or "recording"."""
    alone = build_block(variant)
    plain = decode(variant, alone)
    npu.log.clear()
    watched = build_block(variant)
    with fr.record(tmp_path / "a.h5", watched, on_error="raise"):
        seen = decode(variant, watched)
    found = []
    if seen != plain or left_behind(watched) != left_behind(alone):
        found.append("results")
    try:
        check_against_the_device(tmp_path / "a.h5", npu.log)
    except AssertionError:
        found.append("recording")
    return found


CARELESS = (by_raw_view, by_numpy_with_a_stray_write)


@pytest.mark.parametrize(
    ("variant", "careless"),
    [  # of every variant one in the short run, in turns
        pytest.param(v, c, id=f"{v}-{c.__name__}", marks=[] if (i + j) % 2 == 0 else pytest.mark.long)
        for i, v in enumerate(VARIANTS)
        for j, c in enumerate(CARELESS)
    ],
)
def test_a_careless_recorder_is_caught(
    variant: Variant, careless: Any, tmp_path: Path, npu: machine.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert caught(variant, tmp_path, npu) == []
    npu.log.clear()
    monkeypatch.setattr(iron, "host_bytes", careless)
    (tmp_path / "a.h5").unlink()
    assert caught(variant, tmp_path, npu) != []


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.label in ("V1", "V1b")], ids=str)
def test_numpy_alone_leaves_marks_where_slices_have_flags_of_their_own(
    variant: Variant, tmp_path: Path, npu: machine.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iron, "host_bytes", by_numpy)
    assert caught(variant, tmp_path, npu) != []


def test_forms_that_read_alike_are_told_apart_by_what_they_offer() -> None:
    callable_ = build_block(next(v for v in VARIANTS if v.label == "V4"))
    callable_.dispatch_values = {}  # a later state of the file has them
    assert sources.attach(callable_).sequence.origin["variant"] == "V4"
    labels = [sources.attach(build_block(v)).sequence.origin["variant"] for v in VARIANTS]
    assert labels == [v.label for v in VARIANTS]
