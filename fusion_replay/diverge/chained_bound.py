# SPDX-License-Identifier: Apache-2.0
"""How far apart two honest ways through the same steps may end: what one rounding at each boundary makes of the end.

A fused dispatch of the same designs on the same bytes gives the same bits. Where steps are folded into one another a
rounding between them is dropped, and the rounding state of a core may be another one; either moves a step's result by
up to one last place. The references are chained from the recorded inputs, once as they are and a few times with every
result moved by -1, 0 or 1 last place, drawn by the step's address. What these chains are apart is multiplied by
:data:`FACTOR`. That is an estimate from a few chains, no interval that is proved. It begins behind the last results
that are equal bit for bit, since a rounding that came out otherwise before would show there.

Tested in tests/diverge/test_fusion_diff.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.diverge.boundary import Bytes, HeldBytes
from fusion_replay.model.arrays import flat_bytes, numpy_dtype
from fusion_replay.replaying.chain import Chain, follow
from fusion_replay.replaying.judge import NotComparedError, Plan

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step

CHAINS = 3
"""How many moved chains."""
FACTOR = 4.0
"""Of the largest distance of an element between them, and of the root mean square of all that are apart."""
LUCKY = 2
"""Results just before the first difference that may be equal by luck: what they were made of differed, and rounding
hid it. The chains begin before them."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A piece that a fused dispatch left wrong: as the separate run has it, as it was found, and which
    elements are outside the bound."""

    piece: HeldBytes
    expected: Bytes
    found: Bytes
    at: npt.NDArray[np.bool_]

    @property
    def step(self) -> Step:
        """The step that wrote it last."""
        return self.piece.step


@dataclass(frozen=True, slots=True)
class FirstWrong:
    """``wrong``: the first piece outside the bound, None where all are inside; ``differs``: the first step whose result
    is not equal bit for bit, None where all are."""

    wrong: Wrong | None
    differs: int | None


def first_wrong(seen: Sequence[tuple[HeldBytes, Bytes, Bytes]], steps: Sequence[Step]) -> FirstWrong:
    """Of pieces that these steps left, as they were found and as they are expected, by the step that wrote them."""
    differing = [s for s in seen if not np.array_equal(s[1], s[2])]
    if not differing:
        return FirstWrong(None, None)
    first = differing[0][0].step.index
    equal = [s[0].step.index for s in seen if s[0].step.index < first]
    start = equal[-LUCKY - 1] if len(equal) > LUCKY else -1
    bound = ChainedBound([s for s in steps if s.index > start])
    for piece, found, expected in differing:
        dtype = piece.tensor.dtype
        outside = beyond(elements(found, dtype), elements(expected, dtype), bound.allowance(piece))
        if outside.any():
            return FirstWrong(Wrong(piece, expected, found, outside), first)
    return FirstWrong(None, first)


class ChainedBound:
    """Of these steps of one invocation, from their recorded inputs on; the chains go no further than they are asked."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._done = 0
        self._chains = [_Moved(seed) for seed in range(CHAINS + 1)]

    def allowance(self, piece: HeldBytes) -> Floats:
        """Per element of the piece, in its tensor's dtype: how far from the recorded value is honest."""
        while self._done < len(self._steps) and self._steps[self._done].index <= piece.step.index:
            for chain in self._chains:
                chain.go(self._steps[self._done])
            self._done += 1
        straight, *moved = [_values(chain, piece) for chain in self._chains]
        with np.errstate(invalid="ignore"):
            apart = np.abs(np.stack(moved) - straight)
        apart[~np.isfinite(apart)] = 0.0
        largest = apart.max(axis=0)
        place = np.abs(straight) * 2.0**-7
        place[~np.isfinite(place)] = 0.0
        moved_at_all = apart[:, largest > 0]  # a cache keeps most of what it held, which says nothing
        spread = float(np.sqrt(np.mean(moved_at_all**2))) if moved_at_all.size else 0.0
        allowed: Floats = FACTOR * largest + FACTOR * spread + place
        return allowed


class _Moved(Chain):
    """A chain in which every result is moved by up to one last place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._step: Step | None = None

    def go(self, step: Step) -> None:
        """Where no reference can follow it, its recorded outputs stand in."""
        self._step = step
        with suppress(NotComparedError):
            follow(step, Plan(), self)

    def write(self, invocation: int, tensor: RecordedTensor, result: npt.NDArray[Any]) -> None:
        step = self._step
        if self._seed and step is not None and not _moves_bits(step):
            rng = np.random.default_rng([self._seed, invocation, step.index, tensor.position])
            result = _off_by_one(result, rng)
        super().write(invocation, tensor, result)


def _moves_bits(step: Step) -> bool:
    spec = refs.coverage(step.op, step.description.operands).spec
    return spec is None or spec.exact_bits


def _off_by_one(result: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    if result.dtype != numpy_dtype("bfloat16"):
        return result
    bits = np.array(result).view(np.uint16)
    size = bits & 0x7FFF
    movable = (size > 0) & (size < 0x7F7F)
    step = rng.integers(-1, 2, size=bits.shape)
    return np.where(movable, bits + step, bits).astype(np.uint16).view(result.dtype)


def _values(chain: Chain, piece: HeldBytes) -> Floats:
    whole = flat_bytes(chain.read(piece.step.invocation, piece.tensor))
    lo = piece.start - piece.tensor.use.start
    return elements(whole[lo : lo + piece.stop - piece.start], piece.tensor.dtype)


def elements(data: npt.NDArray[np.uint8], dtype: str) -> Floats:
    """Bytes as numbers."""
    return np.ascontiguousarray(data).view(numpy_dtype(dtype)).astype(np.float64)


def beyond(found: Floats, expected: Floats, allowed: Floats) -> npt.NDArray[np.bool_]:
    """Which elements are farther apart than that; what is no number agrees with its like alone."""
    with np.errstate(invalid="ignore"):
        off = np.abs(found - expected)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    outside: npt.NDArray[np.bool_] = ~same & ~(off <= allowed)
    return outside


__all__ = ["ChainedBound", "FirstWrong", "Wrong", "beyond", "elements", "first_wrong"]
