# SPDX-License-Identifier: Apache-2.0
"""``fr.check``: one call from an operator or a callable to a verdict."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MismatchError, NotAttachableError, UsageError
from fusion_replay.simulator.operators import ElementwiseAdd, StridedCopy

BF16 = ml_dtypes.bfloat16
X = np.arange(64, dtype=np.float32).astype(BF16)


def add() -> ElementwiseAdd:
    return ElementwiseAdd(size=64, tile_size=16, num_aie_columns=4)


def test_an_operator_by_name_or_in_order() -> None:
    for inputs in ([X, X], {"A": X, "B": X}):
        report = fr.check(add(), inputs)
        assert report.passed
        assert report.steps[0].stats.ref_max == 126.0
    assert fr.check(add(), [X, X], device="npu1").recorded_on == ("the software NPU (npu1)",)


def test_runtime_values_and_old_contents() -> None:
    op = StridedCopy(input_sizes=(64,), input_strides=(1,), input_offset=0, output_sizes=(64,), output_strides=(1,),
                     output_offset=0, input_buffer_size=64, output_buffer_size=128,
                     output_offset_parameter="row")  # fmt: skip
    old = np.full(128, 7, np.float32).astype(BF16)
    report = fr.check(op, {"A": X, "C": old}, values={"row": 64})
    assert report.steps[0].stats.bit_equal


def test_a_callable_that_is_wrong_raises_with_the_table() -> None:
    call = fr.simulate([(add(), "a", "b", "c")], device="npu2", faults=["0:0:shift"], input_args=["a", "b"])
    with pytest.raises(MismatchError) as caught:
        fr.check(call, {"a": X, "b": X})
    assert "1 of 1 step mismatches, first 0:0 ElementwiseAdd a, b -> c" in str(caught.value)
    assert "operator" in str(caught.value)


def test_what_fits_nothing_is_said() -> None:
    with pytest.raises(UsageError, match=r"expected 2 inputs \(A, B\), found 1"):
        fr.check(add(), [X])
    with pytest.raises(
        UsageError, match=r"A of ElementwiseAdd takes bfloat16 \(64,\), 128 bytes; found float32 \(64,\)"
    ):
        fr.check(add(), [X.astype(np.float32), X])
    with pytest.raises(UsageError, match=r"found bfloat16 \(3,\), 6 bytes"):
        fr.check(add(), {"A": X, "B": X[:3]})
    with pytest.raises(UsageError):
        fr.check(add(), {"Z": X})
    with pytest.raises(NotAttachableError, match="get_callable"):
        fr.check(object(), [X])
