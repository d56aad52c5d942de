# SPDX-License-Identifier: Apache-2.0
"""Matrix products as intervals, block by block: float32 sums in any order, C rounded between K tiles, bfp16 operands.

u = 2^-24 is float32's rounding. A sum of n products whose order is free is off by at most (n / 8 + 7) u of the sum of
its terms' magnitudes: every kernel adds at least eight of them side by side (Higham, "Accuracy and Stability of
Numerical Algorithms", section 4.2). For a matrix product the magnitudes' sum is bounded by Cauchy and Schwarz.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.bfp16 import bfp16, bfp16_error, square_errors
from fusion_replay.compare.numerics.intervals import F32, F64, ROUND, Interval, Mask, spread
from fusion_replay.model.bf16 import bits_to_float32, wide

U = 2.0**-24
_UNDERFLOW = 2.0**-149  # of one product or sum in float32
_TINY = 2.0**-126  # where a device may make it zero
_SIDE_BY_SIDE = 8
_LARGEST = 3.4028235e38

LAMBDA = 6.0
"""Standard deviations that level P allows: beyond it lies one honest element in 5e8."""

_VECTOR_BLOCK = 1 << 17  # elements of a matrix widened at a time
_OPERAND = 1 << 22  # elements of either operand of a matrix product that are widened at a time
_BLOCK_M, _BLOCK_N = 128, 256  # of a product: the work on one block of C stays in cache


@dataclass(frozen=True, slots=True)
class Dot:
    """Matrix times vector: ``lanes`` running sums; ``repeat`` consecutive vectors share a matrix."""

    lanes: int
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Tiles:
    """Matrix times matrix: K in tiles of ``tile_k``, C narrowed between them or not, operands in bfp16 or not."""

    tile_k: int
    between: bool
    bfp16: bool


def matvec(how: Dot, a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], exact: bool, flushes: bool) -> Interval:
    """``(matrices, M, K)`` times ``(vectors, K)``, both as stored: ``(vectors, M)``; ``exact``: in ``how.lanes``."""
    vectors = wide(b)
    inner = a.shape[-1]
    per = inner / (how.lanes if exact else _SIDE_BY_SIDE) + 7
    tiny = inner * (_TINY if flushes else _UNDERFLOW)
    centre, terms = (np.empty((len(vectors), a.shape[1])) for _ in range(2))
    rows = max(1, _VECTOR_BLOCK // inner)
    for start in range(0, a.shape[1], rows):
        cut = slice(start, start + rows)
        for i in range(len(a)):
            block, some = wide(a[i, cut]), slice(i * how.repeat, (i + 1) * how.repeat)
            centre[some, cut] = vectors[some] @ block.T
            terms[some, cut] = np.abs(vectors[some]) @ np.abs(block).T
    return spread(centre, per * U * terms + tiny, terms)


def matmul(
    how: Tiles, a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], mode: str, level: str, flushes: bool
) -> Interval:
    """``a`` ``(M, K)`` times ``b`` ``(N, K)``, both as stored: ``(M, N)`` before the last rounding.

    A row with NaN gives NaN: in bfp16, which has none, the conversion is taken to hand it on.
    """
    lo, hi = (np.empty((len(a), len(b)), np.float32) for _ in range(2))
    free = np.zeros(lo.shape, np.bool_)
    kind = _Likely if how.bfp16 and level == "P" and mode == "conv_even" else _Certain
    step = max(_BLOCK_M, _BLOCK_N, _OPERAND // max(1, a.shape[1]))
    for rows in _cuts(len(a), step):
        left, bad_left = _finite(a[rows])
        for columns in _cuts(len(b), step):
            right, bad_right = _finite(b[columns])
            part_lo, part_hi = lo[rows, columns], hi[rows, columns]
            with np.errstate(all="ignore"):
                work = kind(how, left, right, mode, level, flushes)
                for block in ((r, c) for r in _cuts(len(left), _BLOCK_M) for c in _cuts(len(right), _BLOCK_N)):
                    part_lo[block], part_hi[block] = work.block(*block)
                reach = 2.0 * np.multiply.outer(*work.norms)
            free[rows, columns] = np.logical_or.outer(bad_left, bad_right) | ~(reach < _LARGEST)
    due = None if not free.any() else np.logical_or.outer(_has_nan(a), _has_nan(b))
    if due is not None and due.any():
        lo[due] = hi[due] = np.nan
        free &= ~due
    return Interval(lo, hi, free if free.any() else None)


def _cuts(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))


def _finite(x: npt.NDArray[np.generic]) -> tuple[F32, Mask]:
    """As float32, NaN and Inf as 0, and which rows have some."""
    bits = np.ascontiguousarray(x.view(np.uint16))
    bad = (bits & np.uint16(0x7F80)) == np.uint16(0x7F80)
    if not bad.any():
        return bits_to_float32(bits), np.zeros(len(bits), np.bool_)
    return bits_to_float32(np.where(bad, np.uint16(0), bits)), np.asarray(bad.any(axis=1))


def _has_nan(x: npt.NDArray[np.generic]) -> Mask:
    magnitude = np.ascontiguousarray(x).view(np.uint16) & np.uint16(0x7FFF)
    return np.asarray((magnitude > 0x7F80).any(axis=1))


def _tiles(how: Tiles, inner: int) -> list[slice]:
    tile = how.tile_k if how.between else inner
    return [slice(k, min(k + tile, inner)) for k in range(0, inner, tile)]


class _Certain:
    """Lower end rounded and upper end rounded, tile by tile; exact products, in float64.

    ``norms``: of the rows of both operands, whole.
    """

    def __init__(self, how: Tiles, left: F32, right: F32, mode: str, level: str, flushes: bool) -> None:
        sides = [left.astype(np.float64), right.astype(np.float64)]
        self.tiles = _tiles(how, left.shape[1])
        self.round = ROUND[mode] if how.between else None
        self.errors: list[tuple[F64, F64]] = []
        if how.bfp16 and level == "M":
            sides = [bfp16(x, mode) for x in sides]
        elif how.bfp16:
            off = [bfp16_error(x) for x in sides]
            size = [np.abs(x) for x in sides]
            # |A| E_B + E_A (|B| + E_B)
            self.errors = [
                (np.hstack((size[0][:, k], off[0][:, k])), np.hstack((off[1][:, k], size[1][:, k] + off[1][:, k])))
                for k in self.tiles
            ]
        self.left, self.right = sides
        squares = [[np.einsum("rk,rk->r", x[:, k], x[:, k]) for k in self.tiles] for x in sides]
        self.parts = [[np.sqrt(s).astype(np.float32) for s in side] for side in squares]
        self.norms = [np.sqrt(np.sum(side, axis=0)) for side in squares]
        # A step of the matrix unit takes eight of K; twice that for another order, and the roundings of this code.
        tile = self.tiles[0].stop if self.tiles else 0
        self.per = np.float32((tile / 4 + 8) * U)
        self.tiny = np.float32(tile * (_TINY if flushes else _UNDERFLOW))

    def block(self, rows: slice, columns: slice) -> tuple[F32, F32]:
        lo = hi = np.zeros((1, 1), np.float32)
        for t, k in enumerate(self.tiles):
            product = (self.left[rows, k] @ self.right[columns, k].T).astype(np.float32)
            radius = np.multiply.outer(self.parts[0][t][rows], self.parts[1][t][columns])
            if t:
                radius += np.maximum(np.abs(lo), np.abs(hi))
            radius *= self.per
            radius += self.tiny
            if self.errors:
                a, b = self.errors[t]
                radius += (1 + 8 * U) * (a[rows] @ b[columns].T)
            if t and self.round is not None:
                lo, hi = self.round(lo), self.round(hi)
            lo, hi = lo + (product - radius), hi + (product + radius)
        return np.broadcast_to(lo, hi.shape), hi


class _Likely:
    """The exact product +- LAMBDA sigma: conversion errors and C's roundings between tiles as independent ones."""

    def __init__(self, how: Tiles, left: F32, right: F32, mode: str, level: str, flushes: bool) -> None:
        # In float64, whose last bits a BLAS may choose unseen: in float32 a report would depend on the machine.
        self.left, self.right = left.astype(np.float64), right.astype(np.float64)
        self.tiles = _tiles(how, left.shape[1])
        self.squares, self.scales, self.norms = zip(*(square_errors(x) for x in (left, right)), strict=True)
        tile, count = self.tiles[0].stop if self.tiles else 0, len(self.tiles)
        self.per = (tile / 4 + 9) * count * U  # as above, for each tile
        self.tiny = np.float32(left.shape[1] * (_TINY if flushes else _UNDERFLOW))

    def block(self, rows: slice, columns: slice) -> tuple[F32, F32]:
        inner = self.left.shape[1]
        a, b = self.squares[0][rows], self.squares[1][columns]
        variance = a[:, :inner] @ b[:, inner:].T
        variance += a[:, inner:] @ b[:, :inner].T
        scale = np.multiply.outer(self.scales[0][rows], self.scales[1][columns])
        reach = np.multiply.outer(self.norms[0][rows], self.norms[1][columns])
        ordinary = bool(reach.size) and reach.min() > 1e-15 and reach.max() < 1e15  # squares stay in float32
        centre = np.zeros(variance.shape, np.float32)
        steps = np.zeros(variance.shape, np.float32 if ordinary else np.float64)
        for t, k in enumerate(self.tiles):
            if t:
                # C was rounded: its ulp is its power of two over 128, the error's variance ulp^2 / 12.
                power = (centre.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
                steps += np.square(power, dtype=steps.dtype)
            centre += self.left[rows, k] @ self.right[columns, k].T
        radius = LAMBDA * np.hypot(np.sqrt(variance) * scale, np.sqrt(steps / 12) / 128) + self.per * reach
        narrow = radius.astype(np.float32) + self.tiny
        return centre - narrow, centre + narrow
