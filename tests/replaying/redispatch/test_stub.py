# SPDX-License-Identifier: Apache-2.0
"""Our calls of pyxrt agree with its public stub, the double does too, and a wrong call would be found.

``make check`` runs mypy over the package with ``stubs/`` on its path; here the same mypy sees calls that are wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# What a caller may get wrong, and that the binding itself would let pass or answer with a crash on hardware.
WRONG = {
    "device.get_info('name')": "arg-type",
    "pyxrt.hw_context(device, 3)": "arg-type",
    "pyxrt.kernel('MLIR_AIE', context)": "arg-type",
    "kernel(3, buffer, 4.0)": "arg-type",
    "kernel(3, b'instructions', 4)": "arg-type",
    "pyxrt.bo(device, 64, pyxrt.bo.host_only)": "call-overload",
    "pyxrt.bo(device, 64, 'host_only', 0)": "call-overload",
    "buffer.sync('to_device')": "call-overload",
    "buffer.write(b'', 0, 1)": "call-arg",
    "run.wait(timeout=5)": "call-overload",
    "device.load(xclbin)": "attr-defined",
    "device.get_info(key=pyxrt.xrt_info_device.name)": "call-arg",
    "buffer.read(64, 0)": "attr-defined",
    "pyxrt.ert_cmd_state.ERT_CMD_STATE_TIMEOUT + 0": "operator",
}
RIGHT = [
    "device.get_info(pyxrt.xrt_info_device.name)",
    "kernel(3, buffer, 4, buffer)",
    "pyxrt.bo(device, 64, pyxrt.bo.host_only, kernel.group_id(3))",
    "buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE)",
    "run.wait(5000)",
    "bytes(buffer.map())",
]


def mypy(*arguments: str, module: str = "mypy", path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT / "stubs"), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.long
def test_wrong_calls_are_found_and_right_ones_are_not(tmp_path: Path) -> None:
    lines = [
        "import pyxrt",
        "def f(device: pyxrt.device, context: pyxrt.hw_context, kernel: pyxrt.kernel, buffer: pyxrt.bo,",
        "      run: pyxrt.run, xclbin: pyxrt.xclbin) -> None:",
        *(f"    {call}" for call in (*WRONG, *RIGHT)),
    ]
    file = tmp_path / "calls.py"
    file.write_text("\n".join(lines) + "\n")
    found = mypy("--strict", "--cache-dir", str(tmp_path / "cache"), str(file))
    told = [line for line in found.stdout.splitlines() if ": error:" in line]
    errors = {int(e.split(":")[1]): e.rpartition("[")[2].rstrip("]") for e in told}
    assert errors == {4 + i: code for i, code in enumerate(WRONG.values())}, found.stdout


@pytest.mark.long
def test_the_double_agrees_with_the_stub() -> None:
    """mypy's stubtest compares names and signatures at run time; what only the double has is its own business."""
    found = mypy("--ignore-missing-stub", "pyxrt", module="mypy.stubtest", path=str(ROOT / "tests" / "pyxrt_double"))
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_stub_is_on_the_package_check() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'mypy_path = "stubs"' in text
    assert '"pyxrt.*"' not in text, "or mypy would skip it"
