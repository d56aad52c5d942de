# SPDX-License-Identifier: Apache-2.0
"""Arrays between libraries and dtypes: the bits stay, and what must be rounded is rounded once."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.compare.verdict import compare
from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.model.arrays import as_array, as_dtype, from_torch, need_torch, numpy_dtype, to_torch
from fusion_replay.model.runlist import DTYPE_BYTES

BF16 = np.dtype(ml_dtypes.bfloat16)
EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint16)  # NaN payloads and both zeros included


@pytest.mark.parametrize("name", DTYPE_BYTES)
def test_every_dtype_of_a_snapshot_has_its_name_and_size(name: str) -> None:
    assert numpy_dtype(name).name == name
    assert numpy_dtype(name).itemsize == DTYPE_BYTES[name]


def test_a_wider_result_is_rounded_once() -> None:
    above_the_tie = np.array([[1 + 2.0**-8 + 2.0**-40], [1 + 2.0**-8], [1 + 3 * 2.0**-8]])
    found = as_dtype(above_the_tie, "bfloat16")
    assert found.dtype == BF16
    assert found.astype(np.float64).tolist() == [[1 + 2.0**-7], [1.0], [1 + 2.0**-6]]  # over float32: 1.0 at first
    assert as_dtype(np.float32([1.5]), "float64").dtype == np.float64


def test_the_same_dtype_is_the_same_array() -> None:
    x = EVERY_PATTERN.view(BF16)
    assert as_dtype(x, "bfloat16") is x


def test_what_can_be_recorded() -> None:
    big = np.arange(6, dtype=">i4").reshape(2, 3)
    assert as_array(big.T, "A").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert as_array(big.T, "A").dtype.isnative
    assert as_array(big.T, "A").flags.c_contiguous
    assert as_array(np.float32(2), "A").shape == ()
    with pytest.raises(UsageError, match="argument A: dtype complex128 cannot be recorded"):
        as_array(1j, "A")


def test_tensors_with_a_numpy_method_are_asked_for_it() -> None:
    class Tensor:
        def numpy(self) -> np.ndarray[tuple[int], np.dtype[np.int8]]:
            return np.array([7], np.int8)

    assert as_array(Tensor(), "A").tolist() == [7]


@pytest.mark.torch
def test_bits_survive_torch_and_back() -> None:
    torch = pytest.importorskip("torch")
    tensor = to_torch(EVERY_PATTERN.view(BF16).reshape(256, 256))
    assert tensor.dtype == torch.bfloat16
    assert from_torch(tensor).dtype == BF16
    np.testing.assert_array_equal(from_torch(tensor).view(np.uint16).ravel(), EVERY_PATTERN)
    np.testing.assert_array_equal(as_array(tensor.T, "A").view(np.uint16), EVERY_PATTERN.reshape(256, 256).T)
    assert from_torch(torch.nn.Parameter(torch.ones(2))).tolist() == [1, 1]


@pytest.mark.torch
def test_a_view_that_torch_negates_lazily() -> None:
    torch = pytest.importorskip("torch")
    lazy = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert lazy.is_neg()
    assert from_torch(lazy).tolist() == [-2, 4]
    assert compare(lazy, np.float32([-2, 4]))


def test_no_torch_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fusion-replay\[torch\]'"):
        need_torch()
