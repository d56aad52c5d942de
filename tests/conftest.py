# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fusion_replay import refs
from fusion_replay.refs import plugins

collect_ignore = ["fake_iron"]  # programs to record, not tests: IRON has a test_utils.py of its own


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever the test declares or imports is forgotten after it."""
    plugins.ready()
    known, loaded = dict(refs._registered.REGISTERED), dict(plugins._loaded)
    modules, path = set(sys.modules), list(sys.path)
    yield
    for mine, before in ((refs._registered.REGISTERED, known), (plugins._loaded, loaded)):
        mine.clear()
        mine.update(before)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("imported", "my_ops", "iron"):
            del sys.modules[name]
    sys.path[:] = path
