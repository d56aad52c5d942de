# SPDX-License-Identifier: Apache-2.0
"""Contents of a step that wait for its verdict (``keep="mismatch"``): raw on disk, not compressed or encoded yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.model.step import OperandKey
from fusion_replay.snapshot.journal import payloads
from fusion_replay.snapshot.journal.spill import Task
from fusion_replay.snapshot.schema import ContentKey

Decide = Callable[[Mapping[OperandKey, bytes]], str | None]
"""Asked once a step has ended, with the digests of all that was seen of it: why its contents are not kept, or None."""


@dataclass(slots=True)
class Hold:
    """What one step under way holds back.

    Attributes:
        contents: in slots of the spill file that are not compressed, as the journal declares them.
        rows: the step's operands so far: position, role, content.
        waits: for a verdict; false where its contents are left out whatever that is.
    """

    contents: dict[ContentKey, payloads.ContentRecord] = field(default_factory=dict)
    rows: list[payloads.Row] = field(default_factory=list)
    waits: bool = True


def tasks_of(record: payloads.ContentRecord) -> Iterator[Task]:
    """The pieces of a content that is held, for compression."""
    itemsize, kind = DTYPE_BYTES[record.dtype], (record.dtype, record.shape)
    for piece, (slot, (start, stop)) in enumerate(zip(record.slots, record.layout.spans(), strict=True)):
        yield Task(record.content, piece, slot, stop - start, record.layout.piece_bytes, itemsize, kind)


def digest_alone(record: payloads.ContentRecord) -> payloads.ContentRecord:
    """The same content, its bytes not kept: declared later it counts, and the earlier record does not."""
    return replace(record, where=payloads.DIGEST, slots=(), link=None)


__all__ = ["Decide", "Hold", "digest_alone", "tasks_of"]
