# SPDX-License-Identifier: Apache-2.0
"""Entry point of the program ``fusion-replay`` and of ``python -m fusion_replay``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fusion_replay import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Returns:
        The exit status: 0 right, 1 mismatch, 2 usage, 3 no usable snapshot, 4 something needed is missing,
        70 a bug in this program, 130 interrupted, 141 the reader of our output went away.
    """
    _open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:  # answered before anything is imported: scripts ask it often
        print(f"fusion-replay {__version__}")
        return 0
    from fusion_replay.cli import run
    from fusion_replay.system.unfinished import leave

    status = run(arguments)
    return leave(status) if argv is None else status


def _open_streams() -> None:
    """Of a caller that closed some (``2>&-``): the next file to be opened would get the number, and what is said there.

    stdout stays closed for us, so that nobody who asked for nothing waits for it; errors may always be told.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - as long as the process


if __name__ == "__main__":
    sys.exit(main())
