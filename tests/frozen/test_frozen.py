# SPDX-License-Identifier: Apache-2.0
"""What must stay as it is while modules move: what recordings hold, what verbs print, what the package is called by.

Through public names and the command line alone, so that no move of a module touches this file. What is expected lies in
frozen.json; ``python tests/frozen/test_frozen.py`` writes it anew, which a change of behaviour needs a reason for.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers zstd)
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FILES = HERE / "files"
FROZEN = HERE / "frozen.json"
SNAPSHOTS = ROOT / "snapshots"

# Of every way of keeping a content: chunks, parts, derived, side file without its file; digests alone; with the side
# file; deltas; journals with deltas, and with placed chunks, a spill slot, a failed step and one in flight.
RECORDINGS = ("decode", "digest", "side", "cache", "cache-live", "live")
KILLED = ("cache-live", "live")
GOLDENS = (
    "npu1-axpy-2048-c1-t2048-by3",
    "npu1-dequant-2048-c1-ch1-t2048-g32",
    "npu1-gemv-M128-K128-c1-ti32-to128",
    "npu1-layer_norm-2048-c1-ch1-t2048",
    "npu2-gelu-2048-c1-ch1-t2048",
    "npu2-rms_norm-2048-c1-ch1-t2048",
    "npu2-softmax-32768-c2-ch2-t1024",
    "npu2-elementwise_mul-2048-c1-t2048",
)
PRINTED = {
    "replay": ("replay", "cache.h5"),
    "replay --mode cumulative": ("replay", "side.h5", "--mode", "cumulative"),
    "replay of a journal": ("replay", "live.h5"),
    "show": ("show", "decode.h5"),
    "show STEP": ("show", "cache.h5", "1:0"),
    "show --buffer": ("show", "cache.h5", "--buffer", "cache"),
    "diff": ("diff", "decode.h5@0", "decode.h5@1"),
    "bisect": ("bisect", "cache.h5"),
    "fsck": ("fsck", "side.h5"),
    "operators": ("operators", "GEMV"),
}


def printed(*words: str, cwd: Path = FILES) -> tuple[int, bytes]:
    """Exit status and standard output of the program, in this process."""
    out = io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main([*words])
    return status, out.getvalue().encode()


def records(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(*words, "--json")[1].splitlines()]


def told(path: Path) -> list[list[Any]]:
    """Every step with every array, its digest and the digest of what is decoded; no times, they differ."""
    steps: list[list[Any]] = []
    with fr.open(path) as snap:
        steps.append(["invocations", [[i.index, i.status] for i in snap.invocations]])
        steps.append(["losses", [loss.to_dict() for loss in snap.losses]])
        for step in snap:
            given = {name: value for name, value in step.op.params.items() if value is not None}  # others came since
            about = [step.label, step.status, step.error, step.withheld, dict(step.values), given]
            arrays = []
            for side, tensor in step.tensors():
                bits = hashlib.sha256(tensor.numpy().tobytes()).hexdigest() if tensor.kept else None
                before = tensor.previous.digest if tensor.previous is not None else None
                place = [side, tensor.name, tensor.buffer, tensor.dtype, list(tensor.shape)]
                arrays.append([*place, tensor.digest, bits, before])
            steps.append([about, arrays])
    return json.loads(json.dumps(steps))


def tables(path: Path) -> dict[str, Any]:
    """The tables as any HDF5 program sees them, but for places and sizes in the file: those depend on zstd.

    The column that version 1.2 added is left out as well, and which contents share a chunk.
    """
    found = {}
    with h5py.File(path) as file:
        for name in ("invocations", "steps", "operands", "contents", "parts"):
            if name in file["index"]:
                table = file["index"][name][()]
                left_out = ("elapsed_ns", "place", "extent", "mover", "first_chunk")
                columns = [c for c in table.dtype.names if c not in left_out]
                if name == "contents":
                    packed = table["encoding"] == 5
                    table["encoding"][packed] = table["source"][packed] = 0
                found[name] = hashlib.sha256(repr([(c, table[c].tolist()) for c in columns]).encode()).hexdigest()
    return found


def shape(schema: Any, name: str = "") -> Iterator[str]:
    """Paths of all members, and what is required of them."""
    if isinstance(schema, dict):
        for key, value in schema.get("properties", {}).items():
            yield f"{name}.{key}"
            yield from shape(value, f"{name}.{key}")
        yield from (f"{name}.{key} is required" for key in schema.get("required", ()))
        for key in ("items", "anyOf", "oneOf", "additionalProperties"):
            yield from shape(schema.get(key), f"{name}[]")
    elif isinstance(schema, list):
        for part in schema:
            yield from shape(part, name)


def published() -> list[str]:
    """Members of what --json prints, from the schema that comes with the package, wherever in it that lies."""
    (path,) = Path(str(resources.files(fr))).rglob("schema.json")
    schema = json.loads(path.read_text(encoding="utf-8"))
    return sorted({line for name, part in schema["$defs"].items() for line in (name, *shape(part, name))})


def kinds(name: str) -> list[str]:
    """What a verb prints, in the order of the first of each: type, then its members."""
    return list(dict.fromkeys(f"{r['type']}: {' '.join(r)}" for r in records(*PRINTED[name])))


def signatures() -> dict[str, str]:
    """As written, but for the modules that names come from: those may move."""
    of = {
        name: getattr(fr, name) for name in ("record", "replay", "diff", "export", "simulate", "compare", "reference")
    }
    of["open"] = fr.open
    of["Recorder.step"] = fr.Recorder.step
    return {name: re.sub(r"fusion_replay\.[\w.]+\.(\w+)", r"\1", str(inspect.signature(f))) for name, f in of.items()}


def replayed(name: str) -> list[Any]:
    (golden,) = SNAPSHOTS.rglob(f"{name}.h5")
    status, told = printed("replay", golden.name, "--json", cwd=golden.parent)
    summary = json.loads(told.splitlines()[-1])
    return [status, summary["digest"], hashlib.sha256(told).hexdigest()]


def state() -> dict[str, Any]:
    return {
        "names": list(fr.__all__),
        "signatures": signatures(),
        "schema": published(),
        "printed": {name: kinds(name) for name in PRINTED},
        "replayed": {name: replayed(name) for name in GOLDENS},
        "recordings": {name: told(FILES / f"{name}.h5") for name in RECORDINGS},
        "tables": {name: tables(FILES / f"{name}.h5") for name in RECORDINGS if name not in KILLED},
    }


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    return json.loads(FROZEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_a_recording_holds(name: str, frozen: dict[str, Any]) -> None:
    assert told(FILES / f"{name}.h5") == frozen["recordings"][name]


def test_every_way_of_keeping_a_content_is_among_them() -> None:
    """By the numbers of docs/format.md: chunks, delta, parts, derived, side file, digest only."""
    found: set[int] = set()
    for name in RECORDINGS:
        if name not in KILLED:
            with h5py.File(FILES / f"{name}.h5") as file:
                found |= set(np.unique(file["index/contents"]["encoding"]).tolist())
    assert found == {0, 1, 2, 3, 4, 255}
    assert all((FILES / f"live.h5.{part}").stat().st_size for part in ("journal", "spill", "chunks"))


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_again_it_holds_the_same(name: str, frozen: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / f"{name}.h5"
    words = [sys.executable, str(HERE / "made.py"), name, str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == (-signal.SIGKILL if name in KILLED else 0), done.stderr
    assert told(path) == frozen["recordings"][name]
    if name not in KILLED:
        assert tables(path) == frozen["tables"][name]
        return
    assert printed("fsck", "--recover", str(path))[0] == 0
    assert not path.with_name(f"{path.name}.journal").exists()
    with fr.open(FILES / f"{name}.h5") as old, fr.open(path) as new:
        assert [s.status for s in new] == [s.status for s in old]
    assert told(path) == frozen["recordings"][name]


@pytest.mark.parametrize("name", [n for n in RECORDINGS if n not in KILLED])
def test_tables(name: str, frozen: dict[str, Any]) -> None:
    assert tables(FILES / f"{name}.h5") == frozen["tables"][name]


@pytest.mark.parametrize("name", GOLDENS)
def test_replay_prints_the_same(name: str, frozen: dict[str, Any]) -> None:
    assert replayed(name) == frozen["replayed"][name]


@pytest.mark.parametrize("name", PRINTED)
def test_what_a_verb_prints_has_the_same_members(name: str, frozen: dict[str, Any]) -> None:
    assert kinds(name) == frozen["printed"][name]


def test_nothing_was_taken_from_the_schema(frozen: dict[str, Any]) -> None:
    there = set(published())
    assert [line for line in frozen["schema"] if line not in there] == []


def test_public_names(frozen: dict[str, Any]) -> None:
    assert [name for name in frozen["names"] if name not in fr.__all__] == []
    for name in frozen["names"]:
        getattr(fr, name)


def test_signatures(frozen: dict[str, Any]) -> None:
    assert signatures() == frozen["signatures"]


def by_lines(data: Any, depth: int = 3) -> str:
    """JSON of which a change is a diff that a person can read: what lies ``depth`` deep has a line of its own."""
    if not depth or not isinstance(data, dict | list) or not data:
        return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if isinstance(data, list):
        return "[\n" + ",\n".join(by_lines(item, depth - 1) for item in data) + "\n]"
    lines = (f"{json.dumps(key, ensure_ascii=False)}:{by_lines(value, depth - 1)}" for key, value in data.items())
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    FROZEN.write_text(by_lines(state()) + "\n", encoding="utf-8")
