# SPDX-License-Identifier: Apache-2.0
"""Which xclbin and instructions each recorded operator runs with: those of a new build where it has them, else its own.

A build is matched by IRON's own file names (amd/IRON ``iron/common/sequence.py``, ``iron/common/base.py``): operator
number ``i`` of a sequence is ``f{h}_op{i}.bin`` and ``.xclbin``, ``h`` the first six digits of the SHA-1 of the
sequence's name, and the last xclbin of the chain has every kernel; an operator alone is called by its own name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_replay.errors import UsageError
from fusion_replay.sources.iron.binaries import SINGLE_KERNEL

if TYPE_CHECKING:
    from fusion_replay.model.runlist import SequenceDescription
    from fusion_replay.snapshot import DeviceFile, KernelBinaries, Snapshot


@dataclass(frozen=True, slots=True)
class Choice:
    """What one operator runs with; ``lacks`` says why it cannot (the contents are empty then).

    ``origin``: "new" or "recorded". ``places``: as in :class:`~fusion_replay.snapshot.KernelBinaries`.
    """

    kernel: str = ""
    xclbin: bytes = b""
    instructions: bytes = b""
    origin: str = "recorded"
    places: tuple[int, ...] = ()
    lacks: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both files and the kernel's name."""
        parts = (self.kernel.encode(), self.xclbin, self.instructions)
        return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()


def choose(snapshot: Snapshot, build_dir: Path | None) -> dict[tuple[int, int], Choice]:
    """By sequence and operator number.

    Raises:
        UsageError: ``build_dir`` is no folder, or has no file of any operator.
        DamagedSnapshotError: a recorded file disagrees with a digest.
    """
    recorded = {(k.sequence, k.operator): k for k in snapshot.binaries}
    files = _listing(build_dir)
    found = {}
    for number, sequence in enumerate(snapshot.sequences):
        for operator in range(len(sequence.operators)):
            own = recorded.get((number, operator))
            new = None if build_dir is None else _from_build(build_dir, files, sequence, operator, own)
            found[number, operator] = new or _from_recording(own)
    if build_dir is not None and all(choice.origin == "recorded" for choice in found.values()):
        sequence = snapshot.sequences[0]
        wanted = " and ".join(_names(sequence, 0, recorded.get((0, 0)))[:2])
        raise UsageError(f"--build-dir {build_dir}: has the files of none of the operators; expected such as {wanted}")
    return found


def _from_recording(own: KernelBinaries | None) -> Choice:
    if own is None:
        return Choice(lacks="the recording has no binaries of it; build it and give --build-dir DIR")
    missing = own.absent
    for what, file in (("xclbin", own.xclbin), ("instruction file", own.instructions)):
        if file is None:
            missing = missing or f"its {what} is not in the recording"
        elif not file.kept:
            missing = missing or f"its {what} {file.name} was not kept (--no-binaries), only its digest"
    if missing or own.xclbin is None or own.instructions is None:
        return Choice(lacks=f"{missing}; give --build-dir DIR with its build")
    if own.instructions.nbytes == 0:
        return Choice(lacks=_empty(own.instructions.name))
    return Choice(own.kernel, own.xclbin.read(), own.instructions.read(), "recorded", own.places)


def _from_build(
    folder: Path, files: frozenset[str], sequence: SequenceDescription, operator: int, own: KernelBinaries | None
) -> Choice | None:
    """None where the build has nothing of this operator."""
    instructions, *xclbins = _names(sequence, operator, own)
    xclbin = next((name for name in xclbins if name in files), None)
    if instructions not in files:
        return None
    places = () if own is None else own.places
    kernel = own.kernel if own is not None and own.kernel else _kernel(sequence, operator)
    if xclbin is None:
        lacks = f"{folder} has {instructions} and none of {', '.join(xclbins)}: a kernel needs both of one build"
        return Choice(origin="new", lacks=lacks)
    stream = (folder / instructions).read_bytes()
    if not stream:
        return Choice(origin="new", lacks=_empty(str(folder / instructions)))
    return Choice(kernel, (folder / xclbin).read_bytes(), stream, "new", places)


def _names(sequence: SequenceDescription, operator: int, own: KernelBinaries | None) -> list[str]:
    """The instruction file's name, then those under which the xclbin may lie, best first."""
    if sequence.origin.get("dispatch") == "operator":
        label = last = sequence.operators[operator].label or sequence.operators[operator].type
    else:
        label, last = _kernel(sequence, operator), _kernel(sequence, len(sequence.operators) - 1)
    instructions = _base(own.instructions if own is not None else None) or f"{label}.bin"
    xclbin = _base(own.xclbin if own is not None else None)
    names = [instructions, *([xclbin] if xclbin else []), f"{last}.xclbin", f"{label}.xclbin"]
    return list(dict.fromkeys(names))


def _kernel(sequence: SequenceDescription, operator: int) -> str:
    if sequence.origin.get("dispatch") == "operator":
        return SINGLE_KERNEL
    return f"f{hashlib.sha1(sequence.name.encode(), usedforsecurity=False).hexdigest()[:6]}_op{operator}"


def _base(file: DeviceFile | None) -> str | None:
    """A recorded name, if it names a file in a folder and leads nowhere else."""
    return file.name if file is not None and Path(file.name).name == file.name else None


def _listing(folder: Path | None) -> frozenset[str]:
    if folder is None:
        return frozenset()
    try:
        return frozenset(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise UsageError(f"--build-dir {folder}: expected a folder with IRON's build ({error.strerror})") from error


def _empty(name: str) -> str:
    return f"instruction file {name} has 0 bytes: a device completes it and writes nothing; build the operator again"


__all__ = ["Choice", "choose"]
