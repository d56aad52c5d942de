# SPDX-License-Identifier: Apache-2.0
"""How the recordings in files/ were made, by public names alone: ``python tests/frozen/made.py WHAT FILE``.

Run by hand once, and again by the test, which compares what can be read. ``live`` and ``cache-live`` end in a SIGKILL.
Of their spill files the part behind the last byte that is not zero was cut off: 512 MiB of nothing.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np

import fusion_replay as fr
from fusion_replay.__main__ import main

BF16 = np.dtype(ml_dtypes.bfloat16)
DECODE = ("--workload", "llama-decode", "--sim", "npu2", "--layers", "1", "--context", "64")


def operators() -> Any:
    """The software NPU's operators, wherever the software NPU lives."""
    return importlib.import_module(f"{fr.simulate.__module__}.operators")


def pattern(period: int, start: int = 0) -> np.ndarray:
    """80 KiB: too large for the journal, and compressible."""
    return (np.arange(256 * 160) % period + start).astype(np.float32).astype(BF16).reshape(256, 160)


def decode(path: str) -> None:
    """Whole chunks, parts, derived contents, and weights that were left out."""
    assert main(["record", "-q", "-o", path, *DECODE, "--no-weights"]) == 0


def digest(path: str) -> None:
    assert main(["record", "-q", "-o", path, *DECODE, "--level", "digest"]) == 0


def side(path: str) -> None:
    """A weight of 64 KiB in a side file, ``W-`` before the name."""
    gemv = operators().GEMV(M=128, K=256, num_aie_columns=4, tile_size_input=4, tile_size_output=32)
    call = fr.simulate([(gemv, "W", "x", "y")], "npu2", input_args=["x"], output_args=["y"])

    def put(name: str, values: np.ndarray) -> None:
        with call.get_buffer(name).overwrite() as array:
            array[:] = values.astype(np.float32).astype(BF16).reshape(array.shape)
        call.get_buffer(name).to("npu")

    folder, name = os.path.split(path)
    with fr.record(path, call, weights_in=os.path.join(folder, f"W-{name}")):
        put("W", np.arange(128 * 256) % 97)
        for i in range(2):
            put("x", np.full(256, i + 1))
            call()


def cache(path: str, kill_in: int | None = None) -> None:
    """Versions of a cache as deltas of each other, a slice as a part, a derived output."""
    rows, columns = 128, 64
    copy = operators().StridedCopy(
        input_sizes=(columns,), input_strides=(1,), input_offset=0, output_sizes=(columns,), output_strides=(1,),
        output_offset=0, input_buffer_size=columns, output_buffer_size=rows * columns, output_offset_parameter="offset",
    )  # fmt: skip
    repeat, relu = operators().Repeat(rows=rows, cols=columns, repeat=2), operators().ReLU(size=rows * columns)
    half = f"wide[0:{2 * rows * columns}]"
    call = fr.simulate([(copy, "x", "cache"), (repeat, "cache", "wide"), (relu, half, "y")], "npu2")
    call.get_buffer("cache").numpy_view()[:] = (((np.arange(rows * columns) * 37) % 251) - 125).astype(BF16)
    with fr.record(path, call, on_error="raise") as rec:
        for i in range(3):
            call.get_buffer("x").numpy_view()[:] = np.arange(i, i + columns).astype(BF16)
            call.write_values({"offset": i * columns})
            call()
            if i == kill_in:
                with rec.step("ReLU", {"A": np.ones(4, BF16)}, {"size": 4}):
                    os.kill(os.getpid(), signal.SIGKILL)


def live(path: str) -> None:
    """Contents in the journal, in the file of chunks and in the spill file; a step that failed, and one in flight."""
    small, large = np.arange(64).astype(BF16), pattern(97)
    with fr.record(path) as rec:
        with rec.step("ReLU", {"A": large}, {"size": large.size}) as step:
            step.outputs["B"] = large
        time.sleep(0.3)  # until it is compressed
        for i in range(3):
            large = large.copy()
            large[i] = i + 200
            with rec.step("Cache", {"A": small, "N": np.arange(i, i + 3)}, {"row": i, "text": "ü"}) as step:
                step.outputs["C"] = large
            time.sleep(0.3)
        with suppress(TimeoutError), rec.step("ReLU", {"A": small}, {"size": 64}):
            raise TimeoutError("the kernel timed out")
        other = pattern(89, 1)
        with rec.step("ReLU", {"A": other}, {"size": other.size}):
            os.kill(os.getpid(), signal.SIGKILL)


MAKERS = {
    "decode": decode,
    "digest": digest,
    "side": side,
    "cache": cache,
    "cache-live": lambda path: cache(path, 1),
    "live": live,
}

if __name__ == "__main__":
    MAKERS[sys.argv[1]](sys.argv[2])
