# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import types
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from doubles import (
    BF16,
    BareSpec,
    DeclaredBuffer,
    Direction,
    FakeSequence,
    FakeV3,
    FakeV6,
    Observer,
    Spec,
    operator_class,
)
from fusion_replay import sources
from fusion_replay.errors import NotAttachableError, RunlistError
from fusion_replay.sources.describe import describe_operator
from fusion_replay.sources.fields import parameters
from fusion_replay.sources.iron.source import origin_of

Double = operator_class("Double")
Accumulate = operator_class("Accumulate")


def double(x: Any, y: Any) -> None:
    y[:] = (x.astype(np.float32) * 2).astype(BF16)


def accumulate(x: Any, y: Any) -> None:
    y[:] = (x.astype(np.float32) + y.astype(np.float32)).astype(BF16)


def bf16(*values: float) -> np.ndarray:
    return np.array(values, dtype=BF16)


def three_steps(shape: type[FakeV3] = FakeV3) -> FakeV3:
    """x -> y, y -> y in place, y[4:8] -> z."""
    twice = Double([Spec("in", (4,)), Spec("out", (4,))], double, size=4)
    small = Double([Spec("in", (2,)), Spec("out", (2,))], double, size=2)
    runlist = [(twice, "x", "y"), (twice, "y", "y"), (small, "y[4:8]", "z")]
    sequence = FakeSequence(runlist, ["x"], ["z"], {"y": 8}).compile({"x": 8, "z": 4, "y": 8})
    if shape is FakeV6:
        for op, *_ in runlist:
            op.buffers = [DeclaredBuffer(f"a{i}", Direction(i == 0, i == 1), s.shape) for i, s in enumerate(op._specs)]
    return shape(sequence)


@pytest.mark.parametrize("shape", [FakeV3, FakeV6])
def test_steps_are_seen_in_order_with_inputs_before_and_outputs_after(shape: type[FakeV3]) -> None:
    callable_ = three_steps(shape)
    callable_.get_buffer("x").put(bf16(1, 2, 3, 4))
    source, seen = sources.attach(callable_), Observer()
    source.attach(seen)
    callable_()
    assert seen.log == ["start", 0, 1, 2, "end"]
    assert [i[0].tolist() for i in seen.inputs] == [[1, 2, 3, 4], [2, 4, 6, 8], [12, 16]]
    assert [o[1].tolist() for o in seen.outputs] == [[2, 4, 6, 8], [4, 8, 12, 16], [24, 32]]
    assert {r.elapsed_ns for r in seen.results} == {1234}
    assert {r.state for r in seen.results} == {"ERT_CMD_STATE_COMPLETED"}


@pytest.mark.parametrize("shape", [FakeV3, FakeV6])
def test_reading_makes_no_forbidden_access(shape: type[FakeV3]) -> None:
    callable_ = three_steps(shape)
    callable_.get_buffer("x").put(bf16(1, 2, 3, 4))
    sources.attach(callable_).attach(Observer())
    callable_()
    callable_()
    assert callable_.touched() == []
    assert callable_.get_buffer("x").reads > 0


def test_what_two_operands_name_is_read_once_before_and_once_after() -> None:
    callable_ = three_steps()

    class Everything(Observer):
        def before(self, step: Any) -> None:
            for i, _ in enumerate(step.description.operands):
                step.read(i)

        after = failed = lambda self, step, _: self.before(step)  # type: ignore[assignment]

    sources.attach(callable_).attach(Everything())
    y = callable_.get_buffer("y")
    callable_._execution_plan[1][0](y, y)
    assert y.reads == 2


@pytest.mark.parametrize("shape", [FakeV3, FakeV6])
def test_detach_restores_the_very_entries(shape: type[FakeV3]) -> None:
    callable_ = three_steps(shape)
    plan = callable_._execution_plan if shape is FakeV3 else callable_._steps  # type: ignore[attr-defined]
    before = list(plan)
    source = sources.attach(callable_)
    source.attach(Observer())
    assert all(a is not b for a, b in zip(plan, before, strict=True))
    source.detach()
    source.detach()
    assert all(a is b for a, b in zip(plan, before, strict=True))


def test_a_rebuilt_list_keeps_reporting_and_is_unwrapped_too() -> None:
    callable_ = three_steps(FakeV6)
    assert isinstance(callable_, FakeV6)
    kernels = [entry[1] for entry in callable_._steps]
    source, seen = sources.attach(callable_), Observer()
    source.attach(seen)
    callable_.follow_arena()
    callable_()
    assert seen.log == ["start", 0, 1, 2, "end"]
    source.detach()
    assert all(entry[1] is kernel for entry, kernel in zip(callable_._steps, kernels, strict=True))


def test_two_watchers_of_one_callable_leave_in_any_order() -> None:
    callable_ = three_steps()
    before = list(callable_._execution_plan)
    first, second = sources.attach(callable_), sources.attach(callable_)
    a, b = Observer(), Observer()
    first.attach(a)
    second.attach(b)
    callable_()
    first.detach()
    callable_()
    second.detach()
    assert (a.log.count("end"), b.log.count("end")) == (1, 2)
    callable_()
    assert (a.log.count("end"), b.log.count("end")) == (1, 2)
    first.detach()
    assert [e[1] for e in callable_._execution_plan] == [e[1] for e in before]


def test_the_proxy_passes_for_the_kernel() -> None:
    callable_ = three_steps()
    kernel = callable_._execution_plan[0][0]
    sources.attach(callable_).attach(Observer())
    proxy = callable_._execution_plan[0][0]
    assert proxy is not kernel
    assert isinstance(proxy, type(kernel))
    assert proxy.dispatch_params == ()
    proxy.trace_config = "on"
    assert kernel.trace_config == "on"
    assert not hasattr(proxy, "elf_path")
    assert repr(proxy) == repr(kernel)
    assert proxy(*callable_._execution_plan[0][1])[0] == "handle"


def test_what_a_kernel_raises_passes_unchanged_and_ends_the_invocation() -> None:
    callable_ = three_steps()
    kernel = callable_._execution_plan[0][0]
    good, boom = kernel.fn, KeyboardInterrupt("stop")

    def fail(*_: Any) -> None:
        raise boom

    source, seen = sources.attach(callable_), Observer()
    source.attach(seen)
    kernel.fn = fail
    with pytest.raises(KeyboardInterrupt) as caught:
        callable_()
    assert caught.value is boom
    assert seen.log == ["start", 0, boom]
    kernel.fn = good
    callable_()
    assert seen.log[3:] == ["start", 0, 1, 2, "end"]


def test_a_run_left_between_steps_starts_a_new_invocation() -> None:
    callable_ = three_steps()
    source, seen = sources.attach(callable_), Observer()
    source.attach(seen)
    plan = callable_._execution_plan
    plan[0][0](*plan[0][1])
    plan[1][0](*plan[1][1])  # and then the program gave up
    callable_()
    assert seen.log == ["start", 0, 1, "start", 0, 1, 2, "end"]
    plan[1][0](*plan[1][1])
    assert seen.log[8:] == ["start", 1]


def test_the_description() -> None:
    callable_ = three_steps()
    sequence = sources.attach(callable_).sequence
    assert [s.flow for s in sequence.steps] == ["x -> y", "y -> y", "y[4:8] -> z"]
    assert [o.type for o in sequence.operators] == ["Double", "Double"]
    assert [s.operator for s in sequence.steps] == [0, 0, 1]
    assert [dict(o.params) for o in sequence.operators] == [{"size": 4}, {"size": 2}]
    assert {b.name: (b.nbytes, b.role, b.external) for b in sequence.buffers} == {
        "x": (8, "input", True),
        "y": (8, "scratch", False),
        "z": (4, "output", False),
    }
    assert [a.spec.name for a in sequence.steps[0].operands] == ["in0", "out0"]
    assert (sequence.steps[2].operands[0].start, sequence.steps[2].operands[0].stop) == (4, 8)
    assert sequence.origin == {
        "variant": "V2",
        "evidence": "_execution_plan, _dispatch",
        "flavour": "pr117",
        "dispatch": "separate",
    }


def test_external_are_the_buffers_read_before_they_are_written() -> None:
    weighted = Accumulate([Spec("in", (4,)), Spec("inout", (4,))], accumulate)
    sequence = FakeSequence([(weighted, "W", "state"), (weighted, "state", "out")]).compile(
        {"W": 8, "state": 8, "out": 8}
    )
    described = sources.attach(FakeV3(sequence)).sequence
    assert {b.name for b in described.buffers if b.external} == {"W", "state", "out"}


def test_directions_names_and_odd_specs() -> None:
    op = operator_class("Odd")
    specs = [Spec("out", 8), Spec("in", (2, 3), np.uint8), Spec("inout", [4], "int32"), Spec("out", (1,), np.float32)]
    sequence = FakeSequence([(op(specs, lambda *_: None), "a", "b", "c", "d")]).compile(
        {"a": 16, "b": 6, "c": 16, "d": 4}
    )
    args = [use.spec for use in sources.attach(FakeV3(sequence)).sequence.steps[0].operands]
    assert [(a.name, a.direction, a.shape, a.dtype) for a in args] == [
        ("out0", "out", (8,), "bfloat16"),
        ("in0", "in", (2, 3), "uint8"),
        ("inout0", "inout", (4,), "int32"),
        ("out1", "out", (1,), "float32"),
    ]


def test_without_directions_the_last_argument_is_the_output() -> None:
    op = operator_class("Old")([BareSpec((4,)), BareSpec((4,)), BareSpec((4,))], lambda *_: None)
    callable_ = FakeV3(FakeSequence([(op, "a", "b", "c")]).compile({"a": 8, "b": 8, "c": 8}))
    args = [use.spec for use in sources.attach(callable_).sequence.steps[0].operands]
    assert [(a.name, a.direction) for a in args] == [("in0", "in"), ("in1", "in"), ("out0", "out")]


def test_names_come_from_the_catalogue_where_it_agrees() -> None:
    same = operator_class("ElementwiseAdd")([Spec("in", (16,)), Spec("in", (16,)), Spec("out", (16,))], None, size=16)
    other = operator_class("ElementwiseAdd")([Spec("in", (16,)), Spec("out", (16,))], None, size=16)
    old = operator_class("AIEElementwiseAdd")([Spec("in", (16,)), Spec("in", (16,)), Spec("out", (16,))], None, size=16)
    runlist = [(same, "p", "q", "r"), (other, "p", "r"), (old, "p", "q", "r")]
    sequence = FakeSequence(runlist).compile({"p": 32, "q": 32, "r": 32})
    described = sources.attach(FakeV3(sequence)).sequence
    assert [u.spec.name for u in described.steps[0].operands] == ["A", "B", "C"]
    assert [u.spec.name for u in described.steps[1].operands] == ["in0", "out0"]
    assert [o.type for o in described.operators] == ["ElementwiseAdd"] * 3


def test_bytes_are_reinterpreted_never_converted() -> None:
    """Buffers are bf16 whatever the spec says; a spec of uint8 sees the bytes."""
    op = operator_class("Bytes")([Spec("in", (6,), np.uint8), Spec("out", (2, 2), np.int16)], lambda *_: None)
    callable_ = FakeV3(FakeSequence([(op, "a", "b")]).compile({"a": 8, "b": 8}))
    callable_.get_buffer("a").put(np.arange(8, dtype=np.uint8))
    callable_.get_buffer("b").put(np.array([1, -2, 3, -4], np.int16))
    seen = Observer()
    sources.attach(callable_).attach(seen)
    callable_()
    assert seen.inputs[0][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert seen.outputs[0][1].tolist() == [[1, -2], [3, -4]]
    assert seen.outputs[0][1].dtype == np.int16


def test_scalars_of_the_call_are_the_runtime_values() -> None:
    op = operator_class("Softmax")([Spec("in", (4,)), Spec("out", (4,))], lambda x, y, **_: None, rows=1, cols=4)
    op.buffers = [DeclaredBuffer("x", Direction(True, False), (4,)), DeclaredBuffer("y", Direction(False, True), (4,))]
    sequence = FakeSequence([(op, "a", "b")]).compile({"a": 8, "b": 8})
    callable_ = FakeV6(sequence, {"Softmax": ("softmax_vector_size",)})
    callable_.dispatch_values = {"softmax_vector_size": np.int32(3), "other": 9}
    seen = Observer()
    sources.attach(callable_).attach(seen)
    callable_()
    assert seen.values == [{"softmax_vector_size": 3}]
    assert type(seen.values[0]["softmax_vector_size"]) is int


def test_values_set_on_the_callable_count_where_the_operator_names_their_symbol() -> None:
    params = {"rows": 1, "cols": 4, "vector_size_parameter": "softmax_vector_size"}
    op = operator_class("Softmax")([Spec("in", (4,)), Spec("out", (4,))], lambda *_: None, **params)
    callable_ = FakeV3(FakeSequence([(op, "a", "b")]).compile({"a": 8, "b": 8}))
    callable_.dispatch_values = {"softmax_vector_size": 3, "cache_offset": 64}  # type: ignore[attr-defined]
    seen = Observer()
    sources.attach(callable_).attach(seen)
    callable_()
    assert seen.values == [{"softmax_vector_size": 3}]


def test_a_placed_output_is_read_at_its_place_plus_the_offset_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """amd/IRON iron/common/image/callable.py: elements from ``placement[1]`` plus the value of ``<name>_offset``."""

    def copy(x: Any, cache: Any, **offset: int) -> None:
        at = 2 + next(iter(offset.values()))
        cache[at : at + 2] = x

    op = operator_class("Scatter")([], copy)
    op.buffers = [
        DeclaredBuffer("x", Direction(True, False), (2,)),
        DeclaredBuffer("cache", Direction(False, True), (2,), placement=("cache", 2)),
    ]
    op.values = (types.SimpleNamespace(name="cache_offset"),)
    op.bound_values = {"cache_offset": "position"}
    op.value = lambda name: types.SimpleNamespace(name=name)
    monkeypatch.setattr(
        sys.modules[FakeV6.__module__], "device_symbol", lambda op, value: f"sym_{value.name}", raising=False
    )
    callable_ = FakeV6(FakeSequence([(op, "x", "kv")]).compile({"x": 4, "kv": 16}), {"Scatter": ("sym_cache_offset",)})
    callable_.dispatch_values = {"sym_cache_offset": np.int32(3)}
    callable_.get_buffer("x").put(bf16(7, 8))
    source, seen = sources.attach(callable_), Observer()
    source.attach(seen)
    callable_()
    assert callable_.get_buffer("kv").got().tolist() == [0, 0, 0, 0, 0, 7, 8, 0]
    assert seen.outputs[0][1].tolist() == [7, 8]
    assert seen.values == [{"cache_offset": 3, "sym_cache_offset": 3}]
    assert source.sequence.steps[0].operands[1].label == "kv[4:8]"


@dataclass
class Overlay:
    tile: int = 4
    context: Any = None


@dataclass
class Declared:
    size: int
    dtype: Any = ml_dtypes.bfloat16
    sizes: tuple[int, ...] = (1, 2)
    alpha: Any = field(default_factory=lambda: np.float32(0.5))
    hook: Any = print
    context: Any = None
    ov: Any = field(default_factory=Overlay)


def test_parameters_are_json_data_of_the_fields_and_the_overlay() -> None:
    assert parameters(Declared(8)) == {
        "size": 8,
        "dtype": "bfloat16",
        "sizes": [1, 2],
        "alpha": 0.5,
        "hook": {"class": "builtin_function_or_method"},
        "tile": 4,
    }


def test_plain_attributes_are_parameters_where_they_are_json() -> None:
    op = operator_class("AIEThing")([], None, rows=3, names=["a"], array=np.zeros(3), _private=1)
    assert parameters(op) == {"rows": 3, "names": ["a"]}
    assert describe_operator(op).type == "AIEThing"


def test_a_name_that_needs_a_device_is_left_out() -> None:
    class Nameless(Declared):
        @property
        def name(self) -> str:
            raise RuntimeError("no device")

    assert describe_operator(Nameless(4)).label is None


@pytest.mark.parametrize(
    ("runlist", "sizes", "words"),
    [
        (("x",), {"x": 8}, ["step 0 Double", "names 1 buffers (x)", "takes 2 (in0, out0)"]),
        (("x", "y[8:16]"), {"x": 8, "y": 12}, ["step 0 Double", "y[8:16]", "byte 16", "has 12"]),
        (("x", "y[8:12]"), {"x": 8, "y": 16}, ["out0 needs 8 bytes", "y[8:12] holds 4"]),
        (("x", "y"), {"x": 8, "y": 4}, ["'y' has 4", "byte 8"]),
    ],
)
def test_a_runlist_at_odds_with_itself_is_refused(
    runlist: tuple[str, ...], sizes: dict[str, int], words: list[str]
) -> None:
    op = Double([Spec("in", (4,)), Spec("out", (4,))], double)
    callable_ = FakeV3(FakeSequence([(op, "x", "x")]).compile({"x": 8}))
    callable_.op = FakeSequence([(op, *runlist)]).compile(sizes)
    with pytest.raises(RunlistError) as caught:
        sources.attach(callable_)
    assert [w for w in words if w not in str(caught.value)] == []


def test_a_plan_of_another_length_is_refused() -> None:
    callable_ = three_steps()
    callable_._execution_plan.pop()
    with pytest.raises(RunlistError, match=r"has 3 steps, the callable prepared 2"):
        sources.attach(callable_)


def test_what_cannot_be_watched_is_said_with_the_way_out() -> None:
    sequence = FakeSequence([])
    with pytest.raises(NotAttachableError, match=r"is a sequence, not its callable; record what its get_callable"):
        sources.attach(sequence)
    with pytest.raises(NotAttachableError, match=r"never compiled; call compile"):
        sources.attach(types.SimpleNamespace(op=sequence, _execution_plan=[]))
    fused = types.SimpleNamespace(op=FakeSequence([]).compile({}), input_buffer=None)
    with pytest.raises(NotAttachableError, match=r"dispatch='separate'"):
        sources.attach(fused)
    for thing in (print, 3, None, "x", object()):
        with pytest.raises(NotAttachableError, match=r"rec\.step"):
            sources.attach(thing)


def test_reference_mode_dispatches_nothing_and_is_refused() -> None:
    callable_ = three_steps(FakeV6)
    callable_._steps = [(o, None, n, a) for o, _, n, a in callable_._steps]  # type: ignore[attr-defined]
    with pytest.raises(NotAttachableError, match=r"dispatch='separate'"):
        sources.attach(callable_)


def test_tensors_without_a_safe_read_are_refused() -> None:
    callable_ = three_steps()
    callable_._execution_plan[0] = (callable_._execution_plan[0][0], [object(), object()])
    with pytest.raises(NotAttachableError, match=r"no numpy\(\)"):
        sources.attach(callable_)


def test_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    callable_ = three_steps()
    callable_.op.plan_scratch = True  # type: ignore[attr-defined]
    assert origin_of(callable_)["variant"] == "V3"
    assert origin_of(callable_)["flavour"] == "iron-2026-08"
    assert origin_of(three_steps(FakeV6))["flavour"] == "iron-2026-09"

    class NPU2Col8:
        name = "npu2"

    monkeypatch.setitem(sys.modules, "aie.utils", types.SimpleNamespace(get_current_device=NPU2Col8))
    assert origin_of(callable_)["device"] == "npu2"
    monkeypatch.setitem(sys.modules, "aie.utils", types.SimpleNamespace(get_current_device=lambda: 1 / 0))
    assert "device" not in origin_of(callable_)


def test_a_source_is_taken_as_it_is() -> None:
    source = sources.attach(three_steps())
    assert sources.attach(source) is source
