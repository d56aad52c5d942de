# SPDX-License-Identifier: Apache-2.0
"""Which of a model's tensors is which content of a recording: found by values, layer by layer together.

Tensors of one name with another number are one group, so are the places at one spot of the runlist's layers. A group
belongs to the spot whose values agree best in all layers taken together: where the runlist is wrong in one of them, the
others say where its tensor is. What agrees as well with other values elsewhere is ambiguous, and nothing is chosen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.oracle.figures import nrmse
from fusion_replay.oracle.match import Candidate, Fit, candidates, fit
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from fusion_replay.oracle.file import Oracle, OracleTensor
    from fusion_replay.oracle.layout import TensorLayout
    from fusion_replay.oracle.places import Location, Places
    from fusion_replay.snapshot import Snapshot

Array = npt.NDArray[Any]

CLEAR = 0.1
"""Decimal digits that the best spot must agree in more than any other with other values."""
ENOUGH = 0.15
"""Decimal digits, the mean over the layers, that it must agree in: 0.15 is an NRMSE of 0.7."""
PART = 1.0
"""Decimal digits that a part of a tensor must agree in, to be one."""
FEWEST = 16
"""Elements below which a tensor has too few values to be found by."""
_SURE = 0.9  # likeness from which on no other layout is looked for
_SAME = 2e-3  # NRMSE between two places that hold the same values


@dataclass(frozen=True, slots=True)
class OracleBoundary:
    """A tensor of the model and the content of the recording that should have its values.

    Attributes:
        also: names of tensors with the same contents.
        evidence: why this place, in words.
    """

    tensor: OracleTensor
    also: tuple[str, ...]
    place: Location
    layout: TensorLayout
    evidence: str

    @property
    def name(self) -> str:
        return self.tensor.name


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A tensor without a place, and why; ``places``: those that it could be in, in words; ``rivals``: the same."""

    tensor: OracleTensor
    why: str
    places: tuple[str, ...] = ()
    rivals: tuple[tuple[Location, TensorLayout], ...] = ()


@dataclass(frozen=True)
class Mapping:
    """All distinct tensors of an oracle, those with a place in the order of the recording's steps."""

    boundaries: tuple[OracleBoundary, ...]
    unmapped: tuple[Unmapped, ...] = ()
    ignored: tuple[str, ...] = ()

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines: a ``mapped`` or ``unmapped`` for each distinct tensor."""
        for b in self.boundaries:
            its = {"also": list(b.also), "address": b.place.address, "buffer": b.place.buffer}
            yield {"type": "mapped", "tensor": b.name, **its, "layout": str(b.layout), "evidence": b.evidence}
        for u in self.unmapped:
            yield {"type": "unmapped", "tensor": u.tensor.name, "why": u.why, "places": list(u.places)}


def reader(snapshot: Snapshot) -> Callable[[Location], Array]:
    """Contents of a place, flat, in the recording's dtype."""

    def read(place: Location) -> Array:
        step = snapshot.at(place.row)
        operands = (step.outputs if place.output else step.inputs).in_order()
        return next(t for t in operands if t.position == place.position).numpy().reshape(-1)

    return read


def distinct(oracle: Oracle) -> tuple[list[OracleTensor], list[Unmapped]]:
    """One tensor of each content that can be looked for, an output where there is one; the others with the reason."""
    names: dict[str, OracleTensor] = {}
    for tensor in oracle.tensors:
        if tensor.is_float and (
            tensor.key not in names or (tensor.kind, names[tensor.key].kind) == ("output", "input")
        ):
            names[tensor.key] = tensor
    usable, useless = [], []
    for tensor in names.values():
        why = _useless(oracle.read(tensor))
        if why:
            useless.append(Unmapped(tensor, why))
        else:
            usable.append(tensor)
    return usable, useless


def by_contents(
    oracle: Oracle,
    tensors: Sequence[OracleTensor],
    where: Places,
    read: Callable[[Location], Array],
    *,
    before: Sequence[OracleBoundary] = (),
    enough: float = ENOUGH,
) -> tuple[list[OracleBoundary], list[Unmapped]]:
    """Find these tensors among the places, by what ``read`` gives of each.

    Args:
        before: boundaries that are known; their places are taken.
        enough: decimal digits that values must agree in, the mean over a group.
    """
    boundaries, unmapped = list(before), list[Unmapped]()
    found = _Finder(oracle, where, read, before, enough).find(tensors)
    for tensor, result in zip(tensors, found, strict=True):
        if isinstance(result, Unmapped):
            unmapped.append(result)
        else:
            boundaries.append(OracleBoundary(tensor, also(oracle, tensor), *result))
    boundaries.sort(key=lambda b: (b.place.row, b.place.output, b.place.position))
    return boundaries, unmapped


def also(oracle: Oracle, tensor: OracleTensor) -> tuple[str, ...]:
    """Names of the other tensors with the same contents."""
    return tuple(t.name for t in oracle.tensors if t.key == tensor.key and t.name != tensor.name)


# --- parts ----------------------------------------------------------------------------------------------------------

_Found = tuple["Location", "TensorLayout", str]


@dataclass(frozen=True)
class _Spot:
    """A place in each member's layer, its fit there (None: that layer has no such place)."""

    like: Candidate
    places: tuple[Location | None, ...]
    fits: tuple[Fit | None, ...]

    @property
    def quality(self) -> float:
        return sum(f.quality for f in self.fits if f is not None) / len(self.fits)


class _Finder:
    def __init__(
        self,
        oracle: Oracle,
        where: Places,
        read: Callable[[Location], Array],
        before: Sequence[OracleBoundary],
        enough: float,
    ) -> None:
        self._oracle, self._where, self._read, self._enough = oracle, where, read, enough
        self._taken = {_taken(b.place, b.layout) for b in before}

    def find(self, tensors: Sequence[OracleTensor]) -> list[_Found | Unmapped]:
        """One result for each tensor."""
        contents = {t.name: self._oracle.read(t) for t in tensors}
        like = candidates(list(contents.items()), self._where.all, self._read, self._where.hints)
        lost = [(n, a) for n, a in contents.items() if not any(abs(c.likeness) >= _SURE for c in like[n])]
        if lost:
            deep = candidates(lost, self._where.all, self._read, self._where.hints, deep=True)
            for name, more in deep.items():
                like[name] = sorted({*like[name], *more}, key=_order)
        results: dict[str, _Found | Unmapped] = {}
        groups = _groups(tensors) if self._where.layers > 1 else [[t] for t in tensors]
        ranked = [(g, self._spots(g, contents, like)) for g in groups]
        ranked.sort(key=lambda item: -item[1][0].quality if item[1] else 0.0)
        for group, spots in ranked:
            free = [
                s for s in spots if not any(_taken(p, s.like.layout) in self._taken for p in s.places if p is not None)
            ]
            for tensor, result in zip(group, self._decide(group, free, contents), strict=True):
                results[tensor.name] = result
                if not isinstance(result, Unmapped):
                    self._taken.add(_taken(result[0], result[1]))
        return [results[t.name] for t in tensors]

    def _spots(
        self, group: Sequence[OracleTensor], contents: dict[str, Array], like: dict[str, list[Candidate]]
    ) -> list[_Spot]:
        """Every spot that a candidate of any member is at, the best first."""
        layers = self._layers(group)
        found: dict[object, _Spot] = {}
        for tensor, layer in zip(group, layers, strict=True):
            for candidate in like[tensor.name]:
                place = candidate.place
                away = None if layer is None or place.layer is None else place.layer - layer
                key = (place.spot, place.output, candidate.layout, away if away is not None else place.row)
                if key not in found and (layer is None or away is None or abs(away) <= 1):
                    found[key] = self._spot(candidate, group, layers, away, contents)
        ordered = sorted(
            found.values(), key=lambda s: (-round(s.quality, 3), not s.like.layout.plain, s.like.place.row)
        )
        # A part of the tensor, or of the buffer, is where it is only if all of it is nowhere.
        whole = max((s.quality for s in ordered if _is_whole(s.like.layout)), default=0.0)
        return [s for s in ordered if _is_whole(s.like.layout) or s.quality > max(2 * whole, PART)]

    def _layers(self, group: Sequence[OracleTensor]) -> list[int | None]:
        """Each member's layer; None where the group has no numbers, or others than the runlist has layers."""
        numbers = [_numbers(t.name) for t in group]
        if len(group) == self._where.layers > 1:
            return list(range(len(group)))
        layers = [n[0] if n and n[0] < self._where.layers else None for n in numbers]
        return layers if len(group) > 1 else [None]

    def _spot(
        self,
        like: Candidate,
        group: Sequence[OracleTensor],
        layers: Sequence[int | None],
        away: int | None,
        contents: dict[str, Array],
    ) -> _Spot:
        places: list[Location | None] = []
        for layer in layers:
            if layer is None or away is None:
                places.append(like.place)
            else:
                places.append(self._where.at(like.place, layer + away))
        fits = [
            None if p is None else fit(like.layout.of_model(contents[t.name]), like.layout.of_buffer(self._read(p)))
            for t, p in zip(group, places, strict=True)
        ]
        return _Spot(like, tuple(places), tuple(fits))

    def _decide(
        self, group: Sequence[OracleTensor], spots: Sequence[_Spot], contents: dict[str, Array]
    ) -> list[_Found | Unmapped]:
        if not spots or spots[0].quality < self._enough:
            return [Unmapped(t, "no content of the recording resembles it") for t in group]
        # Of parts of one place that agree the largest is the one.
        near = [s for s in spots if s.quality > spots[0].quality - CLEAR and s.places == spots[0].places]
        best = max(near, key=lambda s: math.prod(s.like.layout.shape))
        same = [s for s in spots if s.quality > best.quality - CLEAR and self._same(s, best)]
        spots = [best, *(s for s in spots if s.places != best.places)]
        other = next((s for s in spots if not self._same(s, best)), None)
        if other is not None and other.quality > best.quality - CLEAR:
            rivals = [s for s in spots if s.quality > best.quality - CLEAR]
            return [
                Unmapped(
                    t,
                    "several contents resemble it as much",
                    tuple(_words(s, i) for s in rivals),
                    tuple((p, s.like.layout) for s in rivals if (p := s.places[i]) is not None),
                )
                for i, t in enumerate(group)
            ]
        # A buffer that is written again with the same values is at its boundary then: a bias of zeros, say.
        written = [s for s in same if s.like.place.buffer == best.like.place.buffer and s.like.place.output]
        last = max(written, key=lambda s: s.like.place.row, default=best)
        chosen = last if best.like.place.output and last.like.layout == best.like.layout else best
        return [self._result(t, chosen, i, other, len(group)) for i, t in enumerate(group)]

    def _result(
        self, tensor: OracleTensor, spot: _Spot, i: int, other: _Spot | None, members: int
    ) -> _Found | Unmapped:
        place, found = spot.places[i], spot.fits[i]
        if place is None or found is None:
            return Unmapped(tensor, f"its layer has no step like {spot.like.place.label}")
        words = [f"values, NRMSE {found.nrmse:.3g}"]
        if found.scaled < 0.5 * found.nrmse and found.scaled < 0.3:
            words.append(f"{found.scaled:.3g} of them {found.factor:.4g} times")
        if members > 1:
            words.append(f"{_error(spot.quality):.2g} over {count(members, 'layer')}")
        if other is not None:
            words.append(f"next best {_error(other.quality):.2g}")
        return place, spot.like.layout, ", ".join(words)

    def _same(self, a: _Spot, b: _Spot) -> bool:
        """Whether both spots hold the same values."""
        if a is b:
            return True
        if a.like.layout.shape != b.like.layout.shape or a.like.layout.cuts != b.like.layout.cuts:
            return False
        pairs = [(p, q) for p, q in zip(a.places, b.places, strict=True) if p is not None and q is not None]
        return bool(pairs) and all(
            nrmse(
                a.like.layout.of_buffer(self._read(p)).astype(np.float64),
                b.like.layout.of_buffer(self._read(q)).astype(np.float64),
            )
            < _SAME
            for p, q in pairs[:2]
        )


def _groups(tensors: Sequence[OracleTensor]) -> list[list[OracleTensor]]:
    """Tensors whose names differ in their first number alone, and whose shapes are the same."""
    found: dict[object, list[OracleTensor]] = {}
    for tensor in tensors:
        name = re.sub("[0-9]+", "#", tensor.name, count=1)
        found.setdefault((name, tensor.shape), []).append(tensor)
    return [sorted(g, key=lambda t: _numbers(t.name)) for g in found.values()]


def _numbers(name: str) -> list[int]:
    return [int(n) for n in re.findall("[0-9]{1,9}", name)]


def _taken(place: Location, layout: TensorLayout) -> tuple[int, int, bool, str]:
    """Two tensors may be two parts of one buffer, or one tensor in two parts."""
    return place.row, place.position, place.output, f"{layout.cuts} {layout.starts} {layout.row}"


def _is_whole(layout: TensorLayout) -> bool:
    return all(cut.n == cut.total for cut in layout.cuts)


def _order(candidate: Candidate) -> tuple[float, bool, int]:
    return -round(abs(candidate.likeness), 3), not candidate.layout.plain, candidate.place.row


def _words(spot: _Spot, i: int) -> str:
    place = spot.places[i]
    return f"{spot.like.place.label if place is None else place.label} as {spot.like.layout}"


def _error(quality: float) -> float:
    return float(10**-quality)


def _useless(array: Array) -> str:
    wide = array.astype(np.float64)
    if array.size < FEWEST:
        return f"has {count(array.size, 'element')}, too few to be found by their values"
    if not np.isfinite(wide).all():
        return "has values that are not finite"
    if float(wide.max()) == float(wide.min()):
        return "holds one value alone"
    return ""


__all__ = ["Mapping", "OracleBoundary", "Unmapped", "by_contents", "reader"]
