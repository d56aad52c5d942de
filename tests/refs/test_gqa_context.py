# SPDX-License-Identifier: Apache-2.0
"""GQAContext: rational sums, the kernel's float32 order one addition at a time, torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, nearest, normal, to_torch, ulps, value
from fusion_replay.errors import UsageError
from fusion_replay.refs import reference

shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.sampled_from([32, 48, 64, 128]), st.integers(1, 3))


def _params(shape: tuple[int, int, int, int]) -> dict[str, int]:
    return dict(zip(("groups", "heads_per_group", "seq_len", "head_dim"), shape, strict=True))


def _drawn(shape: tuple[int, int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    groups, heads, length, dim = shape
    rng = np.random.default_rng(seed)
    return normal(rng, (groups, length, dim)), array(rng.integers(0x3A00, 0x3F80, (groups, heads, length)))


@settings(deadline=None, max_examples=15)
@given(shape=shapes, seed=st.integers(0, 99))
def test_exact_is_the_sum_rounded_once(shape: tuple[int, int, int, int], seed: int) -> None:
    cache, weights = _drawn(shape, seed)
    weights = weights.reshape(shape[0], shape[1], shape[2])
    (ctx,) = reference("GQAContext", _params(shape), [cache, weights])
    for g, h, d in np.ndindex(ctx.shape):
        terms = zip(bits_of(cache[g, :, d]), bits_of(weights[g, h]), strict=True)
        want = nearest(sum(value(int(a)) * value(int(b)) for a, b in terms))
        assert bits_of(ctx[g, h, d : d + 1]).tolist() == [want]


@settings(deadline=None, max_examples=15)
@given(shape=shapes, seed=st.integers(0, 99))
def test_irons_form_adds_in_lanes(shape: tuple[int, int, int, int], seed: int) -> None:
    cache, weights = _drawn(shape, seed)
    weights = weights.reshape(shape[0], shape[1], shape[2])
    length = shape[2]
    lanes = next(w for w in (64, 32, 16) if length % w == 0 and length >= 2 * w)
    for flavour in ("pr117", "iron-2026-08", "iron-2026-09"):
        (ctx,) = reference("GQAContext", _params(shape), [cache, weights], flavour)
        for g, h, d in np.ndindex(ctx.shape):
            sums = [np.float32(0)] * lanes
            for i in range(length):
                product = np.float32(float(value(int(bits_of(cache[g, i, d : d + 1])[0])))) * np.float32(
                    weights[g, h, i]
                )
                sums[i % lanes] = product if i < lanes else np.float32(sums[i % lanes] + product)
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [np.float32(sums[j] + sums[j + half]) for j in range(half)]
            assert bits_of(ctx[g, h, d : d + 1]).tolist() == [nearest(Fraction(float(sums[0])))]


def test_the_two_forms_differ_by_a_last_bit_at_most() -> None:
    cache, weights = _drawn((2, 4, 256, 64), 3)
    params = {"groups": 2, "heads_per_group": 4, "seq_len": 256}
    (lanes,) = reference("GQAContext", params, [cache, weights], "iron-2026-09")
    (exact,) = reference("GQAContext", params, [cache, weights])
    off = ulps(lanes, exact)
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-2


@pytest.mark.torch
def test_torch_tensors_give_the_same_bits() -> None:
    torch = pytest.importorskip("torch")
    cache, weights = _drawn((2, 3, 64, 32), 4)
    params = {"groups": 2, "heads_per_group": 3, "seq_len": 64, "head_dim": 32}
    for flavour in ("iron-2026-09", "exact"):
        (mine,) = reference("GQAContext", params, [cache, weights], flavour)
        (theirs,) = reference("GQAContext", params, [to_torch(cache), to_torch(weights)], flavour)
        assert theirs.dtype == torch.bfloat16
        np.testing.assert_array_equal(bits_of(theirs), bits_of(mine))


def test_a_length_the_kernel_cannot_take() -> None:
    shape = (1, 1, 40, 1)
    with pytest.raises(UsageError, match="GQAContext: seq_len 40: expected a multiple of 16"):
        reference("GQAContext", _params(shape), [array([0] * 40), array([0] * 40)], "iron-2026-09")


def test_the_kernels_lanes_fold_in_halves() -> None:
    """Lanes 0 and 8 meet in the first fold and cancel; met any later, the 1 of lane 4 would drown in 2**30."""
    cache = np.zeros((1, 32, 1), np.float32)
    cache[0, [0, 4, 8], 0] = [2.0**30, 1, -(2.0**30)]
    params = {"groups": 1, "heads_per_group": 1, "seq_len": 32, "head_dim": 1}
    (ctx,) = reference("GQAContext", params, [cache, np.ones((1, 1, 32), np.float32)], "iron-2026-09")
    assert ctx.reshape(-1).tolist() == [1]
