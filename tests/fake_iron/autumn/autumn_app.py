# SPDX-License-Identifier: Apache-2.0
"""A token in small: a prologue, finishes, an operator of another package, one nobody knows, and a cache per call."""

import os

import numpy as np
from iron.common.image.sequence import OperatorSequence

from iron_doubles.autumn import GEMV, ElementwiseMul, Link, PackedGEMM, RMSNorm, SiLU, Whirl
from iron_doubles.operators import BF16

D, ROW, ROWS = 32, 32, 6
norm, gate = Link(RMSNorm(rows=1, tile_size=D, weighted=True)), (Link(SiLU(size=D)), Link(ElementwiseMul(size=D)))
put = ElementwiseMul(size=ROW, placements=(("c", ROWS * ROW, ROW),), bound_values={"c_offset": "position"})
get = ElementwiseMul(size=ROW, placements=(("a", ROWS * ROW, ROW),), bound_values={"a_offset": "position"})
RUNLIST = [
    (GEMV(M=D, K=D, prepare=(norm,), finish=gate), "W", "x", "h", "w_norm", "up"),
    (put, "h", "up", "cache"),
    (get, "cache", "up", "row"),
    (Whirl(size=ROW), "row", "turned"),
    (PackedGEMM(M=1, K=D, N=D), "turned", "W", "y"),
]
INPUTS, OUTPUTS = ["x", "up"], ["y"]


def main(tokens=3):
    sequence = OperatorSequence("token", RUNLIST, INPUTS, OUTPUTS, {"cache": ROWS * ROW * 2}).compile()
    callable_ = sequence.get_callable()
    rng = np.random.default_rng(1)
    for name in ("W", "w_norm"):
        view = callable_.get_buffer(name).numpy_view()
        view[:] = rng.standard_normal(view.size).astype(BF16)
    break_device(os.environ.get("FAKE_FAULT"))
    for token in range(tokens):
        for name in INPUTS:
            callable_.get_buffer(name).numpy_view()[:] = rng.standard_normal(D).astype(BF16)
        callable_.write_values({"position": np.int32(token * ROW)})
        callable_()
        print(token, callable_.get_buffer("y").numpy().view(np.uint16).astype(np.int64).sum(), flush=True)


def break_device(step):
    """The design of this step of the runlist is wrong in one element."""
    if step is None:
        return
    op = RUNLIST[int(step)][0]
    honest = op.result
    op.device_result = lambda held: honest(held) + np.asarray(64, BF16) * (np.arange(D) == 5)
