# SPDX-License-Identifier: Apache-2.0
"""Which test lost the device, known to all processes of one run of pytest and to nobody else.

Tested in tests/golden/pytest/test_plugin.py.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fusion_replay.system import platform

_NAME = "lost"


class LostDevice:
    """In memory; in a folder of its own (its owner's alone, of a name that nobody can foresee) where pytest-xdist's
    workers share it.

    Args:
        shared: the folder, in a worker; ignored where it is not the user's own.
    """

    def __init__(self, shared: Path | None = None) -> None:
        self._folder = shared if shared is not None and platform.private(shared.lstat()) else None
        self._made = False
        self._test = ""

    def shared(self) -> Path:
        """The folder, made now if need be."""
        if self._folder is None:
            self._folder, self._made = Path(tempfile.mkdtemp(prefix="fusion-replay-")), True
        return self._folder

    def tell(self, test: str) -> None:
        self._test = test
        if self._folder is not None:
            (self._folder / _NAME).write_text(test, "utf-8", "backslashreplace")

    def where(self) -> str:
        """The test in which it was lost; empty while it was not."""
        if not self._test and self._folder is not None and (self._folder / _NAME).is_file():
            self._test = (self._folder / _NAME).read_text("utf-8")
        return self._test

    def close(self) -> None:
        if self._made and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


__all__ = ["LostDevice"]
