# SPDX-License-Identifier: Apache-2.0
"""Runlists on the software NPU: operators as IRON spells them, checks, buffer layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import RunlistError, UnknownOperatorError, UsageError
from fusion_replay.simulator import operators as ops
from fusion_replay.simulator.sequence import SimulatedSequence

ADD = ops.ElementwiseAdd(size=4096, tile_size=1024, num_aie_columns=4)
RELU = ops.ReLU(size=4096, num_aie_columns=4, num_channels=1, tile_size=1024)
HALF = ops.ReLU(size=2048, num_aie_columns=2, num_channels=1, tile_size=1024)


def sequence(runlist: Any, inputs: Any = (), outputs: Any = (), **options: Any) -> SimulatedSequence:
    return SimulatedSequence("seq", runlist, inputs, outputs, **options)


# --- operators --------------------------------------------------------------------------------------------------


def test_operator_classes_look_like_irons() -> None:
    assert type(ADD).__name__ == "ElementwiseAdd"
    assert ops.ElementwiseAdd is ops.ElementwiseAdd
    assert [f.name for f in dataclasses.fields(ADD)][:3] == ["size", "tile_size", "num_aie_columns"]
    assert dataclasses.fields(ADD)[-1].name == "context"
    assert ops.ElementwiseAdd(4096, 1024, 4).params == ADD.params, "IRON's positional order"
    specs = ADD.get_arg_spec()
    assert [(s.direction, s.shape, s.dtype) for s in specs] == [
        ("in", (4096,), ml_dtypes.bfloat16),
        ("in", (4096,), ml_dtypes.bfloat16),
        ("out", (4096,), ml_dtypes.bfloat16),
    ]
    assert [(s.reads, s.writes, s.nbytes()) for s in specs] == [(True, False, 8192)] * 2 + [(False, True, 8192)]
    assert ADD.name == "ElementwiseAdd_sz4096_t1024_c4"


def test_reference_is_irons_form() -> None:
    a, b = (np.full(4096, v, ml_dtypes.bfloat16) for v in (1.5, 2.25))
    assert ADD.reference(a, b).tolist() == [3.75] * 4096
    copy = ops.StridedCopy((8,), (1,), 0, (8,), (2,), 0, 8, 32)
    out = copy.reference(np.arange(1, 9).astype(ml_dtypes.bfloat16))
    assert out.astype(int).tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0] + [0] * 16


def test_missing_and_wrong_fields_are_reported_at_once() -> None:
    with pytest.raises(UsageError, match="'size' \\(int\\) is required"):
        ops.ElementwiseAdd()
    with pytest.raises(UsageError, match="M='many'"):
        ops.GEMV(M="many", K=64)
    with pytest.raises(AttributeError, match="NoSuchOperator"):
        _ = ops.NoSuchOperator


# --- bad runlists -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runlist", "options", "says"),
    [
        ([], {}, "empty"),
        ([ADD], {}, "step 0: expected \\(operator, buffer name"),
        ([()], {}, "step 0: expected"),
        ([("add", "a", "b", "c")], {}, "'add' is no operator"),
        ([(ops.ElementwiseAdd, "a", "b", "c")], {}, "is no operator object"),
        ([(RELU, "x", "y"), (ADD, "a", 3, "c")], {}, "step 1 \\(ElementwiseAdd\\): buffer names must be text, found 3"),
        ([(ADD, "a", "c")], {}, "step 0 \\(ElementwiseAdd\\): expected 3 buffers \\(A, B, C\\), found 2 \\(a, c\\)"),
        ([(RELU, "x", "y", "z")], {}, "expected 2 buffers .*, found 3"),
        ([(RELU, "x", "y"), (HALF, "y", "z")], {}, "needs 2048 elements .*'y' has 4096 since step 0"),
        ([(RELU, "x", "y")], {"buffer_sizes": {"y": 8190}}, "needs 8192 bytes, but buffer 'y' has 8190"),
        ([(RELU, "x[0:8192]", "y")], {}, "slice 'x\\[0:8192\\]' needs the size of its base"),
        ([(RELU, "x[8192:16384]", "y")], {"buffer_sizes": {"x": 8192}}, "lies outside its base of 8192 bytes"),
        ([(RELU, "x[0:4096]", "y")], {"buffer_sizes": {"x": 8192}}, "needs 8192 bytes .* slice .* has 4096"),
        ([(RELU, "x[32:8224]", "y")], {"buffer_sizes": {"x": 16384}}, "multiples of 64 bytes"),
        ([(RELU, "x[64:0]", "y")], {"buffer_sizes": {"x": 8192}}, "NAME\\[START:STOP\\]"),
        ([(RELU, "x[a:b]", "y")], {"buffer_sizes": {"x": 8192}}, "NAME\\[START:STOP\\]"),
        ([(RELU, "x[0:8192][0:64]", "y")], {"buffer_sizes": {"x": 8192}}, "one level of slicing|NAME\\[START:STOP\\]"),
        ([(RELU, "", "y")], {}, "one level of slicing"),
        ([(RELU, "x", "y")], {"buffer_sizes": {"y": -1}}, "expected a size in bytes"),
        ([(RELU, "x", "y")], {"inputs": ["w"]}, "input argument 'w' is used by no step; used: x, y"),
        ([(RELU, "x", "y")], {"outputs": ["z"]}, "output argument 'z'"),
    ],
)
def test_runlists_no_device_could_run(runlist: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(RunlistError, match=says) as caught:
        sequence(runlist, **options)
    assert "\n" not in str(caught.value)


def test_unknown_operators_devices_and_dispatch_modes() -> None:
    @dataclasses.dataclass(eq=False)
    class Mystery:
        size: int = 4

        def get_arg_spec(self) -> list[Any]:
            return []

    with pytest.raises(UnknownOperatorError, match="Mystery"):
        sequence([(Mystery(), "a")])
    with pytest.raises(UsageError, match=r"npu9.*npu1 or npu2"):
        sequence([(RELU, "x", "y")], device="npu9").get_callable()
    with pytest.raises(UsageError, match="npu1 runs no full ELF"):
        sequence([(RELU, "x", "y")], dispatch="fused")


def test_a_design_the_device_has_no_room_for() -> None:
    wide = ops.ElementwiseAdd(size=4096, tile_size=512, num_aie_columns=8)
    sequence([(wide, "a", "b", "c")], device="npu2").get_callable()
    with pytest.raises(UsageError, match="ElementwiseAdd: num_aie_columns=8"):
        sequence([(wide, "a", "b", "c")], device="npu1").get_callable()


# --- layout -----------------------------------------------------------------------------------------------------


def test_layout_in_bytes() -> None:
    s = sequence(
        [
            (ADD, "x", "w", "t"),
            (HALF, "cache[0:4096]", "half"),
            (RELU, "t", "t"),
            (ADD, "t", "x", "y"),
            (HALF, "half", "cache[4096:8192]"),
        ],
        ["x"],
        ["y"],
        buffer_sizes={"cache": 12288},
    )
    assert not hasattr(s, "subbuffer_layout"), "IRON's mark of a sequence that was not compiled"
    assert s.compile() is s
    assert s.subbuffer_layout == {
        "x": ("input", 0, 8192),
        "y": ("output", 0, 8192),
        "w": ("scratch", 0, 8192),
        "t": ("scratch", 8192, 8192),
        "half": ("scratch", 16384, 4096),
        "cache": ("scratch", 20480, 12288),
    }
    assert s.buffer_sizes == (8192, 8192, 32768)
    assert s.slice_info == {"cache[0:4096]": ("cache", 0, 4096), "cache[4096:8192]": ("cache", 4096, 8192)}
    assert s.get_layout_for_buffer("cache[4096:8192]") == ("scratch", 24576, 4096), "a length, not an end"
    assert s.explicit_buffer_sizes == {"cache": 12288}
    assert s.unique_operators() == [ADD, HALF, RELU]
    assert s.written_buffers() == {"t", "half", "y", "cache"}
    with pytest.raises(NotImplementedError):
        s.get_arg_spec()


def test_a_buffer_may_be_input_and_output_and_used_in_several_shapes() -> None:
    t = ops.Transpose(M=64, N=64, num_aie_columns=1, num_channels=1, m=32, n=32, s=8)
    s = sequence([(RELU, "x", "x"), (t, "x", "x")], ["x"], ["x"]).compile()
    assert s.subbuffer_layout == {"x": ("output", 0, 8192)}
