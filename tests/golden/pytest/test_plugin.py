# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, driven in projects of its own: output lines, exit codes, JUnit contents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from fusion_replay.golden.pytest.lost import LostDevice
from fusion_replay.golden.pytest.record import name_of_test
from golden_maker import recipe, record_workload

pytest_plugins = "pytester"

PLUGIN = "fusion_replay.golden.pytest.plugin"
FAKE_IRON = Path(__file__).parents[2] / "fake_iron"
EXAMPLE = Path(__file__).parents[3] / "examples" / "golden_project"
EXAMPLE_GOLDEN = "tests.test_softcap.test_capped_sum"

CHECK = """
def build():
    import fusion_replay as fr
    from fusion_replay.simulator import operators
    add = operators.ElementwiseAdd(size=2048, tile_size=256, num_aie_columns=4)
    call = fr.simulate([(add, "a", "b", "c")], "npu1", faults={faults!r}, input_args=["a", "b"])
    call.get_buffer("a")[:] = 1.5
    return call

def test_add(npu_golden):
    npu_golden.check(build)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Goldens of two one-step recordings."""
    from fusion_replay.golden.add import add

    folder = tmp_path_factory.mktemp("made")
    for name in ("GELU", "SiLU"):
        recording = record_workload(folder / f"{name}.recording", f"op:{name}")
        add(recording, folder / "goldens", name=name, recipe=recipe(f"op:{name}"))
    return folder / "goldens"


@pytest.fixture
def project(pytester: pytest.Pytester, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CI", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(made, pytester.path / "goldens")
    return pytester.path


def go(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_goldens_are_items_and_counted_once(pytester: pytest.Pytester, project: Path, workers: tuple[str, ...]) -> None:
    result = go(pytester, "--fr-dir", "goldens", "--fr-on", "sim", "--junitxml=j.xml", *workers)
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["2 of 2 goldens hold; 2 steps compared"])
    cases = {c.get("classname"): c for c in ET.parse(project / "j.xml").iter("testcase")}
    said = {p.get("name"): p.get("value") for p in cases["goldens.GELU.golden.json"].iter("property")}
    assert said == {
        "fr_golden": "GELU",
        "fr_compared": "1",
        "fr_within": "0",
        "fr_headline": "GELU: 1 step as accepted",
    }


def test_one_golden_by_its_path_and_none_without_the_option(pytester: pytest.Pytester, project: Path) -> None:
    result = go(pytester, "goldens/GELU.golden.json", "--fr-dir", "goldens")
    result.assert_outcomes(passed=1)
    assert go(pytester).ret == pytest.ExitCode.NO_TESTS_COLLECTED


def edit(path: Path, key: str, value: object) -> None:
    data = path.read_text().splitlines()
    path.write_text("\n".join(f'"{key}":{json.dumps(value)},' if x.startswith(f'"{key}":') else x for x in data) + "\n")


def other_limits(path: Path) -> None:
    text = path.read_text()
    before, _, after = text.partition('"limits":{')
    path.write_text(f'{before}"limits":{{"ulps":77}}{after.partition("}")[2]}')


def two_of_one_name(path: Path) -> None:
    (path.parent / "sub").mkdir()
    shutil.copy(path, path.parent / "sub")


def with_a_tolerance_of_no_step(path: Path) -> None:
    said = '"tolerances":[{"limits":{"ulps":2},"step":"5:5","why":"it is so"}]'
    path.write_text(path.read_text().replace('"tolerances":[]', said))


BROKEN = {
    "corrupt": (lambda p: p.write_text("{"), "*no JSON*"),
    "foreign": (lambda p: p.write_text("{}"), "*no golden: format None*"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:200]), "*no JSON*"),
    "newer": (lambda p: edit(p, "format", "fusion-replay.golden/99"), "*reads up to*update fusion-replay"),
    "lfs": (
        lambda p: p.with_name("GELU.h5").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "*git-LFS pointer*git lfs pull*",
    ),
    "gone": (lambda p: p.with_name("GELU.h5").unlink(), "*its contents are missing*"),
    "steps deleted": (lambda p: edit(p, "n_steps", 2), "*it says 2 steps and has 1*"),
    "tolerance": (other_limits, "GELU: 0:0 GELU * tolerance moved: limits were 77 bf16 ulp*"),
    "tolerance of no step": (with_a_tolerance_of_no_step, "*a tolerance for 5:5, of which it has no step*"),
    "twins": (two_of_one_name, "GELU: two goldens of one name*"),
    "stray": (lambda p: shutil.copy(p.with_name("GELU.h5"), p.with_name("x.h5")), "*x.h5: no golden names it*"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_wrong_is_red_with_its_own_words(pytester: pytest.Pytester, project: Path, kind: str) -> None:
    breaks, message = BROKEN[kind]
    breaks(project / "goldens" / "GELU.golden.json")
    result = go(pytester, "--fr-dir", "goldens")
    assert result.ret == 1
    result.stdout.fnmatch_lines([message])


def test_a_folder_that_guards_nothing_is_red(pytester: pytest.Pytester, project: Path) -> None:
    (project / "empty").mkdir()
    (project / "test_x.py").write_text("def test_x(): pass\n")
    result = go(pytester, "--fr-dir", "empty")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["empty: no golden here*"])
    filtered = go(pytester, "test_x.py", "--fr-dir", "goldens", "-k", "test_x")
    assert filtered.ret == 1
    filtered.stdout.fnmatch_lines(["*no golden was checked (3 tests deselected)"])
    nowhere = go(pytester, "--fr-dir", "nowhere")
    assert nowhere.ret == pytest.ExitCode.USAGE_ERROR
    nowhere.stderr.fnmatch_lines(["*nowhere: expected a folder of goldens*"])


def test_a_folder_whose_goldens_all_fail_to_load_is_red(pytester: pytest.Pytester, project: Path) -> None:
    for path in (project / "goldens").glob("*.golden.json"):
        path.write_text("{")
    result = go(pytester, "--fr-dir", "goldens")
    assert result.ret == 1
    result.assert_outcomes(failed=2, passed=1)  # of the folder itself nothing is wrong
    result.stdout.fnmatch_lines(["GELU: *no JSON*", "SiLU: *no JSON*", "0 of 2 goldens hold; 0 steps compared*"])


def test_an_operator_that_the_project_does_not_know(pytester: pytest.Pytester, project: Path) -> None:
    shutil.copytree(EXAMPLE / "goldens", project / "example", ignore=shutil.ignore_patterns("*.new"))
    result = go(pytester, "example", "--fr-dir", "example", "--junitxml=j.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"{EXAMPLE_GOLDEN}: 0:1 SoftCap sum -> out: *SoftCap*"])
    case = next(c for c in ET.parse(project / "j.xml").iter("testcase") if c.get("name") == "steps")
    said = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert said["fr_compared"] == "1", "the other step was compared"
    assert said["fr_moved"] == "unknown_operator"
    assert "SoftCap" in (said["fr_step 0:1"] or "")


def test_what_waits_for_a_review_is_named_and_not_overwritten(pytester: pytest.Pytester, project: Path) -> None:
    other_limits(project / "goldens" / "GELU.golden.json")
    waits = project / "goldens" / "GELU.golden.json.new"
    waits.write_text("somebody's")
    result = go(pytester, "goldens/GELU.golden.json", "--fr-dir", "goldens")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*goldens/GELU.golden.json.new: left over from before, it was not overwritten*"])
    assert waits.read_text() == "somebody's"


def test_a_failure_names_its_step_in_its_first_line_and_in_junit(pytester: pytest.Pytester, project: Path) -> None:
    other_limits(project / "goldens" / "GELU.golden.json")
    assert go(pytester, "--fr-dir", "goldens", "--junitxml=j.xml").ret == 1
    case = next(c for c in ET.parse(project / "j.xml").iter("testcase") if "GELU" in (c.get("classname") or ""))
    failure = case.find("failure")
    assert failure is not None
    assert (failure.text or "").startswith("GELU: 0:0 GELU ")
    assert (failure.get("message") or "").startswith("GELU: 0:0 GELU ")
    said = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert said["fr_moved"] == "tolerance"
    assert (said["fr_step 0:0"] or "").startswith("tolerance moved: limits were 77 bf16 ulp")


def test_github_gets_annotations_and_a_summary(
    pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_limits(project / "goldens" / "GELU.golden.json")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project / "summary.md"))
    result = go(pytester, "--fr-dir", "goldens")
    result.stdout.fnmatch_lines(["::error file=goldens/GELU.golden.json,title=golden GELU::GELU: 0:0*"])
    assert (project / "summary.md").read_text().startswith("### Goldens: FAILED")


def test_a_test_and_its_golden_from_missing_to_moved(pytester: pytest.Pytester, project: Path) -> None:
    test = pytester.makepyfile(test_it=CHECK.format(faults=[]))
    missing = go(pytester, "--fr-dir", "goldens", "test_it.py")
    assert missing.ret == 1
    missing.stdout.fnmatch_lines(
        ["test_it.test_add: *.golden.json: no such golden; `fusion-replay golden review goldens`, *"]
    )
    waits = project / "goldens" / "test_it.test_add.golden.json.new"
    assert waits.exists()
    assert go(pytester, "--fr-dir", "goldens", "test_it.py", "--fr-update-new-only").ret == 0
    golden = project / "goldens" / "test_it.test_add.golden.json"
    before = golden.read_bytes()
    assert list(golden.parent.glob("*.new")) == [], "what an earlier run proposed is superseded"
    test.write_text(CHECK.format(faults=["ElementwiseAdd:zeros"]))
    for more in ((), ("--fr-update-new-only",)):
        moved = go(pytester, "--fr-dir", "goldens", "test_it.py", "--fr-new-dir", "new", *more)
        assert moved.ret == 1
        moved.stdout.fnmatch_lines(["test_it.test_add: 0:0 ElementwiseAdd a, b -> c: NPU moved: output C*"])
        assert golden.read_bytes() == before
    assert (project / "new" / "test_it.test_add.golden.json.new").exists()
    both = go(pytester, "--fr-dir", "goldens", ".", "--fr-new-dir", "newer", "-v")
    both.stdout.fnmatch_lines(["test_it.py::test_add FAILED*", "*test_it.test_add.golden.json::steps FAILED*"])
    assert [p for p in (project / "goldens").iterdir() if p.suffix == ".new"] == []


def test_updates_are_refused_in_ci(pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    for option in ("--fr-update", "--fr-update-new-only"):
        result = go(pytester, option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*refused where CI is set*"])


def test_update_accepts_what_moved(pytester: pytest.Pytester, project: Path) -> None:
    other_limits(project / "goldens" / "GELU.golden.json")
    assert go(pytester, "--fr-dir", "goldens", "--fr-update").ret == 0
    assert go(pytester, "--fr-dir", "goldens").ret == 0


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_an_unused_golden(pytester: pytest.Pytester, project: Path, workers: tuple[str, ...]) -> None:
    test = pytester.makepyfile(test_it=CHECK.format(faults=[]))
    assert go(pytester, ".", "--fr-dir", "goldens", "--fr-update-new-only").ret == 0
    test.write_text("def test_other(): pass\n\ndef test_more(): pass\n")
    result = go(pytester, ".", "--fr-dir", "goldens", *workers)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*unused golden: test_it.py::test_add does not check it*"])
    if not workers:
        chosen = go(pytester, ".", "--fr-dir", "goldens", "-k", "not test_more")
        assert chosen.ret == 0, "not judged: the run did not cover everything"


def test_the_marker_fr_npu(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fr_npu
        @pytest.mark.parametrize("i", [1, 2])
        def test_x(i): pass

        def test_y(): pass
        """
    )
    result = go(pytester)
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["2 tests skipped: no NPU here: no pyxrt"])
    required = go(pytester, "--fr-require-npu")
    required.assert_outcomes(passed=1, errors=2)
    required.stdout.fnmatch_lines(["*--fr-require-npu: no NPU here: no pyxrt*"])
    alone = go(pytester, "--fr-require-npu", "-k", "test_y")
    assert alone.ret == 1
    alone.stdout.fnmatch_lines(["*no test marked fr_npu ran"])


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_merely_installed_it_changes_nothing(
    pytester: pytest.Pytester, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project's marker of a likely name, its files, a file where ours once lay in the temporary folder."""
    folder = pytester.mkdir("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    pytester.makeini("[pytest]\nmarkers = npu: theirs\n")
    (pytester.path / "x.golden.json").write_text("{}")
    pytester.makepyfile(
        """
        import os, pytest, tempfile
        for pid in (os.getpid(), os.getppid()):
            open(f"{tempfile.gettempdir()}/fusion-replay-lost-{pid}", "w").write("elsewhere")

        @pytest.mark.npu
        def test_theirs(): pass

        @pytest.mark.npu
        def test_fails():
            raise RuntimeError("No such device")

        def test_another(): pass
        """
    )
    result = go(pytester, *workers)
    result.assert_outcomes(passed=2, failed=1)
    assert "fusion-replay =" not in result.stdout.str()
    left = {p.name.split("-")[-1] for p in folder.iterdir() if p.name.startswith("fusion-replay-")}
    assert left <= {str(os.getpid()), str(os.getppid())} or workers


def test_what_workers_share_is_their_owners_alone(tmp_path: Path) -> None:
    state = LostDevice()
    folder = state.shared()
    assert folder.stat().st_mode & 0o777 == 0o700
    worker = LostDevice(folder)
    worker.tell("test_x")
    assert state.where() == LostDevice(folder).where() == "test_x"
    state.close()
    assert not folder.exists()
    tmp_path.chmod(0o777)
    (tmp_path / "lost").write_text("somebody's")
    assert LostDevice(tmp_path).where() == ""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_after_a_lost_device_the_rest_is_not_run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_lost(npu_golden):
            raise RuntimeError("ioctl: No such device")

        @pytest.mark.parametrize("i", range(3))
        def test_after(npu_golden, i): pass

        def test_without_a_device(): pass
        """
    )
    result = go(pytester, *workers)
    assert result.ret == 1
    result.assert_outcomes(failed=1, skipped=3, passed=1)
    result.stdout.fnmatch_lines(["3 tests skipped: not run: the device was lost in *::test_lost"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("npu_golden.check(3)", "*expected a function that dispatches, found int*"),
        ("npu_golden.check(lambda: None)", "*nothing was recorded*"),
        ("npu_golden.check(build, name='../x')", "*golden name '../x'*"),
    ],
)
def test_what_the_fixture_refuses(pytester: pytest.Pytester, project: Path, call: str, message: str) -> None:
    pytester.makepyfile(CHECK.format(faults=[]).replace("npu_golden.check(build)", call))
    result = go(pytester)
    assert result.ret == 1
    result.stdout.fnmatch_lines([message])


def test_operator_tests_are_recorded(pytester: pytest.Pytester) -> None:
    """IRON's single operators and sequences, on its double; in a process of its own, as that double is imported."""
    pytester.makepyfile(
        test_ops=f"""
        import sys
        sys.path[:0] = [{str(FAKE_IRON / "apps")!r}, {str(FAKE_IRON / "common")!r}, {str(FAKE_IRON / "v6")!r}]

        def test_sequence():
            from common_app import sequence
            sequence(calls=1)

        def test_nothing(): pass
        """
    )
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "--fr-record-dir", "made"]
    done = subprocess.run(command, cwd=pytester.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 test recorded in" in done.stdout
    assert "3 steps; 1 dispatched nothing" in done.stdout
    assert [p.name for p in (pytester.path / "made").iterdir()] == ["test_ops.test_sequence.h5"]
    import fusion_replay as fr

    with fr.open(pytester.path / "made" / "test_ops.test_sequence.h5") as snapshot:
        assert [s.op.type for s in snapshot.steps()] == ["ElementwiseAdd", "ElementwiseMul", "ReLU"]


def test_unused_it_imports_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\n\ndef test_x(): assert not {'numpy', 'h5py', 'click'} & set(sys.modules)\n")
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # others may import what they like
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN]
    done = subprocess.run(command, cwd=pytester.path, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/test_x.py::test_y", "tests.test_x.test_y"),
        ("tests/test_x.py::TestA::test_y[npu1-a b]", "tests.test_x.TestA.test_y-npu1-a_b"),
    ],
)
def test_names_of_tests(nodeid: str, name: str) -> None:
    assert name_of_test(nodeid) == name
    long = [name_of_test(f"{nodeid}{c * 300}") for c in "ab"]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 200
