# SPDX-License-Identifier: Apache-2.0
"""MHA and GQAContext of the software NPU."""

from __future__ import annotations

import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal attention in float64; ``(heads, S, 64)``, heads of K and V shared by runs of heads of Q."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, len(q) // len(x), axis=0) for x in (k, v))
    scores = q @ k.swapaxes(1, 2) / 8
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def draw(heads: int, kv: int, length: int, seed: int = 0, spread: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, length, 64)) * spread).astype(BF16) for n in (heads, kv, kv)]


def mha(core: Core, inputs: list[np.ndarray], seq_len: int, **params: object) -> np.ndarray:
    p = SimpleNamespace(num_heads=len(inputs[0]), seq_len=seq_len, d=64, num_KV_heads=len(inputs[1]))
    vars(p).update(params)
    (out,) = find_kernel("MHA").run(Dispatch(core, p, inputs))
    return out


@pytest.mark.parametrize(("heads", "kv"), [(1, 1), (4, 2), (3, 1)])
def test_mha_lands_inside_the_reported_tolerance_and_not_on_the_reference(heads: int, kv: int) -> None:
    """amd/IRON iron/operators/mha.py allows 4 % or 0.15 and half a percent beyond."""
    inputs = draw(heads, kv, 256)
    core = Core("npu2")
    out = mha(core, inputs, 256).astype(np.float64)
    assert core.rounding == "conv_even"
    want = attention(*inputs)
    error = np.abs(out - want)
    allowed = np.maximum(0.15, 0.04 * (np.abs(out) + np.abs(want)))
    assert (error >= allowed).mean() <= 0.005
    relative = np.linalg.norm(out - want) / np.linalg.norm(want)
    assert 0.004 < relative < 0.03  # bfp16 products, bf16 powers and an output rounded for each block


def test_mha_first_row_is_the_first_value_in_bfp16() -> None:
    """Row 0 sees one key, with a score of 0 its weight is exactly 1: V comes out as its conversion to bfp16 left it, in
    a block whose exponent is that of the largest of eight keys."""
    inputs = draw(1, 1, 64, seed=5)
    inputs[0][...] = 0
    out = mha(Core("npu2"), inputs, 64).astype(np.float64)[0, 0]
    v = inputs[2][0].astype(np.float64)
    step = np.exp2(np.floor(np.log2(np.abs(v[:8]).max(axis=0))) - 6)
    np.testing.assert_array_equal(out, np.clip(np.rint(v[0] / step), -128, 127) * step)


def test_mha_with_one_block_by_hand() -> None:
    """A single row of scores, stage by stage in scalar float32 and Python's own rounding."""

    def bf16(x: float) -> float:
        return float(np.float32(x).astype(BF16))

    def block_float(values: list[float]) -> list[float]:
        out: list[float] = []
        for i in range(0, len(values), 8):
            part = values[i : i + 8]
            top = max(abs(x) for x in part)
            step = 2.0 ** (math.frexp(top)[1] - 7) if top else 1.0
            out += [min(max(round(x / step), -128), 127) * step for x in part]
        return out

    inputs = draw(1, 1, 64, seed=6)
    q, k, v = (x[0].astype(np.float64) for x in inputs)
    row = 37
    left = block_float(q[row].tolist())
    scores = [bf16(math.fsum(a * b for a, b in zip(left, block_float(k[j].tolist()), strict=True))) for j in range(64)]
    scaled = [s * 0.125 * 1.4453125 if j <= row else -1e38 for j, s in enumerate(scores)]
    top = max(0.0, *(bf16(s) for s in scaled))
    powers = [bf16(2.0 ** max(s - top, -200.0)) for s in scaled]
    inverse = bf16(1 / bf16(math.fsum(powers)))
    weights = block_float(powers)
    out = mha(Core("npu2"), inputs, 64).astype(np.float64)[0, row]
    for c in (0, 1, 31, 63):
        column = block_float(v[:, c].tolist())
        want = bf16(bf16(math.fsum(a * b for a, b in zip(weights, column, strict=True))) * inverse)
        assert out[c] == want


def test_mha_interleaved_heads_and_padding() -> None:
    inputs = draw(2, 1, 192, seed=2)
    plain = mha(Core("npu2"), inputs, 150)
    assert not plain[:, 150:].astype(np.float32).any()
    assert plain[:, :150].astype(np.float32).any()
    full = mha(Core("npu2"), inputs, 192)
    np.testing.assert_array_equal(plain[:, :150].astype(np.float32), full[:, :150].astype(np.float32))  # causal
    swapped = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in inputs]
    p = SimpleNamespace(num_heads=2, num_KV_heads=1, seq_len=150, heads_interleaved=True)
    (out,) = find_kernel("MHA").run(Dispatch(Core("npu2"), p, swapped))
    np.testing.assert_array_equal(out.swapaxes(0, 1).view(np.uint16), plain.view(np.uint16))


def test_mha_lengths_of_a_dispatch() -> None:
    inputs = draw(1, 1, 192, seed=4)
    p = SimpleNamespace(num_heads=1, seq_len=192)
    (short,) = find_kernel("MHA").run(Dispatch(Core("npu2"), p, inputs, (), {"s_q": 100, "s_kv": 70}))
    cut = [x.copy() for x in inputs]
    cut[1][:, 70:], cut[2][:, 70:] = 0, 0
    assert not short[:, 100:].astype(np.float32).any()
    # Up to 64, since the eighth block of V's second tile shares its exponents with the values that are cut here.
    np.testing.assert_array_equal(short[:, :64].view(np.uint16), mha(Core("npu2"), cut, 192)[:, :64].view(np.uint16))
    q, k, v = (x[:, :n].astype(np.float64) for x, n in zip(inputs, (192, 70, 70), strict=True))
    weights = np.exp(q @ k.swapaxes(1, 2) / 8)
    want = weights @ v / weights.sum(axis=-1, keepdims=True)
    assert np.abs(short[:, 70:100].astype(np.float64) - want[:, 70:100]).max() < 0.03
    with pytest.raises(UsageError, match="MHA: s_kv=193: expected 1 to 192 rows"):
        find_kernel("MHA").run(Dispatch(Core("npu2"), p, inputs, (), {"s_kv": 193}))


def test_mha_with_as_many_kv_heads_as_heads_may_say_zero() -> None:
    inputs = draw(2, 2, 64, seed=3)
    want = mha(Core("npu2"), inputs, 64)
    np.testing.assert_array_equal(mha(Core("npu2"), inputs, 64, num_KV_heads=0).view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize(("length", "lanes"), [(64, 32), (128, 64), (192, 64)])
@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_gqa_context_sums_lane_by_lane(generation: str, length: int, lanes: int) -> None:
    rng = np.random.default_rng(length)
    cache = rng.standard_normal((2, length, 16)).astype(BF16)
    weights = rng.random((2, 3, length)).astype(BF16)
    p = SimpleNamespace(groups=2, heads_per_group=3, seq_len=length, head_dim=16)
    core = Core(generation)
    (out,) = find_kernel("GQAContext").run(Dispatch(core, p, [cache, weights]))
    assert core.rounding == "floor"  # put back
    for g, h, d in ((0, 0, 0), (1, 2, 15), (1, 0, 7)):
        sums = [np.float32(0)] * lanes
        for i in range(length):
            product = np.float32(np.float32(cache[g, i, d]) * np.float32(weights[g, h, i]))
            sums[i % lanes] = np.float32(sums[i % lanes] + product)
        while len(sums) > 1:
            sums = [np.float32(a + b) for a, b in zip(sums, sums[len(sums) // 2 :], strict=False)]
        assert out.reshape(2, 3, 16)[g, h, d] == sums[0].astype(BF16)


def test_gqa_context_is_the_gemv_over_the_transposed_cache() -> None:
    """What amd/IRON iron/operators/gqa_context.py promises: the bits of the GEMV that it replaces."""
    rng = np.random.default_rng(8)
    cache, weights = rng.standard_normal((1, 128, 64)).astype(BF16), rng.random((1, 1, 128)).astype(BF16)
    p = SimpleNamespace(groups=1, heads_per_group=1, seq_len=128, head_dim=64)
    (out,) = find_kernel("GQAContext").run(Dispatch(Core("npu2"), p, [cache, weights]))
    matrix = np.ascontiguousarray(cache[0].T)
    (want,) = find_kernel("GEMV").run(
        Dispatch(Core("npu2", "conv_even"), SimpleNamespace(M=64, K=128), [matrix, weights[0, 0]])
    )
    np.testing.assert_array_equal(out.reshape(-1).view(np.uint16), want.reshape(-1).view(np.uint16))


def test_mha_rows_do_not_see_how_they_are_banded(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(1, 1, 640, seed=9)  # more than one band
    whole = mha(Core("npu2"), inputs, 640)
    monkeypatch.setattr("fusion_replay.simulator.kernels.mha.BAND", 192)
    np.testing.assert_array_equal(mha(Core("npu2"), inputs, 640).view(np.uint16), whole.view(np.uint16))
    assert np.abs(whole.astype(np.float64) - attention(*inputs)).max() < 0.05
