# SPDX-License-Identifier: Apache-2.0
"""Where steps come from: ``attach(obj)`` picks the adapter, :mod:`.protocol` says what a source is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_replay.errors import NotAttachableError
from fusion_replay.sources.iron.watching.owner import is_operator_call

if TYPE_CHECKING:
    from fusion_replay.sources.protocol import StepSource


def attach(obj: Any, *, whole_calls: bool = False, repeat_calls: int = 1) -> StepSource:
    """A source of the steps that ``obj`` runs; nothing is watched until the source's own ``attach(observer)``.

    ``obj`` is a callable of IRON's shape (the software NPU's too), or a source already. ``whole_calls``: where its
    steps can't be seen, each call of it is one step, and made ``repeat_calls`` times.

    Raises:
        NotAttachableError: it never was compiled, runs fused, or is no such callable; the message says what to do.
        RunlistError: its runlist contradicts its operators or buffers.
    """
    if all(hasattr(obj, name) for name in ("sequence", "attach", "detach")):
        source: StepSource = obj
        return source
    from fusion_replay.sources.iron.source import IronSource

    try:
        return IronSource(obj)
    except NotAttachableError:
        if not whole_calls:
            raise
    from fusion_replay.sources.iron.whole_call import WholeCall

    return WholeCall(obj, repeats=repeat_calls)


__all__ = ["attach", "is_operator_call"]
