# SPDX-License-Identifier: Apache-2.0
"""Softmax of the software NPU: the shortcuts of either kernel, and the runtime mask."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
STATES = [(g, r) for g in ("npu1", "npu2") for r in ("floor", "conv_even")]


def run(core: Core, x: np.ndarray, *, size: int | None = None, **params: object) -> np.ndarray:
    p = SimpleNamespace(rows=x.shape[0], cols=x.shape[1], **params)
    (out,) = find_kernel("Softmax").run(Dispatch(core, p, [x], (), {} if size is None else {"vector_size": size}))
    return out.astype(np.float64).reshape(x.shape)


def truth(x: np.ndarray) -> np.ndarray:
    power = np.exp(x.astype(np.float64) - x.astype(np.float64).max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("generation", "rounding"), STATES)
def test_honest_within_iron_tolerance_and_never_exact(generation: str, rounding: str) -> None:
    x = (np.random.default_rng(2).standard_normal((32, 256)) * 3).astype(BF16)
    core = Core(generation, rounding)
    out, exact = run(core, x), truth(x)
    difference = np.abs(out - exact)
    assert (difference < np.maximum(1e-6, 0.04 * (out + exact))).all()
    assert (out != exact.astype(np.float32).astype(BF16).astype(np.float64)).mean() > 0.3
    assert np.abs(out.sum(axis=1) - 1).max() < 0.02
    assert core.rounding == rounding


@pytest.mark.parametrize(("generation", "rounding"), STATES)
def test_masked_tail_is_zero_and_ignored(generation: str, rounding: str) -> None:
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((16, 128)) * 2).astype(BF16)
    out = run(Core(generation, rounding), x, size=37)
    assert (out[:, 37:] == 0).all()
    assert (out[:, :37] > 0).all()
    np.testing.assert_allclose(out[:, :37], truth(x[:, :37]), rtol=0.06)
    other = x.copy()
    other[:, 37:] = (rng.standard_normal((16, 91)) * 50).astype(BF16)
    np.testing.assert_array_equal(run(Core(generation, rounding), other, size=37), out)
    assert (run(Core(generation, rounding), x, size=1)[:, 0] == pytest.approx(1, abs=2**-7)) is True


def test_the_designs_own_vector_size_masks_too() -> None:
    x = np.zeros((16, 64), BF16)
    assert (run(Core("npu2"), x, rtp_vector_size=32)[:, 32:] == 0).all()
    assert (run(Core("npu2"), x, rtp_vector_size=32, size=64) > 0).all()  # the dispatch's value wins


@pytest.mark.parametrize("size", [0, 65, 2.5, -1])
def test_bad_vector_size(size: float) -> None:
    with pytest.raises(UsageError, match=r"Softmax: vector_size=.*from 1 to 64"):
        run(Core("npu2"), np.zeros((16, 64), BF16), size=size)


def test_log2_e_is_a_bfloat16_on_npu2() -> None:
    """1.4453125 for 1.4427: at 16 below the maximum an exponential is off by 16 * 0.18 % = 2.9 %, and low."""
    x = np.zeros((16, 64), BF16)
    x[:, 1:] = BF16(-16)
    x[:, 0] = BF16(8)  # a maximum above 0 is taken off
    x[:, 1:] = BF16(-8)
    out = run(Core("npu2", "conv_even"), x)
    ratio = out[0, 1] / out[0, 0] / np.exp(-16.0)
    assert ratio == pytest.approx(2 ** (-16 * (1.4453125 - np.log2(np.e))), rel=2**-6)


def test_a_negative_row_has_no_maximum_taken_off_on_npu2() -> None:
    x = np.full((16, 64), -300, BF16)  # exp2(-433) is below everything: sum 0, reciprocal Inf
    assert np.isnan(run(Core("npu2"), x)).all()
    assert run(Core("npu2"), np.full((16, 64), -60, BF16)).sum(axis=1) == pytest.approx(np.ones(16), abs=0.01)


def test_npu1_takes_no_maximum_off() -> None:
    x = np.full((16, 64), 89, BF16)  # clamped to 88: 64 * exp(88) overflows float32, the reciprocal is 0
    assert (run(Core("npu1"), x) == 0).all()
    assert run(Core("npu2"), x)[0, 0] == pytest.approx(1 / 64, rel=2**-7)
