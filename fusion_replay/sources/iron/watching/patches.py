# SPDX-License-Identifier: Apache-2.0
"""Replaces methods on classes and restores them; knows whether this thread is inside a dispatch that is recorded."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

_thread = threading.local()


def nested() -> bool:
    """Whether this thread is inside something that is recorded (or refused) as a whole."""
    return bool(getattr(_thread, "depth", 0))


@contextlib.contextmanager
def inside() -> Iterator[None]:
    """While this lasts, what the thread dispatches belongs to an outer call and is not looked at again."""
    enter()
    try:
        yield
    finally:
        leave()


def enter() -> None:
    """As :func:`inside`, without a block; :func:`leave` ends it."""
    _thread.depth = getattr(_thread, "depth", 0) + 1


def leave() -> None:
    _thread.depth = max(0, getattr(_thread, "depth", 0) - 1)


class Patches:
    """Attributes of classes and modules replaced by wrappers; :meth:`undo` restores those that are still ours."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: type, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace the method that ``owner`` itself defines; inherited ones are left to their own class."""
        original = owner.__dict__.get(name)
        if not callable(original) or getattr(original, "__isabstractmethod__", False):
            return
        self.replace(owner, name, functools.wraps(original)(around(original)))

    def replace(self, owner: Any, name: str, new: Any) -> None:
        if any(o is owner and n == name for o, n, _, _ in self._done):
            return
        self._done.append((owner, name, vars(owner)[name], new))
        setattr(owner, name, new)

    def undo(self) -> None:
        for owner, name, original, ours in reversed(self._done):
            if vars(owner).get(name) is ours:
                setattr(owner, name, original)
        self._done.clear()


__all__ = ["Patches", "enter", "inside", "leave", "nested"]
