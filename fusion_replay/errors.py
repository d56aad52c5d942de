# SPDX-License-Identifier: Apache-2.0
"""The exception tree: one class per exit code, leaves that also subclass the builtin a caller would catch.

Every message is one line that names the file, step or argument concerned, what was expected, what was
found, and what to do next. The command line prints ``str(error)`` and exits with ``error.exit_code``.
"""

from __future__ import annotations


class FusionReplayError(Exception):
    """Root of everything this package raises on purpose."""

    exit_code = 2


class UsageError(FusionReplayError, ValueError):
    """An argument, option or filter that cannot be honoured (exit 2)."""


class TargetExistsError(UsageError, FileExistsError):
    """The file to be written exists already and nobody asked for it to be replaced (exit 2)."""


class RunlistError(UsageError):
    """A runlist that no device could run: wrong argument counts, slices outside their base, sizes that disagree."""


class NotAttachableError(UsageError, TypeError):
    """An object that cannot be recorded step by step: never compiled, fused, or no callable at all (exit 2)."""


class MismatchError(FusionReplayError, AssertionError):
    """A comparison said mismatch (exit 1)."""

    exit_code = 1


class SnapshotError(FusionReplayError):
    """No usable snapshot: missing, empty, foreign, damaged or written by a newer version (exit 3)."""

    exit_code = 3


class SnapshotNotFoundError(SnapshotError, FileNotFoundError):
    """Nothing lies at the given path, or a directory does."""


class ForeignFileError(SnapshotError, ValueError):
    """The file is no fusion-replay snapshot (empty files included)."""


class NewerFormatError(SnapshotError, ValueError):
    """The snapshot's major format version is newer than this reader knows."""


class DamagedSnapshotError(SnapshotError, OSError):
    """Length, digest or structure disagree with what was sealed."""


class UnsealedError(SnapshotError, OSError):
    """A recording could not be sealed (disk full, say); its journal is kept and can be read and sealed later."""


class MissingError(FusionReplayError):
    """Something that is needed is not here (exit 4)."""

    exit_code = 4


class UnknownOperatorError(MissingError, LookupError):
    """No reference, or no kernel of the software NPU, is known for this operator type."""


class MissingDependencyError(MissingError, ImportError):
    """An optional package or program is not installed; the message says the command that installs it."""


class NothingComparedError(MissingError):
    """A replay that compared nothing is a failure, never a pass. ``unknown``: operators without a reference;
    ``report``: the replay's own, which says of each step why."""

    def __init__(self, message: str, unknown: tuple[str, ...] = (), report: object = None) -> None:
        super().__init__(message)
        self.unknown = unknown
        self.report = report


class RecordingError(FusionReplayError, RuntimeError):
    """The recorder itself failed, and ``on_error="raise"`` had asked for a hard stop (exit 4)."""

    exit_code = 4


class HostileFileError(DamagedSnapshotError):
    """A size, count, shape or name in a file is beyond the hard limits; nothing was allocated for it."""
