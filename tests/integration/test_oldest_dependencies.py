# SPDX-License-Identifier: Apache-2.0
"""The oldest dependencies that pyproject.toml allows: recordings stay readable with them, and replays print the same.

They are installed into `.venv-oldest/`, at the lower bounds that stand in pyproject.toml and nowhere else; the package
itself comes from this checkout. `scripts/test-oldest` demands them; elsewhere what can't be installed is skipped, with
that reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / ".venv-oldest"
BESIDE = (
    "pytest>=8",
    "jsonschema>=4.20",
    "hypothesis>=6.100",
    "mpmath>=1.3",
)  # what runs the tests is not what is tested
READING = (
    "tests/frozen",
    "tests/golden/test_snapshot_versions.py",
    "tests/snapshot/read/test_decoding.py",
    "tests/snapshot/test_fsck.py",
    "tests/snapshot/test_plain_hdf5.py",
    "tests/snapshot/test_roundtrip.py",
    "tests/cli/test_schema.py",
)
GOLDENS = tuple(
    path
    for name in (
        "npu1-dequant-2048-c1-ch1-t2048-g32",
        "npu1-gemv-M128-K128-c1-ti32-to128",
        "npu1-rms_norm-2048-c1-ch2-t1024-weighted",
        "npu2-gelu-2048-c1-ch1-t2048",
        "npu2-gemv-M128-K128-c1-ti32-to128",
        "npu2-layer_norm-2048-c1-ch2-t1024",
        "npu2-softmax-32768-c2-ch2-t1024",
    )
    for path in (ROOT / "snapshots").rglob(f"{name}.h5")
)

pytestmark = pytest.mark.long


def bounds() -> dict[str, str]:
    """Lowest version of each dependency, and of what plain h5py needs beside it, as pyproject.toml states it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["hdf5"]]
    found = {}
    for requirement in map(Requirement, texts):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        found[requirement.name] = bound.version
    return found


def wanted() -> str:
    return hashlib.sha256(repr((sorted(bounds().items()), BESIDE)).encode()).hexdigest()


def ready() -> bool:
    stamp = INSTALLED / "installed"
    return stamp.is_file() and stamp.read_text() == wanted()


@pytest.fixture(scope="module")
def python() -> Path:
    """That of an environment with the oldest versions, made again where the bounds were moved."""
    if not ready():
        made = Path(tempfile.mkdtemp(dir=ROOT, prefix=".venv-oldest-"))
        subprocess.run([sys.executable, "-m", "venv", str(made)], check=True, timeout=300)
        pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pins = [f"{name}=={version}" for name, version in bounds().items()]
        done = subprocess.run([*pip, *pins, *BESIDE], capture_output=True, text=True, check=False, timeout=900)
        if done.returncode != 0:
            shutil.rmtree(made)
            why = f"{' '.join(pins)}: can't be installed: {done.stderr.strip().splitlines()[-1]}"
            (pytest.fail if os.environ.get("REQUIRE_OLDEST") else pytest.skip)(why)
        (made / "installed").write_text(wanted())
        if ready():  # another process was faster, and uses it
            shutil.rmtree(made)
        else:
            shutil.rmtree(INSTALLED, ignore_errors=True)
            made.rename(INSTALLED)  # python -m works wherever a venv lies; its scripts are not used
    return INSTALLED / "bin" / "python"


def run(python: Path | str, *words: str, timeout: int = 900) -> subprocess.CompletedProcess[bytes]:
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    env = {**outside, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(python), *words], cwd=ROOT, env=env, capture_output=True, check=False, timeout=timeout)


def test_they_are_the_oldest(python: Path) -> None:
    (site,) = (INSTALLED / "lib").glob("python3*/site-packages")
    there = {d.name.lower().replace("_", "-"): d.version for d in distributions(path=[str(site)])}
    for name, version in bounds().items():
        found = there[name.lower().replace("_", "-")]
        assert found == version or found.startswith(f"{version}."), name


def test_what_was_recorded_stays_readable(python: Path) -> None:
    plain = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long and not torch and not minilm")
    done = run(python, *plain, *READING, timeout=1800)
    text = done.stdout.decode()
    assert done.returncode == 0, text + done.stderr.decode()
    assert " passed" in text.splitlines()[-1]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda p: p.stem)
def test_replays_print_the_same_bytes(python: Path, golden: Path) -> None:
    words = ("-m", "fusion_replay", "replay", str(golden.relative_to(ROOT)), "--json")
    old, new = run(python, *words), run(sys.executable, *words)
    assert old.stderr.startswith(b"PASSED in "), old.stderr.decode()  # and no warning before it
    assert (old.returncode, old.stdout) == (new.returncode, new.stdout)
    assert old.stdout.count(b"\n") >= 3
