# SPDX-License-Identifier: Apache-2.0
"""The same operation in another arithmetic: rounding mode, block floating point, what is rounded on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np

from fusion_replay.compare.numerics.bfp16 import bfp16
from fusion_replay.compare.numerics.stages import Model
from fusion_replay.diverge.causes.case import Case, Hypothesis
from fusion_replay.diverge.causes.kernel import PRODUCTS, Kernel, Variant
from fusion_replay.diverge.causes.spans import F64, FLOOR, NEAREST, NDArray, stored
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.bf16 import BFLOAT16, bits_of, wide

_STEPS = 1 << 24  # elements rounded on the way, at most
_REPRODUCED = 0.995
_NAMES = {"emulate_bf16_mmul_with_bfp16": "bfp16", "prio_accuracy": "accumulation", "tile_k": "accumulation"}


def hypotheses(case: Case) -> Iterator[Hypothesis]:
    """One bit of evidence for an element at most: neighbours differ in it."""
    kernel = case.kernel
    if kernel is None or case.actual.dtype != BFLOAT16 or (kernel.large and case.tolerance is not None):
        return
    mine = ""
    if case.tolerance is None:
        mine = next((label for label, s in kernel.honest(BFLOAT16) if np.mean(s.holds(case.e)) >= _REPRODUCED), "")
    for label, span in kernel.honest(BFLOAT16):
        if label != mine:
            told = f"{label}, where {mine or 'the other recording is not'}" if case.tolerance is None else label
            yield Hypothesis("rounding", told, span, rank=3, apart=1.0)


def variants(kernel: Kernel) -> Iterator[Variant]:
    """Other devices and modes; operands in blocks that share an exponent; sums that are rounded on the way."""
    for model in _others(kernel):
        name = _NAMES.get(model.given[0][0], "parameter") if model.given else "rounding"
        yield Variant(name, str(model), 4, model=model, apart=1.0)
    if kernel.spec.type not in PRODUCTS:
        return
    p = kernel.bound_params
    if p.K % 8 == 0 and kernel.spec.type == "GEMM" and all(x.dtype == BFLOAT16 for x in kernel.inputs):
        for mode, told in (("conv_even", ""), ("floor", ", by floor")):
            changed = {0: partial(_blocks, axis=1, mode=mode), 1: partial(_blocks, axis=int(p.b_col_maj), mode=mode)}
            yield Variant("bfp16", f"operands in block floating point{told}", 5, inputs=changed, apart=1.0)
    yield from _accumulated(kernel)


def _blocks(x: NDArray, axis: int, mode: str) -> NDArray:
    values = np.ascontiguousarray(np.moveaxis(np.asarray(wide(x), np.float64), axis, -1))
    kept = bfp16(values.reshape(-1, values.shape[-1]), mode).reshape(values.shape)
    return bits_of(np.ascontiguousarray(np.moveaxis(kept, -1, axis))).view(BFLOAT16)


def _others(kernel: Kernel) -> list[Model]:
    numerics = kernel.spec.numerics
    if numerics is None or not kernel.models:
        return []
    try:
        found = list(numerics.others(kernel.bound_params, kernel.device))
    except FusionReplayError:
        return []
    return found


def _accumulated(kernel: Kernel) -> Iterator[Variant]:
    """Partial sums stored as bfloat16 after every so many of K."""
    p = kernel.bound_params
    if p.epilogue != "none" or getattr(p, "num_batches", 1) != 1:
        return
    rows, columns = (p.M, getattr(p, "N", 1)) if kernel.crop is None else (x.size for x in kernel.crop)
    cells = rows * max(1, columns)
    for size in dict.fromkeys((getattr(p, "tile_k", 64), 1, 8, 16, 32, 64, 128)):
        for how in (NEAREST, FLOOR):
            if 0 < size < p.K and cells * (p.K // size) <= _STEPS:
                told = f"sums in bfloat16 after every {size} of K, rounded {how}"
                formula = partial(_summed, p=p, gemm=kernel.spec.type == "GEMM", size=size, how=how)
                yield Variant("accumulation", told, 4, formula=formula, apart=1.0)


def _summed(given: Sequence[F64], *, p: SimpleNamespace, gemm: bool, size: int, how: str) -> F64:
    a, b = given[0].reshape(-1, p.K), given[1].reshape(p.K, 1) if not gemm else given[1]
    if gemm:
        b = b.reshape(-1, p.K).T if p.b_col_maj else b.reshape(p.K, -1)
    total: F64 = np.zeros((a.shape[0], b.shape[1]))
    for k in range(0, p.K, size):
        total = stored(total + a[:, k : k + size] @ b[k : k + size], 0.0, BFLOAT16, how).lo.reshape(total.shape)
    return total.T if gemm and p.c_col_maj else total
