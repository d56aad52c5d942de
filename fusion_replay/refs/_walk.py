# SPDX-License-Identifier: Apache-2.0
"""Walks over flat buffers, as a DMA takes them: offset, sizes and strides in elements, last index fastest.

With several channels the innermost dimension of *both* walks of a copy is split, one share per channel, and copied
channel by channel: not the same as the whole walk where the two shapes differ (amd/IRON
iron/operators/strided_copy/reference.py, iron/operators/copy.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import array_api_compat as aac
import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, wide


@dataclass(frozen=True)
class Walk:
    """Everything in elements."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.sizes)

    def bounds(self) -> tuple[int, int]:
        """Lowest and highest element it touches."""
        reach = [(n - 1) * s for n, s in zip(self.sizes, self.strides, strict=True)]
        return self.offset + sum(r for r in reach if r < 0), self.offset + sum(r for r in reach if r > 0)

    def elements(self, xp: Any, device: Any) -> Array:
        """Flat element numbers in the order they are visited, int64."""
        at = xp.full((1,), self.offset, dtype=xp.int64, device=device)
        for n, stride in zip(self.sizes, self.strides, strict=True):
            at = xp.reshape(at[:, None] + xp.arange(n, dtype=xp.int64, device=device)[None, :] * stride, (-1,))
        return at

    def overlaps(self) -> bool:
        """Whether any element is visited twice."""
        reach = 0
        for stride, n in sorted((s, n) for n, s in zip(self.sizes, self.strides, strict=True) if n > 1):
            if stride <= reach:  # not nested: only the elements themselves can tell
                elements = self.elements(np, None)
                return bool(np.unique(elements).size < elements.size)
            reach += (n - 1) * stride
        return False

    def shares(self, channels: int) -> Iterator[Walk]:
        """The channels' parts, in order."""
        share = self.sizes[-1] // channels
        for channel in range(channels):
            yield Walk(self.offset + channel * share * self.strides[-1], (*self.sizes[:-1], share), self.strides)


def check_walk(
    op: str, side: str, walk: Walk, channels: tuple[str, int], buffer: int, runtime: int = 0, label: str = ""
) -> None:
    """
    Args:
        side: "input" or "output"; an output walk must not visit an element twice, an input walk may.
        channels: name and value of the parameter that splits the walk.
        buffer: elements of the buffer walked over.
        runtime: what this dispatch's offset adds to the walk's own.
        label: how the operator spells the walk's parameters, before "sizes" and "strides".

    Raises:
        UsageError: naming operator, side, what was expected and what was found.
    """
    sizes, strides, label = walk.sizes, walk.strides, label or f"{side}_"
    if len(sizes) != len(strides):
        raise UsageError(
            f"{op}: {label}strides {strides}: expected {len(sizes)}, as {label}sizes has, found {len(strides)}"
        )
    if not sizes or min(sizes) < 1:
        raise UsageError(f"{op}: {label}sizes {sizes}: expected at least one dimension, each at least 1")
    if channels[1] < 1 or sizes[-1] % channels[1]:
        raise UsageError(
            f"{op}: {label}sizes {sizes}: expected a last dimension that {channels[0]} divides, found {channels[1]}"
        )
    if min(strides) < 0:
        raise UsageError(f"{op}: {label}strides {strides}: expected none below 0, a DMA cannot walk backwards")
    low, high = walk.bounds()
    if low + runtime < 0 or high + runtime >= buffer:
        raise UsageError(
            f"{op}: the {side} walk: expected elements within a buffer of {buffer}, found {low + runtime} to "
            f"{high + runtime}; offset {walk.offset} plus runtime {runtime}"
        )
    if side == "output" and walk.overlaps():
        raise UsageError(f"{op}: {label}sizes {sizes}, {label}strides {strides}: expected no element written twice")


def copied(source: Array, old: Array, gather: Walk, scatter: Walk, channels: int) -> Array:
    """``old`` with the elements of ``scatter`` replaced by those of ``gather`` in ``source``, channel by channel."""
    if old.dtype != source.dtype:
        old, source = wide(old), wide(source)
    xp, device = aac.array_namespace(source, old), aac.device(source)
    new = xp.asarray(old, copy=True)
    for take, put in zip(gather.shares(channels), scatter.shares(channels), strict=True):
        new[put.elements(xp, device)] = source[take.elements(xp, device)]
    return new


def moved(walk: Walk, runtime: int) -> Walk:
    """The walk with this dispatch's offset added."""
    return Walk(walk.offset + runtime, walk.sizes, walk.strides)
