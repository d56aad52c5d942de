# SPDX-License-Identifier: Apache-2.0
"""User operators from files, modules, pyproject.toml and installed packages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_replay.__main__ import main
from fusion_replay.errors import UsageError
from fusion_replay.refs import find, lookup, plugins, register
from fusion_replay.simulator.kernels import has_kernel

pytestmark = pytest.mark.usefixtures("registry")

DECLARES = """
import fusion_replay as fr

@fr.operator("{name}")
def fn(A):
    return A
"""


def write(path: Path, name: str = "Zig") -> Path:
    path.write_text(DECLARES.format(name=name))
    return path


def test_a_file_is_loaded_once_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "zig.py")
    monkeypatch.chdir(tmp_path)
    plugins.load(str(path))
    plugins.load("zig.py")
    plugins.load("./zig.py")
    assert lookup("Zig") is not None


def test_a_module_beside_us_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_ops"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write(package / "zag.py", "Zag")
    monkeypatch.chdir(tmp_path)
    plugins.load("my_ops.zag")
    assert lookup("Zag") is not None


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "my_ops.py").write_text("FACTOR = 3\n")
    (tmp_path / "zig.py").write_text("from my_ops import FACTOR\n" + DECLARES.format(name="Zig"))
    plugins.load("zig.py", tmp_path)
    assert lookup("Zig") is not None


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder, name in (("a", "Zig"), ("b", "Zag")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "op.py", name)
        plugins.load(f"{folder}/op.py", tmp_path)
    assert lookup("Zig") is not None
    assert lookup("Zag") is not None


def test_a_file_with_nothing_but_a_kernel_will_do(tmp_path: Path) -> None:
    from fusion_replay.simulator.kernels import user

    text = 'import fusion_replay as fr\n\n\n@fr.kernel("ZigKernel")\ndef fn(A):\n    return A\n'
    (tmp_path / "kernel.py").write_text(text)
    plugins.load("kernel.py", tmp_path)
    assert user.user_kernel("ZigKernel") is not None


def test_what_was_declared_and_loaded_is_forgotten(tmp_path: Path) -> None:
    text = DECLARES.format(name="Zig") + '\n\n@fr.kernel("Zig")\ndef kernel(A):\n    return A\n'
    (tmp_path / "zig.py").write_text(text)
    gemm = find("GEMM")
    for _ in range(2):  # forgotten, the same file is loaded again, and nothing is taken
        with plugins.forgetting():
            plugins.load("zig.py", tmp_path)
            register(replace(gemm, summary="mine"), replace=True)
            assert has_kernel("Zig")
            assert find("GEMM").summary == "mine"
        assert lookup("Zig") is None
        assert not has_kernel("Zig")
        assert find("GEMM") is gemm


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "declares no operator"),
        ("import fusion_replay\n\n1 / 0\n", "line 3: ZeroDivisionError"),
        ("def broken(:\n", "line 1: SyntaxError"),
        ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit"),
        (DECLARES.format(name="GEMM"), "'GEMM' is built in"),
    ],
)
def test_files_that_are_no_use(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        plugins.load("bad.py", tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.py").write_text(DECLARES.format(name="Zig"))
    plugins.load("bad.py", tmp_path)  # mended, it loads: a failure leaves nothing behind
    assert lookup("Zig") is not None


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("gone.py", "--import gone.py: no such file"),
        ("sub/gone.py", "no such file"),
        ("no_such_module", "no such module, here or installed; give a file as no_such_module.py"),
        ("no_such.module", "no such module"),
        ("folder.py", "a directory"),
    ],
)
def test_what_is_not_there(tmp_path: Path, where: str, words: str) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(UsageError, match=words):
        plugins.load(where, tmp_path)


def test_the_nearest_project_file_counts(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["ops/zig.py"]\n')
    (tmp_path / "ops").mkdir()
    write(tmp_path / "ops" / "zig.py")
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    plugins.load_project(deep)
    assert lookup("Zig") is not None

    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'a'\n")
    write(tmp_path / "ops" / "zag.py", "Zag")
    (tmp_path / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["ops/zag.py"]\n')
    plugins.load_project(deep)  # stops at a/pyproject.toml, which asks for nothing
    assert lookup("Zag") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.fusion-replay]\nimport = 'zig.py'\n", "expected a list of files and modules, found 'zig.py'"),
        ("[tool.fusion-replay]\nimport = [1]\n", "expected a list"),
        ("[tool.fusion-replay]\nimports = ['zig.py']\n", r"\[tool.fusion-replay\] imports: unknown; known: import, "),
        ("[tool.fusion-replay\n", "pyproject.toml: can't be read"),
        (
            "[tool.fusion-replay]\nimport = ['gone.py']\n",
            r"pyproject.toml: \[tool.fusion-replay\] import gone.py: no such",
        ),
    ],
)
def test_project_files_that_are_no_use(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        plugins.load_project(tmp_path)


def test_what_waits_for_the_first_question_runs_once() -> None:
    ran = []

    def load() -> None:
        ran.append(lookup("GEMV"))  # a question from inside is answered

    plugins.before_first_use(load)
    threads = [threading.Thread(target=lookup, args=("ReLU",)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(ran) == 1
    assert ran[0] is not None


def test_a_project_nobody_asks_about_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("no TOML at all")
    monkeypatch.chdir(tmp_path)
    with plugins.reading_project():
        pass
    lookup("GEMV")
    with pytest.raises(UsageError, match="can't be read"), plugins.reading_project():
        lookup("GEMV")


def install(site: Path, name: str, module: str, text: str) -> None:
    """A package as an installer leaves it: its code, and metadata with the entry point."""
    (site / f"{module}.py").write_text(text)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fusion_replay.operators]\n{name} = {module}\n")


def test_installed_packages_offer_operators_and_a_broken_one_stops_nothing(tmp_path: Path) -> None:
    install(tmp_path, "zigpack", "zigpack_ops", DECLARES.format(name="Zig"))
    install(tmp_path, "badpack", "badpack_ops", "raise RuntimeError('no driver\\nhere')\n")
    program = (
        "import sys; from fusion_replay import refs\n"
        "assert 'zigpack_ops' not in sys.modules\n"
        "print([o.type for o in refs.specs()][0], refs.lookup('Zig').source)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "Zig zigpack_ops.fn\n"
    assert ran.stderr.splitlines() == [
        "fusion-replay: operators of entry point badpack (badpack_ops) are left out: RuntimeError: no driver here"
    ]


def test_a_project_runs_its_owners_code_and_tells(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["zig.py"]\n')
    write(tmp_path / "zig.py")
    told: list[str] = []
    plugins.load_project(tmp_path, tell=told.append)
    assert lookup("Zig") is not None
    assert len(told) == 1
    assert "runs zig.py" in told[0]
    assert "--no-import" in told[0]


@pytest.mark.parametrize("whose", ["another user's", "anybody's file", "anybody's folder"])
def test_a_strangers_project_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    project = tmp_path / "p"
    project.mkdir()
    (project / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["zig.py"]\n')
    write(project / "zig.py")
    if whose == "another user's":
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    elif whose == "anybody's file":
        (project / "pyproject.toml").chmod(0o666)
    else:
        project.chmod(0o777)
    told: list[str] = []
    plugins.load_project(project, tell=told.append)
    assert lookup("Zig") is None
    assert len(told) == 1
    assert "left out" in told[0]


def test_no_import_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["zig.py"]\n')
    write(tmp_path / "zig.py")
    monkeypatch.chdir(tmp_path)
    assert main(["operators", "Zig", "--no-import"]) == 4
    assert "runs zig.py" not in capsys.readouterr().err
    assert main(["record", "--no-import", "--workload", "op:Zig", "--sim", "npu2"]) == 4
    assert main(["operators", "Zig"]) == 0
    assert capsys.readouterr().err.count("runs zig.py") == 1
