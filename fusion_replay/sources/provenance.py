# SPDX-License-Identifier: Apache-2.0
"""Where a recording came from: time, versions, environment and command line, as JSON data.

Everything is optional and nothing is fatal: what cannot be read is left out. Reading any of it needs no NPU.
Environment variables go by an allowlist, whatever looks like a secret is masked before it leaves this module, the home
directory is written ``~``, and neither host name nor user name is asked for.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fusion_replay import __version__

MASK = "***"

PACKAGES = (
    "numpy",
    "ml_dtypes",
    "h5py",
    "hdf5plugin",
    "zstandard",
    "xxhash",
    "array-api-compat",
    "torch",
    "mlir_aie",
    "llvm-aie",
    "tokenizers",
    "safetensors",
)
"""Distributions whose versions can change a number; those that are not installed are left out."""

ENVIRONMENT = (
    # mlir-aie and IRON: Xilinx/mlir-aie python/utils, amd/IRON iron/common
    "AIE_LOG_LEVEL",
    "AIECC_PATH",
    "AIE_OBJCOPY_PATH",
    "AIE_NM_PATH",
    "AIE_AR_PATH",
    "IRON_AIE_KERNELS_DIR",
    "IRON_EXAMPLE_WEIGHTS_DIR",
    "MLIR_AIE_KERNEL_SOURCES",
    "NPU_CACHE_HOME",
    "XDNA_EMU",
    "XILINX_XRT",
    "XRT_CONTEXT_CACHE_SIZE",
    # what changes floating point on the host
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
)
"""The environment variables that are kept, besides every ``FUSION_REPLAY_*``."""

_SECRET_WORD = r"(?:token|secret|passw(?:or)?d|passphrase|credential|api[-_]?key|access[-_]?key|private[-_]?key|auth)"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[-_.]){_SECRET_WORD}s?(?:$|[-_.])|^{_SECRET_WORD}s?$")
# "--max-tokens 20" is the length of a decode, not a secret.
_COUNT_NAME = re.compile(r"(?i)tokens$")
_COUNT = re.compile(r"\A\d{1,9}\Z")
_SECRET_SHAPES = re.compile(
    r"hf_[A-Za-z0-9]{16,}"  # Hugging Face
    r"|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}"  # GitHub
    r"|glpat-[A-Za-z0-9_-]{16,}"  # GitLab
    r"|sk-[A-Za-z0-9_-]{16,}"  # several model hosts
    r"|AKIA[A-Z0-9]{12,}"  # AWS
    r"|xox[abprs]-[A-Za-z0-9-]{10,}"  # Slack
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web token
)
_XRT_LIBRARY = re.compile(r"(?m)(?P<file>/.*/libxrt_coreutil\.so\.(?P<version>\d+\.\d+\.\d+))$")
_URL_USER = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_INLINE = re.compile(r"(?P<name>[A-Za-z][\w.-]*)=(?P<value>[^&\s]+)")


def gather(*, argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What can be known about this process and machine, as JSON data.

    Keys, each absent where it could not be read: ``fusion_replay`` (version), ``time`` (UTC, ISO 8601), ``python``,
    ``platform``, ``packages`` (name -> version), ``environment``, ``command`` (masked), ``iron`` (path-free: commit),
    ``xrt`` (as :func:`xrt_version`), ``driver`` (amdxdna), ``devices`` (PCI name and firmware).

    Args:
        argv: command line, ``sys.argv`` unless given.
        environ: environment, ``os.environ`` unless given.
    """
    env = os.environ if environ is None else environ
    readers: dict[str, Callable[[], Any]] = {
        "time": lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": lambda: f"{platform.python_implementation()} {platform.python_version()}",
        "platform": lambda: f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": package_versions,
        "environment": lambda: environment(env),
        "command": lambda: masked_command(list(sys.argv) if argv is None else argv),
        "iron": _iron_in_use,
        "xrt": lambda: xrt_version(env),
        "driver": driver_version,
        "devices": pci_devices,
    }
    found: dict[str, Any] = {"fusion_replay": __version__}
    for key, read in readers.items():
        try:
            value = read()
        except Exception:
            continue  # provenance never stops a recording
        if value:
            found[key] = value
    return found


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions by distribution name; imports none of them."""
    versions = {}
    for name in names:
        try:
            versions[name] = _installed_version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def _installed_version(name: str) -> str:
    """Read once: parsing the metadata of ten packages takes as long as all else of a small recording."""
    return importlib.metadata.version(name)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The allowlisted variables that are set, secrets masked, by name."""
    kept = {k: v for k, v in environ.items() if k in ENVIRONMENT or k.startswith("FUSION_REPLAY_")}
    return {k: MASK if _is_secret(k, kept[k]) else mask_text(kept[k]) for k in sorted(kept)}


def masked_command(argv: Sequence[str]) -> list[str]:
    """``argv`` with the values of secret options, tokens of known shapes and credentials in URLs masked."""
    masked: list[str] = []
    pending = ""  # the option whose value comes next
    for word in argv:
        option, equals, value = word.partition("=")
        if pending and not word.startswith("--") and _is_secret(pending, word):
            masked.append(MASK)
        elif equals and option.startswith("-") and _is_secret(option.lstrip("-"), value):
            masked.append(f"{option}={MASK}")
        else:
            masked.append(mask_text(word))
        pending = option.lstrip("-") if option.startswith("-") and not equals else ""
    return masked


def mask_text(text: str) -> str:
    """``text`` with everything that looks like a secret replaced by :data:`MASK`."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?=/|$)", "~", text)
    text = _URL_USER.sub(MASK, text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _SECRET_SHAPES.sub(MASK, text)
    return _INLINE.sub(lambda m: f"{m['name']}={MASK}" if _is_secret(m["name"], m["value"]) else m[0], text)


def _is_secret(name: str, value: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not (_COUNT_NAME.search(name) and _COUNT.match(value))


def _iron_in_use() -> dict[str, str] | None:
    file = getattr(sys.modules.get("iron"), "__file__", None)
    return None if file is None else iron_commit(Path(file).parent)


def iron_commit(package: Path) -> dict[str, str] | None:
    """The commit of the IRON checkout with the package at ``package``, read from its ``.git``; no program is run."""
    git = package.resolve().parent / ".git"
    if git.is_file():  # a worktree points elsewhere
        git = (git.parent / git.read_text("utf-8", "replace").partition("gitdir:")[2].strip()).resolve()
    head = (git / "HEAD").read_text("utf-8", "replace").strip()
    if not head.startswith("ref:"):
        return {"commit": head}
    ref = head.partition(":")[2].strip()
    common = git / "commondir"
    root = (git / common.read_text("utf-8", "replace").strip()).resolve() if common.is_file() else git
    if (root / ref).is_file():
        return {"commit": (root / ref).read_text("utf-8", "replace").strip()}
    for line in (root / "packed-refs").read_text("utf-8", "replace").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return {"commit": commit}
    return None


def xrt_version(env: Mapping[str, str]) -> dict[str, str] | None:
    """Fields of XRT's own version file (Xilinx/XRT ``src/CMake/config/version.json.in``): that of ``$XILINX_XRT``, or
    above the pyxrt or the library that this process has loaded. Without one, what the library's file name says."""
    library = _loaded_xrt()
    binding = getattr(sys.modules.get("pyxrt"), "__file__", None)
    roots = [Path(env["XILINX_XRT"])] if env.get("XILINX_XRT") else []
    roots += [root for file in (binding, library) if file for root in Path(file).resolve().parents[1:3]]
    for root in roots:
        if (root / "version.json").is_file():
            data = json.loads((root / "version.json").read_text("utf-8", "replace"))
            keys = ("BUILD_VERSION", "BUILD_VERSION_DATE", "BUILD_BRANCH", "VERSION_HASH", "VERSION_HASH_DATE")
            return {k.lower(): str(data[k]) for k in keys if k in data}
    named = _XRT_LIBRARY.search(str(library))
    return {"build_version": named["version"]} if named else None


def _loaded_xrt() -> str | None:
    """The file of XRT's library in this process, links followed."""
    found = _XRT_LIBRARY.search(Path("/proc/self/maps").read_text("utf-8", "replace"))
    return found["file"] if found else None


def driver_version() -> str | None:
    return Path("/sys/module/amdxdna/version").read_text("utf-8", "replace").strip() or None


def pci_devices() -> list[dict[str, str]]:
    """NPUs on the PCI bus with the names and firmware versions that amdxdna publishes in sysfs."""
    found = []
    for device in sorted(Path("/sys/bus/pci/drivers/amdxdna").glob("*:*:*.*")):
        fields = {
            n: (device / n).read_text("utf-8", "replace").strip()
            for n in ("vbnv", "fw_version")
            if (device / n).is_file()
        }
        if fields:
            found.append(fields)
    return found


__all__ = [
    "ENVIRONMENT",
    "MASK",
    "PACKAGES",
    "driver_version",
    "environment",
    "gather",
    "iron_commit",
    "mask_text",
    "masked_command",
    "package_versions",
    "pci_devices",
    "xrt_version",
]
