# SPDX-License-Identifier: Apache-2.0
"""The arrays of an export under one name each, the same in every format: invocation, step, side, argument."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MissingError

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step


@dataclass(frozen=True, slots=True)
class NamedArray:
    """``name``: ``invocation_0003/step_0412_GEMV/inputs/A``."""

    name: str
    side: str
    step: Step
    tensor: RecordedTensor

    def to_dict(self) -> dict[str, Any]:
        """What the array is, without its values; ``stored`` is added by formats that lack its dtype."""
        t = self.tensor
        return {
            "address": self.step.address,
            "op": self.step.op.type,
            "side": self.side,
            "argument": t.name,
            "buffer": t.buffer,
            "shape": list(t.shape),
            "dtype": t.dtype,
            "digest": t.digest,
        }


def named(steps: Sequence[Step]) -> Iterator[NamedArray]:
    """Every array of ``steps`` of which something was seen, digest-only ones included."""
    for step in steps:
        taken: set[str] = set()
        for side, tensor in step.tensors():
            name = f"{step_name(step)}/{side}/{safe_name(tensor.name)}"
            if name in taken:  # an operator may repeat an argument's name
                name = f"{name}_{tensor.position}"
            taken.add(name)
            if tensor.row is not None:
                yield NamedArray(name, side, step, tensor)


def safe_name(name: str) -> str:
    """``name`` as HDF5 can link it and a shell can type it."""
    return re.sub(r"[^\w.+\-=\[\]:,]", "_", name)[:200].strip(".") or "_"


def step_name(step: Step) -> str:
    return f"invocation_{step.invocation:04d}/step_{step.index:04d}_{safe_name(step.op.type)}"


def whole(steps: Sequence[Step], what: str, skip_missing: bool) -> tuple[list[NamedArray], int]:
    """The arrays whose contents are there, and how many are not.

    Raises:
        MissingError: contents were not kept, and such arrays were not to be left out; or none were kept.
    """
    arrays = list(named(steps))
    kept = [array for array in arrays if array.tensor.kept]
    bare = len(arrays) - len(kept)
    if not kept or (bare and not skip_missing):
        first = next((a.name for a in arrays if not a.tensor.kept), "")
        found = (
            f"{bare} of {len(arrays)} arrays were kept as digests only, first {first}" if bare else "no array at all"
        )
        way = "leave them out with --skip-missing, or " if kept else ""
        raise MissingError(f"{what} holds contents, but {found}; {way}export --as h5 or jsonl, which hold digests")
    return kept, bare
