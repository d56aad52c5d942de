# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fusion_replay import operators, plugins

collect_ignore = ["fake_iron"]  # programs to record, not tests: IRON has a test_utils.py of its own


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever the test declares or imports is forgotten after it."""
    plugins.ready()
    known, loaded = dict(operators.registry._USER), dict(plugins._loaded)
    modules, path = set(sys.modules), list(sys.path)
    yield
    for mine, before in ((operators.registry._USER, known), (plugins._loaded, loaded)):
        mine.clear()
        mine.update(before)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("imported", "my_ops", "iron"):
            del sys.modules[name]
    sys.path[:] = path
