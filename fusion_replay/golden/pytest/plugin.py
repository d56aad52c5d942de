# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: options, and when what happens.

Of the package nothing but the settings is imported until a test needs it. Merely installed it changes nothing of other
projects' runs: it acts where ``fr_dir``, another ``fr_`` key or an option ``--fr-...`` asks for it, and on tests with
the marker ``fr_npu`` or the fixture ``npu_golden``, which are its own. Results travel from an item to its report as
plain data, so that pytest-xdist's workers and a single process come to the same summary.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fusion_replay.golden.pytest.lost import LostDevice
from fusion_replay.golden.pytest.settings import MARKER, RESULTS, read, results_key, settings_key

if TYPE_CHECKING:
    from fusion_replay.golden.pytest.fixture import NpuGolden
    from fusion_replay.golden.pytest.tally import Tally

SUFFIX = ".golden.json"

_LOST = ("No such device", "device lost")  # ENODEV as XRT words it; our own word

tally_key = pytest.StashKey["Tally"]()
lost_key = pytest.StashKey[LostDevice]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fusion-replay", "goldens: accepted recordings of an NPU")
    for name, words in (
        ("dir", "Folder of goldens: each is an item, and npu_golden keeps its own there."),
        ("new-dir", "Where *.new of failing goldens go for review, by default beside them."),
        ("record-dir", "Record each test into this folder."),
    ):
        group.addoption(f"--fr-{name}", metavar="DIR", help=words)
    group.addoption("--fr-on", choices=["sim", "npu"], help="Record goldens again from their recipes, and compare.")
    for name, words in (
        ("update", "Accept whatever is new or moved; refused where CI is set."),
        ("update-new-only", "Accept goldens that are missing, none that exists; refused where CI is set."),
        ("details", "Print every step that is not the same."),
        ("require-npu", "A test marked fr_npu fails where there is no NPU, and one must run."),
        ("exact", "With --fr-on and npu_golden: the same bits, not only the same within limits."),
        ("fetch-private", "Fetch contents from this machine's network too, and over http."),
        ("run-recipes", "Recipes may run the programs and functions that they name."),
    ):
        group.addoption(f"--fr-{name}", action="store_true", default=None, help=words)
    for key in ("dir", "new_dir", "record_dir", "on"):
        parser.addini(f"fr_{key}", f"--fr-{key.replace('_', '-')}", default="")
    for key in ("details", "require_npu", "exact", "run_recipes"):
        parser.addini(f"fr_{key}", f"--fr-{key.replace('_', '-')}", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: needs a real NPU; skipped without one (--fr-require-npu: fails)")
    settings = read(config)
    config.stash[settings_key] = settings
    if settings.named and settings.dir is not None and not _covered(config, settings.dir):
        config.args.append(str(settings.dir))
    told = getattr(config, "workerinput", {}).get("fusion_replay_state")
    config.stash[lost_key] = LostDevice(None if told is None else Path(told))


def pytest_unconfigure(config: pytest.Config) -> None:
    if lost_key in config.stash and not hasattr(config, "workerinput"):
        config.stash[lost_key].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Of pytest-xdist: a device that one worker loses is lost to all."""
    node.workerinput["fusion_replay_state"] = str(node.config.stash[lost_key].shared())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of pytest-xdist: what a worker alone knows."""
    output = getattr(node, "workeroutput", None) or {}
    tally(node.config).deselected = max(tally(node.config).deselected, output.get("fusion_replay_deselected", 0))


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items and concerned(items[0].config):
        tally(items[0].config).deselected += len(items)


# --- collecting -----------------------------------------------------------------------------------------------------


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if path != parent.config.stash[settings_key].dir:
        return None
    from fusion_replay.golden.pytest.items import GoldenFolder

    folder: pytest.Collector = GoldenFolder.from_parent(parent, path=path)
    return folder


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    folder = parent.config.stash[settings_key].dir
    if folder is None or not file_path.name.endswith(SUFFIX) or not file_path.is_relative_to(folder):
        return None
    from fusion_replay.golden.pytest.items import GoldenFile

    file: pytest.Collector = GoldenFile.from_parent(parent, path=file_path)
    return file


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Goldens come after the tests that record them: what such a test finds wrong fails its golden's item too."""
    if any("npu_golden" in getattr(item, "fixturenames", ()) for item in items):
        items.sort(key=lambda item: item.path.name.endswith(SUFFIX))


@pytest.fixture
def npu_golden(request: pytest.FixtureRequest) -> NpuGolden:
    """``npu_golden.check(build)``: record what ``build`` does and compare it with the golden of this test."""
    from fusion_replay.golden.pytest.fixture import NpuGolden

    return NpuGolden(request.node, request.config.stash[settings_key])


# --- running --------------------------------------------------------------------------------------------------------


def needs_device(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None or "npu_golden" in getattr(item, "fixturenames", ())


def pytest_runtest_setup(item: pytest.Item) -> None:
    lost = item.config.stash[lost_key]
    if needs_device(item) and (test := lost.where()):
        pytest.skip(f"not run: the device was lost in {test}")
    if item.get_closest_marker(MARKER) is None:
        return
    from fusion_replay.golden.pytest.device import why_no_npu

    if why := why_no_npu():
        if item.config.stash[settings_key].require_npu:
            pytest.fail(f"--fr-require-npu: no NPU here: {why}", pytrace=False)
        pytest.skip(f"no NPU here: {why}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    folder = item.config.stash[settings_key].record_dir
    if folder is None or not isinstance(item, pytest.Function) or "npu_golden" in item.fixturenames:
        around: Any = nullcontext()
    else:
        from fusion_replay.golden.pytest.record import recorded

        around = recorded(item, folder)
    with around:
        try:
            return (yield)
        except Exception as error:
            if needs_device(item) and any(word in str(error) for word in _LOST):
                item.config.stash[lost_key].tell(item.nodeid)
            raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if needs_device(item) or results_key in item.stash:
        setattr(report, RESULTS, item.stash.get(results_key, []))
    return report


# --- telling --------------------------------------------------------------------------------------------------------


def tally(config: pytest.Config) -> Tally:
    if tally_key not in config.stash:
        from fusion_replay.golden.pytest.tally import Tally

        config.stash[tally_key] = Tally(config.stash[settings_key])
    return config.stash[tally_key]


def concerned(config: pytest.Config) -> bool:
    """Whether this run has anything to do with us: asked for, or a test of ours was in it."""
    return tally_key in config.stash or config.stash[settings_key].asked


class _Reports:
    """Only the process that reports to people counts."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if concerned(self.config) or hasattr(report, RESULTS):
            tally(self.config).add(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not concerned(self.config):
            return
        whole = not session.shouldstop and not session.shouldfail and not any("::" in a for a in self.config.args)
        if tally(self.config).close(self.config, whole) and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        lines = tally(self.config).lines() if concerned(self.config) else []
        if lines:
            terminalreporter.write_sep("=", "fusion-replay")
            for line in lines:
                terminalreporter.write_line(line)


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Reports(session.config), "fusion-replay-reports")


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None and tally_key in session.config.stash:
        output["fusion_replay_deselected"] = session.config.stash[tally_key].deselected


def _covered(config: pytest.Config, folder: Path) -> bool:
    """Whether what pytest was asked to run includes the folder, or something inside it was asked for by name."""
    paths = [Path(os.path.abspath(config.invocation_params.dir / a.partition("::")[0])) for a in config.args]
    return any(folder.is_relative_to(p) or p.is_relative_to(folder) for p in paths)
