# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.sources import provenance

SECRET = "hunter2-correct-horse"


@pytest.mark.parametrize(
    "argv",
    [
        ["app", "--token", SECRET],
        ["app", f"--token={SECRET}"],
        ["app", "--hf-token", SECRET, "--layers", "2"],
        ["app", f"--API_KEY={SECRET}"],
        ["app", "-password", SECRET],
        ["app", "--db-password", SECRET],
        ["app", f"HF_TOKEN={SECRET}"],
        ["app", f"https://user:{SECRET}@example.org/model"],
        ["app", f"https://example.org/?access_key={SECRET}&layers=2"],
        ["app", "--header", f"Authorization: Bearer {SECRET}"],
    ],
)
def test_secrets_of_a_command_line_are_masked(argv: list[str]) -> None:
    masked = provenance.masked_command(argv)
    assert SECRET not in " ".join(masked)
    assert provenance.MASK in " ".join(masked)
    assert len(masked) == len(argv)


@pytest.mark.parametrize(
    "token",
    [
        "hf_" + "aB3" * 8,
        "ghp_" + "x1" * 12,
        "github_pat_" + "q" * 22,
        "sk-" + "ab12" * 6,
        "AKIA" + "Z" * 16,
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ],
)
def test_tokens_of_known_shape_are_masked_wherever_they_stand(token: str) -> None:
    assert provenance.mask_text(f"before {token} after") == f"before {provenance.MASK} after"
    assert token not in " ".join(provenance.masked_command(["app", "--note", f"x={token}"]))


def test_a_numeric_password_is_a_secret_and_a_count_of_tokens_is_none() -> None:
    assert provenance.masked_command(["app", "--password", "123456"]) == ["app", "--password", "***"]
    assert provenance.masked_command(["app", "--tokens", "2", "--max-new-tokens=40"]) == [
        "app",
        "--tokens",
        "2",
        "--max-new-tokens=40",
    ]
    assert provenance.masked_command(["app", "--tokens", SECRET])[2] == "***"


def test_ordinary_arguments_stay_as_they_are() -> None:
    argv = ["prog", "record", "-o", "m.h5", "--fault", "0:3:bitflip", "--text", "a key to the author=me", "--", "k=v"]
    assert provenance.masked_command(argv) == argv


def test_the_home_directory_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert provenance.masked_command(["/home/somebody/bin/app", "/home/somebodyelse/x"]) == [
        "~/bin/app",
        "/home/somebodyelse/x",
    ]


def test_only_allowlisted_variables_are_kept_and_those_masked() -> None:
    env = {
        "AIE_LOG_LEVEL": "debug",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "USER": "somebody",
        "HOSTNAME": "box",
        "FUSION_REPLAY_OUT": "a.h5",
        "FUSION_REPLAY_TOKEN": SECRET,
        "NPU_CACHE_HOME": f"https://me:{SECRET}@example.org",
    }
    kept = provenance.environment(env)
    assert set(kept) == {"AIE_LOG_LEVEL", "FUSION_REPLAY_OUT", "FUSION_REPLAY_TOKEN", "NPU_CACHE_HOME"}
    assert kept["AIE_LOG_LEVEL"] == "debug"
    assert SECRET not in json.dumps(kept)


def test_gather_is_json_and_names_the_versions() -> None:
    found = json.loads(json.dumps(provenance.gather(argv=["x"], environ={})))
    assert found["packages"]["numpy"] == np.__version__
    assert found["command"] == ["x"]
    assert "environment" not in found
    version = ".".join(map(str, sys.version_info[:3]))
    assert version in found["python"]


def test_xrt_version_and_iron_in_use_are_read_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.json").write_text(json.dumps({"BUILD_VERSION": "2.26.0", "VERSION_HASH": "963c58ee", "x": 1}))
    package = tmp_path / "checkout" / "iron" / "__init__.py"
    package.parent.mkdir(parents=True)
    git = tmp_path / "checkout" / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/devel\n")
    (git / "packed-refs").write_text("# pack-refs\n02f78d83aa refs/heads/devel\n")
    module = types.ModuleType("iron")
    module.__file__ = str(package)
    monkeypatch.setitem(sys.modules, "iron", module)
    found = provenance.gather(argv=[], environ={"XILINX_XRT": str(tmp_path)})
    assert found["xrt"] == {"build_version": "2.26.0", "version_hash": "963c58ee"}
    assert found["iron"] == {"commit": "02f78d83aa"}
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "devel").write_text("cafe\n")
    assert provenance.gather(argv=[], environ={})["iron"] == {"commit": "cafe"}


def test_xrt_is_found_where_its_binding_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.json").write_text(json.dumps({"BUILD_VERSION": "2.26.0"}))
    module = types.ModuleType("pyxrt")
    module.__file__ = str(tmp_path / "python" / "pyxrt.so")
    monkeypatch.setitem(sys.modules, "pyxrt", module)
    assert provenance.xrt_version({}) == {"build_version": "2.26.0"}
    assert provenance.xrt_version({"XILINX_XRT": str(tmp_path / "nothing")}) == {"build_version": "2.26.0"}
    module.__file__ = str(tmp_path / "pyxrt.so")
    assert provenance.xrt_version({}) is None


def test_nothing_unreadable_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "package_versions", lambda: 1 / 0)
    monkeypatch.setattr(provenance, "pci_devices", lambda: (_ for _ in ()).throw(PermissionError("no")))
    (tmp_path / "version.json").write_text("{")
    found = provenance.gather(argv=["x"], environ={"XILINX_XRT": str(tmp_path)})
    assert found["fusion_replay"]
    assert "xrt" not in found
    assert "packages" not in found


def test_versions_are_read_without_importing_the_packages() -> None:
    code = (
        "import sys; from fusion_replay.sources import provenance; provenance.gather();"
        "print([m for m in ('torch', 'numpy', 'h5py') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert out.stdout.strip() == "[]"
