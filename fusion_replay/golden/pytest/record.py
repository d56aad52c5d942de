# SPDX-License-Identifier: Apache-2.0
"""``--fr-record-dir``: what each test dispatches, as a snapshot of the test's name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fusion_replay.recording.options import Options
from fusion_replay.recording.recorder import Recorder
from fusion_replay.system.messages import in_words

_LONGEST = 160  # characters of a name; a digest keeps longer ones apart


def name_of_test(nodeid: str) -> str:
    """``tests/test_x.py::test_y[1-a b]`` -> ``tests.test_x.test_y-1-a_b``, fit for a file and for a golden."""
    file, _, rest = nodeid.partition("::")
    text = f"{file.removesuffix('.py').replace('/', '.')}.{rest.replace('::', '.')}"
    text = text.replace("[", "-").replace("]", "").lstrip(".-")
    text = re.sub(r"[^\w.+=-]", "_", text)
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}-{hashlib.sha256(nodeid.encode()).hexdigest()[:12]}"


@contextmanager
def recorded(item: pytest.Item, folder: Path) -> Iterator[None]:
    """Record the block. A recorder that fails never fails the test: the summary says so."""
    target = folder / f"{name_of_test(item.nodeid)}.h5"
    with ExitStack() as stack:
        recorder: Recorder | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            options = Options(if_exists="number" if target.exists() else "error")
            recorder = stack.enter_context(Recorder(target, options=options, tells=False))
        except Exception as error:
            item.user_properties.append(("fr_not_recorded", in_words(error)))
        try:
            yield
        finally:
            if recorder is not None:
                recorder.close()
                _say(item, recorder)


def _say(item: pytest.Item, recorder: Recorder) -> None:
    if recorder.report is None or recorder.error is not None:
        item.user_properties.append(("fr_not_recorded", recorder.error or "it could not be sealed"))
    elif recorder.report.losses and not recorder.report.steps:
        item.user_properties.append(("fr_not_recorded", str(recorder.report.losses[0].detail)))
        recorder.path.unlink(missing_ok=True)
    elif not recorder.report.steps:
        item.user_properties.append(("fr_dispatched", "nothing"))
        recorder.path.unlink(missing_ok=True)
    else:
        item.user_properties += [("fr_recorded", str(recorder.path)), ("fr_recorded_steps", recorder.report.steps)]


__all__ = ["name_of_test", "recorded"]
