# SPDX-License-Identifier: Apache-2.0
"""Products as intervals: hand-made float32 sums in several orders stay inside, other products do not."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_replay.compare.numerics.bfp16 import bfp16
from fusion_replay.compare.numerics.intervals import even_bf16, floor_bf16
from fusion_replay.compare.numerics.products import Dot, Tiles, matmul, matvec
from fusion_replay.model.bf16 import BFLOAT16, narrow


def draw(seed: int, *shape: int) -> np.ndarray:
    return narrow(np.random.default_rng(seed).standard_normal(shape))


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "eights"])
def test_a_vector_product_holds_sums_in_any_order(order: str) -> None:
    a, b = draw(0, 1, 40, 256), draw(1, 1, 256)
    products = wide(a)[0] * wide(b)
    turned = {
        "forward": np.arange(256),
        "backward": np.arange(256)[::-1],
        "shuffled": np.random.default_rng(2).permutation(256),
        "eights": np.arange(256).reshape(8, 32).T.reshape(-1),
    }[order]
    lanes = np.zeros((40, 8), np.float32)
    for i, k in enumerate(turned):
        lanes[:, i % 8] += products[:, k]
    total = lanes[:, 0]
    for i in range(1, 8):
        total = total + lanes[:, i]
    found = matvec(Dot(16), a, b, exact=False, flushes=False)
    assert (found.lo[0] <= total).all()
    assert (total <= found.hi[0]).all()
    assert found.free is None


def test_a_lost_term_is_outside() -> None:
    a, b = draw(3, 1, 64, 128), draw(4, 1, 128)
    whole = matvec(Dot(16), a, b, exact=False, flushes=False)
    short = (wide(a)[0, :, :-8] * wide(b)[0, :-8]).sum(axis=1, dtype=np.float64)
    assert np.mean((short < whole.lo[0]) | (short > whole.hi[0])) > 0.95


def tiled(a: np.ndarray, b: np.ndarray, tile: int, rounding: object, convert: bool = False) -> np.ndarray:
    """C rounded after each tile, eight products at a time, in float64 rounded to float32."""
    a64, b64 = (x.astype(np.float64) for x in (a, b))
    if convert:
        a64, b64 = (bfp16(x, "conv_even") for x in (a64, b64))
    c = np.zeros((len(a), len(b)), np.float32)
    for k in range(0, a.shape[1], 8):
        c = (c + a64[:, k : k + 8] @ b64[:, k : k + 8].T).astype(np.float32)
        if (k + 8) % tile == 0:
            c = rounding(c)  # type: ignore[operator]
    return c


@pytest.mark.parametrize(("mode", "rounding"), [("conv_even", even_bf16), ("floor", floor_bf16)])
def test_a_matrix_product_follows_its_tiles(mode: str, rounding: object) -> None:
    a, b = draw(5, 150, 256), draw(6, 270, 256)
    c = tiled(a, b, 64, rounding)
    inside = matmul(Tiles(64, True, False), a, b, mode, "W", False)
    narrow_ = {"conv_even": even_bf16, "floor": floor_bf16}[mode]
    assert (narrow_(inside.lo) <= c).all()
    assert (c <= narrow_(inside.hi)).all()
    other = tiled(a, b, 32, rounding)
    assert np.mean((other < narrow_(inside.lo)) | (other > narrow_(inside.hi))) > 0.05


@pytest.mark.parametrize("level", ["W", "P", "M"])
def test_block_floating_point_is_inside_each_level_and_the_model_is_the_narrowest(level: str) -> None:
    a, b = draw(7, 40, 512), draw(8, 24, 512)
    c = tiled(a, b, 64, even_bf16, convert=True)
    found = matmul(Tiles(64, True, True), a, b, "conv_even", level, False)
    lo, hi = even_bf16(found.lo), even_bf16(found.hi)
    assert ((lo <= c) & (c <= hi)).all()
    assert (np.mean(lo == hi) > 0.9) == (level == "M")


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e15])
def test_the_likely_width_follows_the_operands_scale(scale: float) -> None:
    a, b = draw(9, 16, 256), draw(10, 16, 256)
    plain = matmul(Tiles(64, True, True), a, b, "conv_even", "P", False)
    power = 2.0 ** round(np.log2(scale))
    scaled = narrow(a.astype(np.float64) * power)
    found = matmul(Tiles(64, True, True), scaled, b, "conv_even", "P", False)
    assert np.allclose((found.hi - found.lo) / power, plain.hi - plain.lo, rtol=1e-3)


def test_sums_that_may_overflow_are_free_and_rows_with_nan_are_nan() -> None:
    a, b = draw(11, 4, 64), draw(12, 3, 64)
    a[1, 5] = np.nan
    a[2] = narrow(np.full(64, 3e38))
    found = matmul(Tiles(64, True, False), a, b, "conv_even", "W", False)
    assert found.free is not None
    assert found.free.all(axis=1).tolist() == [False, False, True, False]
    assert np.isnan(found.lo).all(axis=1).tolist() == [False, True, False, False]
    assert np.isnan(found.hi).all(axis=1).tolist() == [False, True, False, False]
    assert a.dtype == BFLOAT16
    assert np.isnan(float(a[1, 5]))  # the operands stay the caller's


def test_operands_too_large_to_be_widened_at_once_give_the_same_as_their_parts() -> None:
    """K of 32768 leaves 256 rows to a band; what is free stays in its row."""
    a, b = draw(13, 260, 32768), draw(14, 8, 32768)
    a[258, 3] = np.inf
    whole = matmul(Tiles(8192, True, True), a, b, "conv_even", "P", False)
    parts = [matmul(Tiles(8192, True, True), rows, b, "conv_even", "P", False) for rows in (a[:256], a[256:])]
    assert np.array_equal(whole.lo, np.concatenate([part.lo for part in parts]))
    assert np.array_equal(whole.hi, np.concatenate([part.hi for part in parts]))
    assert whole.free is not None
    assert np.flatnonzero(whole.free.any(axis=1)).tolist() == [258]
    assert parts[0].free is None
