# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from commands import Command, Result
from fusion_replay.__main__ import main
from fusion_replay.refs import plugins

collect_ignore = ["fake_iron"]  # programs to record, not tests: IRON has a test_utils.py of its own

# A shell without job control starts what it puts in the background deaf to SIGINT, and a child inherits that: the tests
# that interrupt one would wait in vain in `make test &`, or under whatever starts programs so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Nothing asserts a duration, Hypothesis's own limits (200 ms for an example, some seconds for drawing the first)
# neither: on a busy machine they fail what is right. Another profile that is loaded already (mutants.py) stays.
PROFILE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", **PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """A share of the examples where nobody waits for the long tests; those that say a number of their own keep it."""
    if config.option.markexpr == "not long":
        settings.register_profile("default", **PROFILE, max_examples=30)


@pytest.fixture
def registry() -> Iterator[None]:
    """Whatever the test declares or imports is forgotten after it."""
    modules, path = set(sys.modules), list(sys.path)
    with plugins.forgetting():
        yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("imported", "my_ops", "iron"):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("show", path)``: exit status, stdout and stderr. A traceback anywhere fails the test."""

    def command(*words: object) -> Result:
        capsys.readouterr()
        status = main([str(w) for w in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Result(status, captured.out, captured.err)

    return command
