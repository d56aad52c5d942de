# SPDX-License-Identifier: Apache-2.0
"""The kernel was right about the wrong things: the reference on stale inputs, truncated scalars, block floats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fusion_replay.diverge.causes.case import Again, Case, Guess, NDArray
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.bf16 import BFLOAT16, bits_of, wide

_FLOAT_BITS = (16, 12, 8, *(n for n in range(31, 0, -1) if n not in (16, 12, 8)))
_BLOCK = 8  # values that share an exponent


def guesses(case: Case) -> Iterator[Guess]:
    if case.again is not None:
        yield from _stale(case.again)
        yield from _truncated(case.again)
        yield from _bfp16(case.again)


def _stale(again: Again) -> Iterator[Guess]:
    """One input, or all that the runlist fills, as they were some time before."""
    together: dict[int, NDArray] = {}
    blank: dict[int, NDArray] = {}
    older: list[str] = []
    for position, versions in again.versions.items():
        name = again.names.get(position, str(position))
        for number, version in enumerate(versions):
            contents = version.read()
            yield from _ask(again, "stale-input", f"input {name} is {version.what}", 6, inputs={position: contents})
            if number == 0:
                together[position] = contents
                older.append(f"{name} is {version.what}")
        blank[position] = np.zeros_like(again.inputs[position])
    for position, contents in again.inputs.items():  # never transferred: https://github.com/amd/IRON/issues/181
        detail = f"input {again.names.get(position, position)} is read as zeros"
        yield from _ask(again, "stale-input", detail, 6, inputs={position: np.zeros_like(contents)})
    if len(together) > 1:
        yield from _ask(again, "stale-input", f"inputs are older ones: {', '.join(older)}", 6, inputs=together)
    if len(blank) > 1:
        yield from _ask(again, "stale-input", "all inputs that the runlist fills are read as zeros", 6, inputs=blank)


def _truncated(again: Again) -> Iterator[Guess]:
    """Floats keep the upper bits of their float32 pattern, runtime integers their lower ones."""
    for name, value in again.params.items():
        if isinstance(value, float):
            for bits, kept in _distinct({n: _upper(value, n) for n in _FLOAT_BITS}, value):
                detail = f"{name} {value:g} lost all but {bits} bits: {kept:g}"
                yield from _ask(again, "truncated-scalar", detail, 5, params={name: kept})
    whole = {k: v for k, v in again.values.items() if isinstance(v, int) and not isinstance(v, bool)}
    seen = set()
    for bits in (8, 16, *(n for n in range(31, 0, -1) if n not in (8, 16))):
        kept_values = {k: v & ((1 << bits) - 1) for k, v in whole.items()}
        if kept_values != whole and tuple(kept_values.values()) not in seen:
            seen.add(tuple(kept_values.values()))
            detail = ", ".join(f"{k} {whole[k]} -> {v}" for k, v in kept_values.items() if v != whole[k])
            yield from _ask(again, "truncated-scalar", f"{detail}: {bits} bits are left", 5, values=kept_values)


def _bfp16(again: Again) -> Iterator[Guess]:
    """Operands of a product in blocks of 8 that share an exponent (bfp16ebs8: 8 bits each, sign included)."""
    if again.op not in ("GEMM",) or len(again.inputs) != 2:
        return
    a, b = again.inputs[0], again.inputs[1]
    along = -1 if again.params.get("b_col_maj") else 0
    if a.dtype != BFLOAT16 or a.shape[-1] % _BLOCK or b.shape[along] % _BLOCK:
        return
    operands = {0: _shared_exponent(a, -1), 1: _shared_exponent(b, along)}
    yield from _ask(again, "bfp16", "the precision of block floating point", 6, inputs=operands)


def _shared_exponent(x: NDArray, axis: int) -> NDArray:
    values = np.moveaxis(np.asarray(wide(x), np.float64), axis, -1)
    blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
    _, exponent = np.frexp(np.abs(blocks).max(axis=-1, keepdims=True))
    unit = np.ldexp(1.0, exponent - 7)
    kept = np.clip(np.rint(blocks / unit), -128, 127) * unit
    return bits_of(np.moveaxis(kept.reshape(values.shape), -1, axis)).view(BFLOAT16)


def _ask(
    again: Again,
    name: str,
    detail: str,
    rank: int,
    inputs: Mapping[int, NDArray] | None = None,
    params: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Iterator[Guess]:
    """Nothing where the reference refuses: a device may run on what no reference takes."""
    try:
        with np.errstate(all="ignore"):
            predicted = again.evaluate(inputs or {}, params or {}, values or {})
    except (FusionReplayError, ArithmeticError, ValueError, IndexError):
        return
    yield Guess(name, detail, np.ascontiguousarray(predicted).reshape(-1), evaluated=True, rank=rank)


def _distinct(candidates: Mapping[int, float], value: float) -> Iterator[tuple[int, float]]:
    seen = {value}
    for bits, kept in candidates.items():
        if kept not in seen and np.isfinite(kept):
            seen.add(kept)
            yield bits, kept


def _upper(value: float, bits: int) -> float:
    word = np.float32(value).view(np.uint32) & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    return float(word.view(np.float32))
