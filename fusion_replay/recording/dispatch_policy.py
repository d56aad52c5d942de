# SPDX-License-Identifier: Apache-2.0
"""A dispatch policy for IRON that records: ``OperatorSequence(..., dispatch=fr.RecordingDispatch("decode.h5"))``.

From July to August 2026 IRON takes policy objects (amd/IRON ``iron/common/sequence.py``, ``SequenceDispatch``): the
constructor accepts an instance of ``SeparateDispatch`` or of a subclass, whose ``make_callable(seq)`` builds the
runtime callable. The subclass is made here, when it is asked for, from the IRON that is installed; nothing of IRON is
patched.
"""

from __future__ import annotations

import atexit
import importlib
import os
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MissingDependencyError, MissingError, UsageError
from fusion_replay.recording.options import IfExists, OnError, Options
from fusion_replay.recording.recorder import Recorder

if TYPE_CHECKING:
    from types import TracebackType

_HOME = "iron.common.sequence"


def RecordingDispatch(
    path: str | os.PathLike[str],
    *,
    if_exists: IfExists = "error",
    on_error: OnError = "warn",
    with_reference: bool | None = None,
) -> Any:
    """A ``SeparateDispatch`` of the installed IRON whose callables are recorded into ``path``.

    The recording begins with the first ``get_callable()`` and ends with ``close()``, at the end of a ``with`` block
    over the policy, or when the program ends. A program that is killed leaves its journal (``fsck --recover``).

    Args:
        path, if_exists, on_error, with_reference: as :func:`fusion_replay.record`.

    Returns:
        An instance of a subclass of IRON's ``SeparateDispatch``, with ``close()`` and ``recorder``.

    Raises:
        MissingDependencyError: there is no IRON here.
        MissingError: the IRON here takes no policy objects; ``fr.record(path, callable_)`` works on every version.
        UsageError: an unknown ``if_exists`` or ``on_error``.
    """
    policy = type("RecordingDispatch", (_Records, _separate_dispatch()), {"__module__": __name__})()
    policy.recorder = Recorder(
        path, options=Options(if_exists=if_exists, on_error=on_error, with_reference=with_reference)
    )
    return policy


class _Records:
    """What a recording policy adds to IRON's own."""

    recorder: Recorder
    _state = "new"

    def make_callable(self, seq: Any) -> Any:
        """IRON's callable for ``seq``, watched.

        Raises:
            UsageError: the recording has ended.
            TargetExistsError: as :func:`fusion_replay.record`, at the first call.
        """
        if self._state == "ended":
            raise UsageError(f"{self.recorder.path}: this policy's recording has ended; make another RecordingDispatch")
        made = super().make_callable(seq)  # type: ignore[misc]
        if self._state == "new":
            self.recorder.__enter__()
            self._state = "recording"
            atexit.register(self.close)
        self.recorder.attach(made)
        return made

    def close(self) -> None:
        """End the recording; safe to call twice."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        before, self._state = self._state, "ended"
        if before == "recording":
            atexit.unregister(self.close)
            self.recorder.__exit__(kind, error, traceback)


def _separate_dispatch() -> Any:
    try:
        home = importlib.import_module(_HOME)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "iron":
            raise MissingDependencyError(
                f"RecordingDispatch: no {_HOME} here ({error}); run it where IRON is installed, or without IRON use "
                "fr.record(path) with rec.step(...)"
            ) from error
        raise MissingDependencyError(f"RecordingDispatch: {_HOME} cannot be imported: {error}") from error
    base = getattr(home, "SeparateDispatch", None)
    if base is None:
        raise MissingError(
            f"RecordingDispatch: {_HOME} of the installed IRON has no dispatch policies (SeparateDispatch, July to "
            "August 2026); use fr.record(path, sequence.get_callable()) instead"
        )
    return base


__all__ = ["RecordingDispatch"]
