# SPDX-License-Identifier: Apache-2.0
"""What the package costs a program that does not record: ``python -m benchmarks.off``.

CPU time of 900 steps of the tests' stand-in for IRON's V3 form, in processes of their own: without this package on the
path, with it imported, and after a recording has ended. Where hooks or classes stay patched the last one is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Candidate, finish, machine, measure, parser, scratch, table

ROOT = Path(__file__).resolve().parents[1]
FAKE = [ROOT / "tests" / "fake_iron" / part for part in ("v3", "common", "apps")]
WITHOUT, IMPORTED, AFTER = "not there", "imported", "after a recording"

PROGRAM = """
import contextlib, io, os, sys, time
mode, calls, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if mode != "not there":
    import fusion_replay as fr
import common_app as app
from aie.utils.hostruntime.xrtruntime.hostruntime import XRTHostRuntime
own = XRTHostRuntime.run
os.chdir(folder)
with contextlib.redirect_stdout(io.StringIO()):
    if mode == "after a recording":
        with fr.record("off.h5"):
            app.sequence(calls=1)
    kinds = (app.operators.ElementwiseAdd, app.operators.ElementwiseMul, app.operators.ReLU)
    add, mul, relu = (kind(size=app.N) for kind in kinds)
    runlist = [(add, "a", "b", "h"), (mul, "h", "a", "h"), (relu, "h", "out")]
    call = app.OperatorSequence("off", runlist, ["a", "b"], ["out"], dispatch="separate").compile().get_callable()
    for _ in range(calls // 3):
        call()
    started = time.process_time()
    for _ in range(calls):
        call()
    seconds = time.process_time() - started
assert XRTHostRuntime.run is own, "a method of IRON's runtime is still ours"
assert not [f for f in sys.meta_path if "fusion_replay" in type(f).__module__], "an import hook is left behind"
assert (mode == "not there") == ("fusion_replay" not in sys.modules)
print(seconds)
"""


def program(mode: str, calls: int) -> Candidate:
    def run(folder: Path) -> dict[str, float]:
        path = [*map(str, FAKE), *([] if mode == WITHOUT else [str(ROOT)])]
        words = [sys.executable, "-c", PROGRAM, mode, str(calls), str(folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
        return {"step": float(done.stdout) / calls / 3}

    return run


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    calls = 3 if options.tiny else 300
    with scratch(options) as name:
        candidates = {mode: program(mode, calls) for mode in (WITHOUT, IMPORTED, AFTER)}
        results = measure(candidates, options.rounds, Path(name))
    print(machine())
    rows = [[mode, f"{results.median(mode, 'step') * 1e6:.1f}"] for mode in results.runs]
    print(table(["package", "CPU us a step"], rows))
    summary = {
        f"{mode} / {WITHOUT}, paired": results.ratio(mode, WITHOUT, "step", "step") for mode in (IMPORTED, AFTER)
    }
    finish(options, results, summary)


if __name__ == "__main__":
    main()
