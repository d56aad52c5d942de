# SPDX-License-Identifier: Apache-2.0
"""What an operator on rows may have computed instead: norms, softmax, rotary positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.kernel import Kernel, Variant
from fusion_replay.diverge.causes.spans import F64
from fusion_replay.diverge.causes.values import FITTED, stabbed
from fusion_replay.model.bf16 import wide

NDArray = npt.NDArray[Any]
Change = Callable[[NDArray], NDArray]


def of_rope(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params

    def table(change: Callable[[F64, F64], tuple[F64, F64]]) -> Mapping[int, Change]:
        def changed(angles: NDArray) -> NDArray:
            out = angles.copy()
            cos, sin = change(angles[..., 0::2], angles[..., 1::2])
            out[..., 0::2], out[..., 1::2] = cos, sin
            return out

        return {1: changed}

    yield Variant("formula", "rotated the other way (the sine's sign)", 4, inputs=table(lambda c, s: (c, -s)))
    yield Variant("formula", "sine and cosine exchanged", 4, inputs=table(lambda c, s: (s, c)))
    yield Variant("formula", "not rotated", 4, formula=lambda x: x[0])
    half = {1: lambda angles: _halves(angles)}
    yield Variant("formula", "angles read as cosines, then sines", 4, inputs=half)
    rows = kernel.inputs[1].reshape(-1, p.cols).shape[0]
    if rows > 1:
        for by in (1, -1):
            move = {1: partial(_rolled, cols=p.cols, by=by)}
            yield Variant("formula", f"angles of the position {'after' if by > 0 else 'before'}", 4, inputs=move)
        yield Variant("formula", "the first row's angles in every row", 4, inputs={1: lambda a: _first_row(a, p.cols)})


def _rolled(angles: NDArray, cols: int, by: int) -> NDArray:
    return np.roll(angles.reshape(-1, cols), -by, axis=0)


def _halves(angles: NDArray) -> NDArray:
    out, n = angles.copy(), angles.shape[-1] // 2
    out[..., 0::2], out[..., 1::2] = angles[..., :n], angles[..., n:]
    return out


def _first_row(angles: NDArray, cols: int) -> NDArray:
    rows = angles.reshape(-1, cols)
    return np.tile(rows[:1], (len(rows), 1))


_EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def of_norm(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    p = kernel.bound_params
    yield from _epsilons(kernel, actual)
    width = p.tile_size
    eps = getattr(p, "epsilon", 1e-5)
    rms = kernel.spec.type == "RMSNorm"

    def normal(x: F64, *, centred: bool, epsilon: float, over: float = 1.0, outside: bool = False) -> F64:
        x = x.reshape(-1, width)
        x = x - x.mean(-1, keepdims=True) if centred else x
        square = (x * x).mean(-1, keepdims=True) / over
        return np.asarray(x / (np.sqrt(square) + epsilon) if outside else x / np.sqrt(square + epsilon))

    def weighed(what: Callable[[F64], F64], weigh: Callable[[F64, F64], F64]) -> Callable[[Sequence[F64]], F64]:
        return lambda x: weigh(what(x[0]), x[1].reshape(-1)) if len(x) > 1 else what(x[0])

    def told(detail: str, weigh: Callable[[F64, F64], F64] = lambda y, w: y * w, **how: Any) -> Variant:
        given = {"centred": not rms, "epsilon": eps, **how}
        return Variant("formula", detail, 4, formula=weighed(lambda x: normal(x, **given), weigh))

    yield told("the mean is taken off too" if rms else "the mean is not taken off", centred=rms)
    for n in (width - 1, *(width + more for more in (1, 8, 16, 32, 64, 128) if more < width), 2 * width, width // 2):
        # Where epsilon is small beside the squares it is one factor, which is said first.
        yield replace(told(f"the mean over {n} elements instead of {width}", over=n / width), rank=6)
    yield told("epsilon is added outside the root", outside=True)
    if len(kernel.inputs) > 1:
        if not rms:
            yield told("without the weights", lambda y, _: y)
        yield told("weights are 1 + w", lambda y, w: y * (1 + w))
        yield told("divided by the weights", lambda y, w: y / w)
    whole = Variant("formula", "over the whole output instead of each row", 4, formula=_over_all(not rms, eps, width))
    yield whole
    for n in (width // 2, width - 16, width - 1):
        if 0 < n < width:
            yield Variant(
                "formula", f"over the first {n} elements of a row", 4, formula=_over_some(not rms, eps, width, n)
            )


def _epsilons(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    """Those that kernels have, and the one that the output's rows allow."""
    here = getattr(kernel.bound_params, "epsilon", 1e-5)
    for other in _EPSILONS:
        if other != here:
            yield Variant("parameter", f"epsilon {other!r} for {here!r}", 4, constants={"epsilon": other})
    fitted = _fitted_epsilon(kernel, actual, here)
    near = dict.fromkeys(float(f"{fitted:.{digits}g}") for digits in (1, 2, 3)) if fitted is not None else ()
    for other in near:
        if other not in (here, *_EPSILONS):
            detail = f"epsilon {other:g} for {here!r}"
            yield Variant("parameter", detail, 4, constants={"epsilon": other}, cost=FITTED)


def _fitted_epsilon(kernel: Kernel, actual: F64, here: float) -> float | None:
    """For which the most elements come out as they did: a row's factor follows from its mean square alone."""
    exact = kernel.exact()
    if exact is None or exact[0].size != actual.size:
        return None
    x = np.asarray(wide(kernel.inputs[0]), np.float64).reshape(-1, kernel.bound_params.tile_size)
    square = (x * x).mean(-1, keepdims=True) if kernel.spec.type == "RMSNorm" else x.var(-1, keepdims=True)
    with np.errstate(all="ignore"):
        factor = np.abs(actual / exact[0]).reshape(x.shape)
        ends = [(square + here) / (factor * (1 + e)) ** 2 - square for e in (2.0**-8, -(2.0**-8))]
    lo, hi = (e.reshape(-1) for e in ends)
    found = stabbed(lo, hi, np.isfinite(lo) & np.isfinite(hi), 0.7)
    return None if found is None or found[1] <= 0 else max((found[0] + found[1]) / 2, 0.0)


def _over_all(centred: bool, eps: float, width: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0] - x[0].mean() if centred else x[0]
        y = (y / np.sqrt((y * y).mean() + eps)).reshape(-1, width)
        return np.asarray(y * x[1].reshape(-1) if len(x) > 1 else y)

    return formula


def _over_some(centred: bool, eps: float, width: int, n: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, width)
        y = y - y[:, :n].mean(-1, keepdims=True) if centred else y
        y = y / np.sqrt((y[:, :n] ** 2).mean(-1, keepdims=True) + eps)
        return np.asarray(y * x[1].reshape(-1) if len(x) > 1 else y)

    return formula


def of_softmax(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    cols = kernel.bound_params.cols

    def of(change: Callable[[F64], F64], power: Callable[[F64], F64] = np.exp) -> Callable[[Sequence[F64]], F64]:
        def formula(x: Sequence[F64]) -> F64:
            y = change(x[0].reshape(-1, cols))
            y = power(y - y.max(-1, keepdims=True))
            return np.asarray(y / y.sum(-1, keepdims=True))

        return formula

    def before(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, cols)
        return np.asarray(np.exp(y - y.max(-1, keepdims=True)))

    yield from _lengths(kernel, actual)
    yield Variant("formula", "not divided by the sum", 4, formula=before)
    yield Variant("formula", "powers of 2 for powers of e", 4, formula=of(lambda y: y, np.exp2))
    yield Variant("formula", "of the negated scores", 4, formula=of(lambda y: -y))
    for scale in (2.0, 0.5, 0.125, 8.0, float(cols) ** -0.5):
        yield Variant("formula", f"of scores times {scale:g}", 4, formula=of(partial(np.multiply, scale)))
    for n in (cols - 1, cols - 16, cols // 2):
        if 0 < n < cols:
            yield Variant("mask", f"over the first {n} of {cols} elements", 4, formula=of(partial(_masked, n=n)))
    for zeros in (1, 8, 16, 32, 64):
        yield Variant("formula", f"{zeros} padded zeros are counted in the sum", 4, formula=_padded(cols, zeros))
    yield Variant("mask", "each row sees as many elements as its number says (causal)", 4, formula=of(_causal))
    yield Variant("formula", "over columns instead of rows", 5, formula=lambda x: _down(x[0].reshape(-1, cols)))


def _lengths(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    """The mask left out, or as long as the output's own zeros say."""
    cols, given = kernel.bound_params.cols, kernel.values.get("vector_size", kernel.bound_params.rtp_vector_size)
    filled = np.flatnonzero(np.any(actual.reshape(-1, cols) != 0, axis=0))
    seen = int(filled[-1]) + 1 if filled.size else cols
    for length in dict.fromkeys((cols, seen)):
        if length != (given or cols):
            told = "the mask is left out" if length == cols else f"vector_size {length} for {given or cols}"
            if "vector_size" in kernel.values:
                yield Variant("mask", told, 4, values={"vector_size": length})
            else:
                yield Variant("mask", told, 4, params={"rtp_vector_size": length})


def _masked(y: F64, n: int) -> F64:
    out = y.copy()
    out[:, n:] = -np.inf
    return out


def _causal(y: F64) -> F64:
    return np.where(np.arange(y.shape[1])[None, :] > np.arange(y.shape[0])[:, None], -np.inf, y)


def _padded(cols: int, zeros: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, cols)
        top = np.maximum(y.max(-1, keepdims=True), 0)
        power = np.exp(y - top)
        return np.asarray(power / (power.sum(-1, keepdims=True) + zeros * np.exp(-top)))

    return formula


def _down(y: F64) -> F64:
    power = np.exp(y - y.max(0, keepdims=True))
    return np.asarray(power / power.sum(0, keepdims=True))
