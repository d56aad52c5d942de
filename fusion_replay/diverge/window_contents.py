# SPDX-License-Identifier: Apache-2.0
"""What a window's callable is given before a dispatch: recorded contents of its buffers, per-call values.

Tested in tests/diverge/test_bisect_fused.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_replay.diverge.boundary import Boundary, Bytes, collected
from fusion_replay.diverge.fusion_suspects import Layout
from fusion_replay.errors import MissingError
from fusion_replay.sources.iron.tensor import host_bytes, knows_who_wrote, overwrite
from fusion_replay.sources.iron.whole_call import overlapping


class WindowContents:
    """Puts into a window's buffers what the recorded steps found in them."""

    def __init__(self, callable_: Any, edge: Boundary, renamed: Mapping[str, str]) -> None:
        self._callable = callable_
        written = {p.buffer for p in edge.leaves}
        changing = written | overlapping(layout_of(callable_.op))
        self._data: dict[str, Bytes] = {}
        self._once = set()
        for name, pieces in collected(edge.reads).items():
            tensor = callable_.get_buffer(name)
            if not knows_who_wrote(tensor):
                raise MissingError(f"buffer {name}: its tensor can't be given recorded contents in this form of IRON")
            data = host_bytes(tensor).copy()
            for piece in pieces:
                data[piece.start : piece.stop] = piece.read()
            self._data[name] = data
            if name not in changing:
                self._once.add(name)
        self._changing = changing
        self._filled = False

    def __call__(self) -> None:
        for name, data in self._data.items():
            if name not in self._once or not self._filled:
                overwrite(self._callable.get_buffer(name), data)
        self._filled = True

    def held(self) -> dict[str, Bytes]:
        """What the buffers that a dispatch may change hold now, as far as they can be read."""
        tensors = {n: self._callable.get_buffer(n) for n in sorted(self._changing)}
        return {n: host_bytes(t).copy() for n, t in tensors.items() if knows_who_wrote(t)}


def layout_of(sequence: Any) -> Layout:
    placed = getattr(sequence, "subbuffer_layout", None)
    if placed is None and hasattr(sequence, "calculate_buffer_layout"):
        placed = sequence.calculate_buffer_layout()[0]
    return {str(n): list(where) for n, where in (placed or {}).items()}


def bound_symbols(operator: Any, values: Mapping[str, Any]) -> set[str]:
    """Which names of a step's values the image knows: what is bound, not what the operator calls it itself."""
    bound = getattr(operator, "bound_symbols", None)
    bound = dict(bound) if isinstance(bound, Mapping) else {}
    own = {getattr(v, "name", None) for v in getattr(operator, "values", None) or ()} | set(bound)
    return {n for n in values if n not in own or n in bound.values()}


def write_values(callable_: Any, values: Mapping[str, Any]) -> None:
    if not values:
        return
    if hasattr(callable_, "write_values"):
        callable_.write_values(values)
    elif (scratchpad := getattr(callable_, "params", None)) is not None:  # amd/IRON iron/common/sequence.py, V3
        for symbol, value in values.items():
            scratchpad.write(symbol, value)
        scratchpad.sync()
    else:
        raise MissingError(f"per-call values {', '.join(sorted(values))}: this form of IRON takes none in a fused call")


__all__ = ["WindowContents", "bound_symbols", "layout_of", "write_values"]
