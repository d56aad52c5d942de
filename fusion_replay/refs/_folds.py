# SPDX-License-Identifier: Apache-2.0
"""Operators folded into another one's cores, as one operator: its reference, arguments, limits and tiling.

Since autumn 2026 an IRON operator may apply others to each tile of its one output (``finish``) or of one input
(``prepare``) before it is released or used (amd/IRON ``iron/common/declare/operator.py``, ``Link``, ``_bind``).
A link's tile enters as its input ``at``; its other inputs are the operator's, behind the declared arguments, named
``prepare0_b`` and ``finish0_b``. A tile lies in the core as the operator's element type, so that IRON's flavours round
between two links; ``exact`` rounds once, at the end. Tested in tests/sources/iron/test_autumn.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import FLAVOURS, Call, FlavourFn, OperatorSpec


@dataclass(frozen=True, slots=True)
class Fold:
    """One link: a known operator with its recorded fields, and the input that the tile enters as."""

    spec: OperatorSpec
    params: Mapping[str, Any]
    at: int

    def operands(self, tile: Sequence[int]) -> tuple[ArgSpec, ...]:
        """Its inputs where a content of this shape enters: elementwise ones take any, others a row or the whole.

        Raises:
            UsageError: it does not fit.
        """
        params = dict(self.params)
        if self.spec.elementwise:
            params["size"] = math.prod(tile)
        specs = self.spec.arg_specs(params)
        reads, writes = [s for s in specs if s.reads], [s for s in specs if s.writes]
        if not 0 <= self.at < len(reads):
            raise UsageError(f"fold {self.spec.type} takes the tile as input {self.at}, it has {len(reads)}")
        size = reads[self.at].size
        if len(writes) != 1 or writes[0].size != size or writes[0].reads or self.spec.partial or self.spec.shapeless:
            raise UsageError(f"fold {self.spec.type} does not give one tile for one")
        if size not in (math.prod(tile), tile[-1] if tile else 1):
            raise UsageError(f"fold {self.spec.type} takes {size} elements, the tile is of {tuple(tile)}")
        return tuple(reads)

    def apply(self, call: Call, flavour: str, x: Array, others: Iterator[Array], tile: Sequence[int]) -> Array:
        """Its result for ``x``, of shape ``tile``, unrounded. Its other inputs are the next ``others``."""
        xp, specs = call.xp, self.operands(tile)
        size = specs[self.at].size
        rows = math.prod(tile) // size if size else 1
        params = self.spec.bind({**self.params, "size": size} if self.spec.elementwise else self.params)
        inner = Call(params, xp, (None,), {}, call.rounder)
        fn = self.spec.flavour(flavour)[1]
        given = [x if k == self.at else next(others) for k in range(len(specs))]
        parts = [_rows(xp, each, rows, s) for each, s in zip(given, specs, strict=True)]
        results = [fn(inner, *(p if self.spec.raw else wide(p) for p in row)) for row in zip(*parts, strict=True)]
        flat = [xp.reshape(wide(r), (-1,)) for r in results]
        return xp.reshape(flat[0] if len(flat) == 1 else xp.concat(flat), tuple(tile))


def _rows(xp: Any, x: Array, rows: int, spec: ArgSpec) -> list[Array]:
    """``x`` cut into as many pieces as the tile has rows; what is one row alone serves each of them."""
    flat = xp.reshape(x, (-1,))
    n = math.prod(flat.shape)
    if n == spec.size:
        return [xp.reshape(flat, spec.shape)] * rows
    return [xp.reshape(flat[i * spec.size : (i + 1) * spec.size], spec.shape) for i in range(rows)]


def composed(
    spec: OperatorSpec, params: Mapping[str, Any], prepare: Sequence[Fold], finish: Sequence[Fold]
) -> OperatorSpec:
    """``spec`` with these folds in its cores, for these parameters.

    Raises:
        UsageError: they do not fit it; the message says which and why.
    """
    declared = spec.arg_specs(params)
    writes = [s for s in declared if s.writes]
    prepared = next((s for s in declared if s.name == spec.prepared), None)
    if finish and (len(writes) != 1 or spec.partial or writes[0].reads):
        raise UsageError(f"{spec.type} has no one output that a finish could be applied to")
    if prepare and prepared is None:
        raise UsageError(f"no input of {spec.type} is known to be prepared")
    line = prepared.shape[-1:] if prepared is not None else ()
    extras = tuple(_extras("prepare", prepare, prepared, line)) if prepared is not None else ()
    extras += tuple(_extras("finish", finish, writes[0], writes[0].shape)) if finish else ()

    def args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
        return (*spec.args(p), *extras)

    folds = [*prepare, *finish]
    return replace(
        spec,
        args=args,
        flavours={f: _flavour(spec, f, prepare, finish) for f in FLAVOURS},
        raw=True,
        exact_bits=spec.exact_bits and all(f.spec.exact_bits for f in folds),
        float32=(),
        iron_fails=None,
        elementwise=False,
        numerics=None,  # the arithmetic of a fold is not stated
        tolerance={device: _limits(spec, params, folds, device) for device in ("npu1", "npu2", "*")},
    )


def _extras(kind: str, chain: Sequence[Fold], into: ArgSpec, shape: tuple[int, ...]) -> Iterator[ArgSpec]:
    for i, fold in enumerate(chain):
        for k, operand in enumerate(fold.operands(into.shape)):
            if k != fold.at:
                yield ArgSpec(f"{kind}{i}_{operand.name.lower()}", "in", shape, into.dtype)


def _flavour(spec: OperatorSpec, name: str, prepare: Sequence[Fold], finish: Sequence[Fold]) -> FlavourFn:
    fn = spec.flavour(name)[1]

    def folded(call: Call, *arrays: Array) -> Array:
        declared = spec.args(call.params)
        reads, out = [s for s in declared if s.reads], next(s for s in declared if s.writes)
        given, others = list(arrays[: len(reads)]), iter(arrays[len(reads) :])
        between: Callable[[Array], Array] = (lambda x: x) if name == "exact" else call.round
        for fold in prepare:
            at = next(i for i, s in enumerate(reads) if s.name == spec.prepared)
            given[at] = between(fold.apply(call, name, given[at], others, reads[at].shape))
        result = fn(call, *(x if spec.raw else wide(x) for x in given))
        for fold in finish:
            x = call.xp.reshape(between(wide(result)), out.shape)
            result = fold.apply(call, name, x, others, out.shape)
        return result

    return folded


def _limits(spec: OperatorSpec, params: Mapping[str, Any], folds: Sequence[Fold], device: str) -> Tolerance:
    """What one link may be off, the next takes in: relative limits add up, and so do those that are absolute."""
    every = [spec.tolerance_for(device, params), *(f.spec.tolerance_for(device, f.params) for f in folds)]
    shares = [t.range_frac for t in every if t.range_frac is not None]
    return Tolerance(
        rtol=sum(t.rtol for t in every),
        atol=sum(t.atol for t in every),
        ulps=sum(t.ulps or 0 for t in every) or None,
        error_rate=max(t.error_rate for t in every),
        range_frac=sum(shares) if shares else None,
        source=" + ".join(dict.fromkeys(t.source for t in every if t.source)),
    )


__all__ = ["Fold", "composed"]
