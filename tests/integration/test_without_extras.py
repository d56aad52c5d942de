# SPDX-License-Identifier: Apache-2.0
"""The core alone: every verb that a recording needs works where no extra can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fusion_replay.cli import doctor

PROGRAM = """
import sys
sys.path[:0] = {path!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"no module named {{name}}")
sys.meta_path.insert(0, Absent())
from fusion_replay.__main__ import main
for words, expected in {verbs!r}:
    sys.argv = ["fusion-replay", *words.split()]
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    print(words, "->", status or 0, flush=True)
    assert (status or 0) == expected, words
"""


def test_the_core_needs_no_extra(tmp_path: Path) -> None:
    verbs = [
        ("record -o t.h5 --workload op:GELU --sim npu1", 0),
        ("replay t.h5", 0),
        ("show t.h5", 0),
        ("fsck t.h5", 0),
        *((f"export t.h5 --as {form} -o {form}.out", 0) for form in ("h5", "npz", "jsonl", "safetensors", "plain-h5")),
        ("export t.h5 --as plain-h5 --compression zstd -o z.out", 4),
    ]
    code = PROGRAM.format(path=sys.path, absent=[*doctor.EXTRAS], verbs=verbs)
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "plain-h5 with zstd needs the package hdf5plugin: pip install 'fusion-replay[hdf5]'" in ran.stderr
    assert not (tmp_path / "z.out").exists()
