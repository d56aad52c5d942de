# SPDX-License-Identifier: Apache-2.0
"""Objects that a device may still be using when the process ends: never freed, and no finalizer runs behind them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from typing import Any

_kept: list[Any] = []


def keep_for_ever(*objects: Any) -> None:
    """Nothing frees these any more, the interpreter's own end included."""
    _kept.append(objects)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(objects))  # or it goes with this module's names


def leave(status: int) -> int:
    """``status``; a process that keeps something ends here with it, what it printed written out."""
    if _kept:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        os._exit(status)
    return status


__all__ = ["keep_for_ever", "leave"]
