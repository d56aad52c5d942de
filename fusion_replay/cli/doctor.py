# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this machine has, what it lacks for recording on an NPU, and how to get it. Changes nothing."""

from __future__ import annotations

import glob
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TypeVar

import click

from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options
from fusion_replay.report.text import table
from fusion_replay.sources import provenance
from fusion_replay.system import processes
from fusion_replay.system.messages import count

Found = TypeVar("Found")

ALLOWS = "iron allows"

CORE = ("numpy", "ml_dtypes", "h5py", "zstandard", "xxhash", "array-api-compat", "click", "rich")
EXTRAS = {
    "hdf5plugin": ("hdf5", "plain h5py reads snapshots; export --as plain-h5 --compression zstd"),
    "torch": ("torch", ".torch(), replay --array torch and cuda, oracles from torch models"),
    "tokenizers": ("minilm", "real text for the minilm workload"),
    "safetensors": ("oracle", "oracle files; real weights for the minilm workload"),
    "onnxruntime": ("onnx", "oracles from ONNX models"),
    "pandas": ("tables", "to_dataframe() of snapshots and reports"),
    "matplotlib": ("plot", "plot() of tensors, steps and reports"),
}
"""Packages that are not needed: the extra that brings each, and what it gives."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked for. ``needed`` is for recording on an NPU; what is not needed never fails the verb.

    ``fix``: how to get it, and of an extra what it gives.
    """

    name: str
    ok: bool
    needed: bool
    found: str
    fix: str = ""


@examples("doctor", "doctor --json")
@click.command("doctor")
@json_option
@verbosity_options
def command(as_json: bool) -> int:
    """Exit 0 when recording IRON on this machine's NPU would work, 4 when something it needs is missing."""
    out = Terminal(as_json)
    checks = list(examine())
    if as_json:
        from fusion_replay.report.jsonl import encode

        for c in checks:
            click.echo(encode({"type": "check", **asdict(c)}))
    missing = [c for c in checks if c.needed and not c.ok]
    rows = [[_mark(c), c.name, c.found, "" if c.ok and c.needed else c.fix] for c in checks if c.name != ALLOWS]
    out.report(table(rows, indent=""))
    for c in checks:
        if c.name == ALLOWS:
            out.report("this IRON records:\n" + "\n".join(f"  {line}" for line in c.found.split("; ")))
    if missing:
        out.say(f"recording on an NPU needs what is missing here: {', '.join(c.name for c in missing)}")
        out.say("recording on the software NPU and replaying any snapshot work without it")
    hint = command_line("demo") if missing else None
    out.close(not missing, next=hint)
    return 4 if missing else 0


def _mark(c: Check) -> str:
    return "ok" if c.ok else "MISSING" if c.needed else "-"


def examine() -> Iterator[Check]:
    """Every check, cheapest first. Opens no device; aie and iron are looked up and not imported."""
    yield Check("python", sys.version_info >= (3, 11), True, platform.python_version(), "install Python 3.11 or newer")
    yield Check("system", sys.platform == "linux", True, f"{platform.system()} {platform.release()}", "needs Linux")
    for name in CORE:
        version = _version(name)
        yield Check(name, version is not None, True, version or "not installed", f"pip install {name}")
    for name, (extra, gives) in EXTRAS.items():
        version = _version(name)
        fix = f"{gives}: pip install 'fusion-replay[{extra}]'"
        yield Check(name, version is not None, False, version or "not installed", fix)
    yield _pyxrt()
    yield _module("aie", "mlir-aie (its wheel brings the module aie): see amd/IRON requirements.txt", _wheels())
    yield from _iron()
    yield _driver()
    yield _device()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _module(name: str, fix: str, versions: str = "") -> Check:
    where = _where(name)
    return Check(name, where is not None, True, f"{where}{versions}" if where else "not found", fix)


def _where(name: str) -> str | None:
    """The file of a module that is not imported for it."""
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):  # a broken parent package, or a half-initialised module
        return None
    return (
        None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), "namespace package")
    )


def _iron() -> Iterator[Check]:
    """The checkout with its commit, and which form of dispatch it has: what can be recorded follows from that."""
    where = _where("iron")
    if where is None:
        yield Check("iron", False, True, "not found", "amd/IRON itself: pip install -e . in its checkout")
        return
    from fusion_replay.sources.iron.checkout import examine as examine_checkout

    package = Path(where) if os.path.isdir(where) else Path(where).parent
    commit = _optional(lambda: (provenance.iron_commit(package) or {})["commit"])
    yield Check("iron", True, True, f"{where}{f', commit {commit[:12]}' if commit else ''}")
    found = examine_checkout(package)
    yield Check("iron form", found.recordable, True, f"{found.form} ({found.evidence})", found.allows)
    if found.recordable:
        yield Check(ALLOWS, True, False, found.allows)


def _driver() -> Check:
    loaded = os.path.isdir("/sys/module/amdxdna")
    version, tool = _optional(provenance.driver_version), shutil.which("xrt-smi")
    found = " ".join(["loaded" if loaded else "not loaded", *([version] if version else [])])
    fix = "Linux 6.14 or newer has it; else build amd/xdna-driver"
    return Check("amdxdna driver", loaded, True, found + (f", {tool}" if tool else ""), fix)


def _device() -> Check:
    nodes = sorted(glob.glob("/dev/accel/accel*"))
    usable = [n for n in nodes if os.access(n, os.R_OK | os.W_OK)]
    if nodes and not usable:
        return Check("NPU device", False, True, f"{', '.join(nodes)}: no permission", "join the group render")
    named = [
        f"{d.get('vbnv', 'NPU')} firmware {d.get('fw_version', '?')}" for d in _optional(provenance.pci_devices) or ()
    ]
    found = ", ".join([*usable, *named]) if usable else "no /dev/accel/accel*"
    return Check("NPU device", bool(usable), True, found, "needs a Ryzen AI NPU")


_TRY = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
import pyxrt
found = {"devices": pyxrt.enumerate_devices(), "version": None}
try:
    from fusion_replay.sources.provenance import xrt_version
    found["version"] = (xrt_version(os.environ) or {}).get("build_version")
except Exception:
    pass
print(json.dumps(found))
"""
"""Importing pyxrt loads XRT's library, counting devices its core and the driver's plugin, which look through sysfs
(Xilinx/XRT ``src/runtime_src/core/pcie/linux/system_linux.cpp``). Neither opens a device."""

_TRY_SECONDS = 60


def _pyxrt() -> Check:
    """Loaded in a process of its own: a library that is missing, or that crashes, is a finding and not our end."""
    where = _where("pyxrt")
    if where is None:
        fix = "the XRT Python binding: install XRT with the NPU plugin and source its setup.sh"
        return Check("pyxrt", False, True, "not found", fix)
    try:
        ran = processes.run([sys.executable, "-c", _TRY, json.dumps(sys.path)], _TRY_SECONDS)
    except subprocess.TimeoutExpired:
        return Check("pyxrt", False, True, f"{where}: had not loaded after {_TRY_SECONDS} s", _RELOAD)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or [f"it ended with status {ran.returncode}"])[-1]
        return Check("pyxrt", False, True, f"{where}: cannot be loaded: {last}", _RELOAD)
    found = json.loads(ran.stdout.splitlines()[-1])
    version = f"XRT {found['version']}" if found["version"] else "XRT of unknown version"
    said = f"{where}, {version}, {count(found['devices'], 'device')}"
    return Check("pyxrt", found["devices"] > 0, True, said, "install XRT's NPU plugin; see `xrt-smi examine`")


_RELOAD = "source XRT's setup.sh, under the Python that XRT was built for; `python -c 'import pyxrt'` says more"


def _wheels() -> str:
    found = provenance.package_versions(("mlir_aie", "llvm-aie"))
    return "".join(f", {name} {version}" for name, version in found.items())


def _optional(read: Callable[[], Found]) -> Found | None:
    """What may be missing on any machine: files of a driver, an environment, a checkout."""
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError):
        return None
