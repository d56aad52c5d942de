# SPDX-License-Identifier: Apache-2.0
"""``doctor``: what this machine has, what it lacks for recording on an NPU, and how to get it. Changes nothing."""

from __future__ import annotations

import glob
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util

import click

from fusion_replay.cli.terminal import Terminal, command_line, json_option, verbosity_options
from fusion_replay.report.text import table

CORE = ("numpy", "ml_dtypes", "h5py", "hdf5plugin", "zstandard", "xxhash", "array-api-compat", "click", "rich")
OPTIONAL = {
    "torch": ".torch() and the torch oracles: pip install 'fusion-replay[torch]'",
    "tokenizers": "real text for the minilm workload: make minilm",
    "safetensors": "real weights for the minilm workload: make minilm",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked for. ``needed`` is for recording on an NPU; what is not needed never fails the verb."""

    name: str
    ok: bool
    needed: bool
    found: str
    fix: str = ""


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
    rows = [[_mark(c), c.name, c.found, "" if c.ok else c.fix] for c in checks]
    out.say(table(rows, indent=""))
    if missing:
        out.say(f"recording on an NPU needs what is missing here: {', '.join(c.name for c in missing)}")
        out.say("recording on the software NPU and replaying any snapshot work without it")
    hint = command_line("demo") if missing else None
    out.close(not missing, next=hint)
    return 4 if missing else 0


def _mark(c: Check) -> str:
    return "ok" if c.ok else "MISSING" if c.needed else "-"


def examine() -> Iterator[Check]:
    """Every check, cheapest first. Looks modules up without importing them: pyxrt opens the device on import."""
    yield Check("python", sys.version_info >= (3, 11), True, platform.python_version(), "install Python 3.11 or newer")
    yield Check("system", sys.platform == "linux", True, f"{platform.system()} {platform.release()}", "needs Linux")
    for name in CORE:
        version = _version(name)
        yield Check(name, version is not None, True, version or "not installed", f"pip install {name}")
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield Check(name, version is not None, False, version or "not installed", use)
    yield _module("pyxrt", "the XRT Python binding: install XRT with the NPU plugin and source its setup.sh")
    yield _module("aie", "mlir-aie (its wheel brings the module aie): see amd/IRON requirements.txt")
    yield _module("iron", "amd/IRON itself: pip install -e . in its checkout")
    yield _driver()
    yield _device()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _module(name: str, fix: str) -> Check:
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):  # a broken parent package, or a half-initialised module
        spec = None
    return Check(name, spec is not None, True, (spec.origin or "namespace package") if spec else "not found", fix)


def _driver() -> Check:
    loaded = os.path.isdir("/sys/module/amdxdna")
    tool = shutil.which("xrt-smi")
    found = ("loaded" if loaded else "not loaded") + (f", {tool}" if tool else "")
    return Check("amdxdna driver", loaded, True, found, "Linux 6.14 or newer has it; else build amd/xdna-driver")


def _device() -> Check:
    nodes = sorted(glob.glob("/dev/accel/accel*"))
    usable = [n for n in nodes if os.access(n, os.R_OK | os.W_OK)]
    if nodes and not usable:
        return Check("NPU device", False, True, f"{', '.join(nodes)}: no permission", "join the group render")
    return Check("NPU device", bool(usable), True, ", ".join(usable) or "no /dev/accel/accel*", "needs a Ryzen AI NPU")
