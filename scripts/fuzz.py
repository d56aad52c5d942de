#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mutate files of ours, checksums right, and ask every verb: nothing may break, hang, swallow memory, lie or litter.

    scripts/fuzz.py --mode sealed --seed 1 --count 500
    scripts/fuzz.py --mode journal --seed 1 --only 17      # one case again, with its traceback

Each case runs in a child forked from this warm parent, so that some 100 ms are all it takes. What is asked of it, by an
oracle that shares nothing with the readers but the digest's name:

* no verb ends with 70 (an internal error), within 10 s of processor time, with at most 1 GiB more memory;
* what is read has the digest that is shown for it; a file whose ``fsck`` is 0 is shown and read to its end;
* of a journal that is damaged, but not forged, every step that ended before the damage is there, unsealed and sealed;
  what recovery leaves opens, and ``fsck`` says 0 of it;
* verbs that read leave the file as it is, and nothing else behind, in the temporary folder neither.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ |= {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "GITHUB_ACTIONS": "",
}  # before numpy: no thread here

import numpy as np
import xxhash
from fuzz_mutants import MUTATE, Mutant

import fusion_replay
from fusion_replay.cli import run
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot

SECONDS = 10
MEMORY = 1 << 30
SIZE = 64  # elements
Contents = dict[tuple[str, str, str], bytes]
"""(address, side, argument) -> bytes."""


def sequence() -> SequenceDescription:
    """A ReLU, an addition in place, a copy of half of it, and an operator that nobody knows."""
    a, b, c = (ArgSpec(n, d, (SIZE,)) for n, d in (("A", "in"), ("B", "in"), ("C", "out")))
    half = ArgSpec("A", "in", (SIZE // 2,)), ArgSpec("B", "out", (SIZE // 2,))
    again = ArgSpec("A", "inout", (SIZE,))
    buffer = {"x": "input", "w": "scratch", "y": "scratch", "z": "output", "u": "scratch"}
    return SequenceDescription(
        name="fuzz",
        operators=(
            OperatorDescription("ReLU", {"size": SIZE}),
            OperatorDescription("ElementwiseAdd", {"size": SIZE}),
            OperatorDescription("MemCopy", {"size": SIZE // 2}),
            OperatorDescription("Unknown", {"by": 1.5}),
        ),
        buffers=tuple(BufferDescription(n, 2 * SIZE, role, n in "xw") for n, role in buffer.items()),
        steps=(
            StepDescription(0, 0, (OperandUse(a, "x"), OperandUse(c, "y"))),
            StepDescription(1, 1, (OperandUse(a, "y"), OperandUse(b, "w"), OperandUse(c, "z"))),
            StepDescription(2, 2, (OperandUse(half[0], "z", 0, SIZE), OperandUse(half[1], "u", 0, SIZE))),
            StepDescription(3, 3, (OperandUse(again, "z"),)),
        ),
        input_args=("x",),
        output_args=("z",),
        origin={"variant": "simulator", "device": "npu2", "flavour": "iron-2026-09"},
    )


def record(path: Path, seed: int, *, close: bool, wrong: bool = False) -> None:
    """Three invocations, the last of which ends in a step that failed and one that never came back."""
    writer = SnapshotWriter(path, provenance={"host": "fuzz", "argv": ["a", "b"]})
    number = writer.add_sequence(sequence())
    rng = np.random.default_rng(seed)

    def bf16(n: int) -> np.ndarray:
        return (rng.standard_normal(n).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)

    w = bf16(SIZE)
    for invocation in range(3):
        run_ = writer.begin_invocation(number)
        x, z = bf16(SIZE), bf16(SIZE)
        y = np.where(x >> 15, 0, x).astype(np.uint16)
        writer.begin_step(run_, 0, {0: x}, values={"n": invocation})
        writer.end_step(run_, 0, {1: z if wrong else y}, elapsed_ns=5, state="COMPLETED")
        writer.begin_step(run_, 1, {0: y, 1: w}, watched={2: np.zeros_like(z)})
        writer.end_step(run_, 1, {2: z})
        writer.begin_step(run_, 2, {0: z[: SIZE // 2]})
        writer.end_step(run_, 2, {1: z[: SIZE // 2].copy()})
        writer.begin_step(run_, 3, {0: z})
        if invocation == 2:
            writer.fail_step(run_, 3, "ERT_CMD_STATE_TIMEOUT")
        else:
            changed = z.copy()
            changed[:3] ^= 1
            writer.end_step(run_, 3, {0: changed})
            writer.end_invocation(run_)
    writer.lose("other", "something was lost")
    if close:
        writer.close()
    else:
        writer.abandon()
        spill = path.with_name(path.name + ".spill")
        os.truncate(spill, end_of_data(spill))  # what follows is one large hole


def end_of_data(path: Path) -> int:
    with open(path, "rb") as file:
        end = 0
        with contextlib.suppress(OSError):  # no data behind it
            while True:
                end = os.lseek(file.fileno(), os.lseek(file.fileno(), end, os.SEEK_DATA), os.SEEK_HOLE)
        return end


def seeds_of(mode: str, folder: Path) -> None:
    """The files that mutants are made of, made in a child: its threads don't live on here."""
    folder.mkdir()
    record(folder / "good.h5", 1, close=True)
    record(folder / "wrong.h5", 1, close=True, wrong=True)
    if mode == "journal":
        record(folder / "seed.h5", 2, close=False)
    elif mode == "sealed":
        record(folder / "seed.h5", 2, close=True)
        words = ["--workload", "llama-decode", "--sim", "npu2", "--tokens", "1", "--layers", "1", "--context", "64"]
        must(
            [
                "record",
                "-o",
                str(folder / "seed2.h5"),
                *words,
                "--weights-in",
                str(folder / "side.h5"),
                "--step",
                "0:0",
                "--step",
                "0:1",
                "--only-matching",
            ]
        )
    else:
        must(["record", "-o", str(folder / "r.h5"), "--workload", "op:ReLU", "--sim", "npu2", "--param", "size=256"])
        for more in (["--name", "full", "--tolerance", "ReLU=ulps 2 because it is so"], ["--name", "thin", "--thin"]):
            must(["golden", "add", str(folder / "r.h5"), "--dir", str(folder / "goldens"), *more])


def must(words: list[str]) -> None:
    status, said = quietly(words)
    if status:
        raise SystemExit(f"{words}: {said}")


def quietly(words: list[str]) -> tuple[int, str]:
    """One command in this process: exit status, what it said on both streams."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = run(words)
    return status, out.getvalue()


def contents_of(path: Path) -> Contents:
    """Everything that can be read, looked at twice: bytes, and the digest that is shown for them."""
    found: Contents = {}
    with open_snapshot(path) as snap:
        for step in snap:
            for side, tensor in step.tensors():
                if not tensor.kept:
                    continue
                raw = np.ascontiguousarray(tensor.numpy()).tobytes()
                assert xxhash.xxh3_128_hexdigest(raw) == tensor.digest, f"LIE: {step.address} {tensor.name}"
                found[step.address, side, tensor.name] = raw
    return found


class Case:
    """One mutant in a folder of its own, in a process of its own."""

    def __init__(
        self, mode: str, seed: int, number: int, folder: Path, seeds: Path, tell: Callable[[str], None]
    ) -> None:
        self.rng = random.Random(f"{mode}/{seed}/{number}")
        self.mode, self.folder, self.seeds, self.tell = mode, folder, seeds, tell
        self.problems: list[str] = []
        (folder / "tmp").mkdir(parents=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.chdir(folder)

    def ask(self, *words: str, allowed: tuple[int, ...] = (0, 1, 2, 3, 4)) -> int:
        self.tell(" ".join(words))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        status, said = quietly(list(words))
        signal.setitimer(signal.ITIMER_PROF, 0)
        if status not in allowed:
            self.problems.append(f"exit {status}: {' '.join(words)}: {said.strip()[:300]}{self._where(words)}")
        if status == 2 and "(see: fusion-replay" in said:
            self.problems.append(f"FUZZER: {' '.join(words)}: {said[:200]}")
        if not all(line.isprintable() for line in said.split("\n")) or "##[" in said:
            self.problems.append(f"OBEYED: {' '.join(words)}: {said[:200]!r}")
        return status

    def _where(self, words: tuple[str, ...]) -> str:
        try:
            quietly([*words, "-vv"])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f" at {Path(last.filename).name}:{last.lineno} ({type(error).__name__})"
        return ""

    def read(self, path: str) -> Contents | None:
        self.tell(f"read {path}")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            return contents_of(Path(path))
        except AssertionError as error:
            self.problems.append(str(error))
        except FusionReplayError:
            pass
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.problems.append(f"exit 70: read {path}: {error!r:.200} at {Path(last.filename).name}:{last.lineno}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return None

    def files(self) -> dict[str, bytes]:
        return {
            str(p): p.read_bytes() if p.is_file() else b""
            for p in sorted(Path().rglob("*"))
            if p.parts[0] not in ("out", "cache")
        }

    def reading(self, file: str) -> int:
        """Every verb that reads: nothing changes, nothing is left; what ``fsck`` said."""
        shutil.rmtree("out", ignore_errors=True)
        Path("out").mkdir()
        before = self.files()
        sound = self.ask("fsck", file)
        shown = self.ask("show", file, "--json")
        got = self.read(file)
        if sound == 0 and (shown or got is None):
            self.problems.append(f"TWO WORDS: fsck says 0, show {shown}, read to the end: {got is not None}")
        good, exports = str(self.seeds / "good.h5"), ["h5", "jsonl", "npz", "safetensors", "plain-h5", "xrt"]
        address = self.rng.choice(("0:0", "0:1", "1:3", "2:3", "0:2"))
        others = [
            ["show", file, address],
            ["show", file, "-v"],
            ["show", file, "--all"],
            ["show", file, "--buffer", "z"],
            ["replay", file],
            ["replay", file, "--json", "--mode", "cumulative"],
            ["replay", file, "--attribute"],
            ["diff", good, file],
            ["diff", file, good, "--json", "--align-anyway"],
            ["bisect", file, "--journal", "out/bisect"],
            ["operators", "--new", "Unknown", "--from", file],
            *(["export", file, "--as", kind, "-o", f"out/{kind}", "--skip-missing"] for kind in exports),
            ["export", file, "--step", address, "--issue", "-o", "out/issue"],
            ["golden", "add", file, "--dir", "out/goldens", "--accept-mismatch", "fuzz"],
        ]
        for words in self.rng.sample(others, 5):
            self.ask(*words)
        self.same(before)
        return sound

    def same(self, before: dict[str, bytes]) -> None:
        after = self.files()
        if after != before:
            odd = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
            self.problems.append(f"STRAY: {odd}")

    # --- modes ------------------------------------------------------------------------------------------------------

    def sealed(self) -> Mutant:
        name = self.rng.choice(("seed.h5", "seed.h5", "seed2.h5"))
        for each in (name, "side.h5") if name == "seed2.h5" else (name,):
            shutil.copy(self.seeds / each, each)
        mutated = name if name == "seed.h5" or self.rng.random() < 0.5 else "side.h5"
        done = MUTATE["sealed"](self.rng, Path(mutated))
        self.reading(name)
        return done

    def journal(self) -> Mutant:
        promised = contents_of(self.seeds / "seed.h5")
        ended = ended_before(self.seeds / "seed.h5.journal")
        for each in self.seeds.glob("seed.h5.*"):
            shutil.copy(each, each.name)
        done = MUTATE["journal"](self.rng, Path("seed.h5.journal"))
        self.reading("seed.h5")
        kept = {} if done.forged else {k: v for k, v in promised.items() if ended.get(k[0], 1 << 60) <= done.before}
        self._lost(kept, "unsealed")
        whole = self.files()
        status = self.ask("fsck", "seed.h5", "--recover")
        if status == 0:
            if Path("seed.h5.journal").exists():
                self.problems.append("RECOVERED: and the journal is still there")
            if self.reading("seed.h5") != 0:
                self.problems.append("RECOVERED: fsck says something else of the result")
            self._lost(kept, "recovered")
        elif not Path("seed.h5.journal").exists():
            self.problems.append(f"DESTROYED: exit {status}, and the journal is gone")
        else:
            left = self.files()
            changed = [k for k in whole if left.get(k) != whole[k]]
            if changed:
                self.problems.append(f"DESTROYED: exit {status}, and these changed: {changed}")
            if kept:
                self.problems.append(f"REFUSED: exit {status}, though {len(kept)} contents are undamaged")
        return done

    def _lost(self, kept: Contents, where: str) -> None:
        if not kept:
            return
        with contextlib.suppress(FusionReplayError):
            found: Contents = {}
            with open_snapshot("seed.h5") as snap:
                for step in snap:
                    with contextlib.suppress(FusionReplayError):
                        for side, tensor in step.tensors():
                            with contextlib.suppress(FusionReplayError):
                                found[step.address, side, tensor.name] = np.ascontiguousarray(tensor.numpy()).tobytes()
            gone = sorted({k[0] for k, v in kept.items() if found.get(k) != v})
            if gone:
                self.problems.append(f"LOST ({where}): undamaged steps {gone}")
            return
        self.problems.append(f"LOST ({where}): it does not open, {len(kept)} contents are undamaged")

    def golden(self) -> Mutant:
        shutil.copytree(self.seeds / "goldens", "goldens")
        document = Path("goldens", self.rng.choice(("full", "full", "thin")) + ".golden.json")
        done = MUTATE["golden"](self.rng, document)
        before = self.files()
        self.ask("golden", "check", "goldens", *(["--json"] if self.rng.random() < 0.5 else []))
        self.ask("golden", "lint", "goldens")
        self.same(before)
        if self.rng.random() < 0.3:
            self.ask("golden", "check", "goldens", "--on", "sim")
            self.same(before)
        waits = Path("new")
        waits.mkdir()
        for path in Path("goldens").glob(f"{document.name.removesuffix('.golden.json')}.*"):
            shutil.copy(path, waits / f"{path.name}.new")
        shutil.copytree(self.seeds / "goldens", "old")
        self.ask("golden", "review", "new", "--into", "old")
        self.ask("golden", "accept", "--all", "--dir", "new", "--into", "old")
        self.ask("golden", "reject", "--all", "--dir", "new")
        odd = [k for k in self.files() if k not in before and k.split("/")[0] not in ("new", "old")]
        if odd:
            self.problems.append(f"STRAY: {odd}")
        return done


def ended_before(journal: Path) -> dict[str, int]:
    """Address -> where in the journal all has been said of the step, from the order of its frames alone."""
    from fusion_replay.snapshot.journal import frames

    found: dict[str, int] = {}
    with open(journal, "rb") as file:
        for frame in frames.scan(file, frames.ScanResult()):
            if frame.kind in (frames.STEP_END, frames.STEP_FAILED):
                invocation, step = np.frombuffer(frame.payload[:8], "<u4").tolist()
                found[f"{invocation}:{step}"] = frame.offset + frame.length
    return found


def child(mode: str, seed: int, number: int, folder: Path, seeds: Path, pipe: int) -> None:
    """Run one case and write what was found; what it was doing goes ahead of it, should it not come back."""

    def tell(text: str) -> None:
        os.write(pipe, json.dumps({"doing": text[:300]}).encode() + b"\n")

    with open("/proc/self/status") as file:
        data = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY, data + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(60 * SECONDS)  # of waiting, for a FIFO say
    case = Case(mode, seed, number, folder, seeds, tell)
    mutant = getattr(case, mode)()
    os.write(pipe, json.dumps({"what": mutant.what, "problems": case.problems}, default=str).encode() + b"\n")


def one(mode: str, seed: int, number: int, root: Path, seeds: Path) -> tuple[list[str], list[str]]:
    """(what was done to the file, what was wrong with the answer)."""
    folder = root / f"case{number}"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 1
        try:
            child(mode, seed, number, folder, seeds, writer)
            status = 0
        except BaseException:
            os.write(
                writer,
                json.dumps({"what": ["?"], "problems": [f"FUZZER: {traceback.format_exc()[-600:]}"]}).encode() + b"\n",
            )
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as file:
        told: list[dict[str, Any]] = [json.loads(line) for line in file]
    _, status, usage = os.wait4(pid, 0)
    shutil.rmtree(folder, ignore_errors=True)
    doing = next((t["doing"] for t in reversed(told) if "doing" in t), "")
    problems = next((t["problems"] for t in told if "problems" in t), [])
    what = next((t["what"] for t in told if "what" in t), ["?"])
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        problems = [*problems, f"{'HANG' if name in ('SIGPROF', 'SIGALRM') else 'DIED'} ({name}): {doing}"]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if (usage.ru_maxrss - own) << 10 > MEMORY:
        problems = [*problems, f"MEMORY: {usage.ru_maxrss >> 10} MiB"]
    return what, problems


def warm() -> None:
    """Every module of the package that a verb may import, before the first fork."""
    for module in pkgutil.walk_packages(fusion_replay.__path__, "fusion_replay."):
        if not module.name.startswith(
            ("fusion_replay.sources.iron", "fusion_replay.recording.site", "fusion_replay.golden.pytest")
        ):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def fuzz(mode: str, seed: int, numbers: range, root: Path) -> Iterator[list[str]]:
    """What was wrong with each case; told as it is found."""
    warm()
    seeds = root / "seeds"
    pid = os.fork()
    if pid == 0:
        try:
            seeds_of(mode, seeds)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the files to start from could not be made")
    for number in numbers:
        what, problems = one(mode, seed, number, root, seeds)
        if problems:
            print(f"{mode} {seed} {number}: {what}", *(f"    {p[:700]}" for p in problems), sep="\n", flush=True)
        yield problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=list(MUTATE), required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", type=int, metavar="N", help="Case N alone.")
    given = parser.parse_args()
    numbers = range(given.count) if given.only is None else range(given.only, given.only + 1)
    began = time.monotonic()
    found: list[list[str]] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended early, it says what it has done
    shared = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="fuzz-", dir=shared) as root:
        for problems in fuzz(given.mode, given.seed, numbers, Path(root)):
            found.append(problems)
    kinds = Counter(p.split(":")[0].split(" (")[0] for problems in found for p in problems)
    done = f"{given.mode}, seed {given.seed}: {len(found)} mutants in {time.monotonic() - began:.0f} s"
    print(f"{done}, {sum(map(bool, found))} with problems: {dict(kinds)}")
    return int(bool(kinds))


if __name__ == "__main__":
    sys.exit(main())
