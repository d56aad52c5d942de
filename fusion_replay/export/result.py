# SPDX-License-Identifier: Apache-2.0
"""What an export is asked for and what it wrote, as frozen data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fusion_replay import __version__
from fusion_replay.model import serialise
from fusion_replay.model.text import block
from fusion_replay.report.text import count, human_bytes

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, Snapshot
    from fusion_replay.snapshot.target import IfExists

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What each format's module gets: the steps, where to write them, and the choices that it may honour."""

    snapshot: Snapshot
    steps: Sequence[RecordedStep]
    target: Path
    if_exists: IfExists = "error"
    compression: str | None = None
    skip_missing: bool = False
    with_weights: bool | None = None
    float32: bool = False
    progress: Callable[[int, int], object] | None = None

    def each(self, items: Sequence[T]) -> Iterator[T]:
        """The items one by one, telling how far it is."""
        for done, item in enumerate(items, 1):
            yield item
            if self.progress is not None:
                self.progress(done, len(items))

    @property
    def head(self) -> dict[str, Any]:
        """Where the file comes from, for formats that have no place of their own for it."""
        return {"written_by": f"fusion-replay {__version__}", "recording": self.snapshot.index.recording}

    def report(self, format_: str, path: Path, arrays: int, **more: Any) -> ExportReport:
        return ExportReport(path, format_, len(self.steps), arrays, size_of(path), **more)


@dataclass(frozen=True, slots=True)
class ExportReport:
    """``path``: the file or folder. ``bytes``: of all files. ``missing``: arrays left out since only digests were kept.

    ``dropped`` says what was left out on purpose, in words; ``notes`` what the format can't say.
    """

    path: Path
    format: str
    steps: int
    arrays: int
    bytes: int
    missing: int = 0
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.format}, {count(self.steps, 'step')}, {count(self.arrays, 'array')}, "
            f"{human_bytes(self.bytes)}"
        ]
        if self.missing:
            lines.append(f"  left out: {count(self.missing, 'array')} kept as digests only")
        lines += [f"  left out: {what}" for what in self.dropped]
        lines += [f"  {note}" for note in self.notes]
        return block(lines)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
