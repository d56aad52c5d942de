# SPDX-License-Identifier: Apache-2.0
"""The same operator on the software NPU: arg specs, a kernel, and a fault that replay finds."""

import ml_dtypes
import numpy as np

import fusion_replay as fr
from fusion_replay.simulator import operators


@fr.operator(
    "GatedScale",
    tolerance=fr.bf16_ulps(2),
    args=lambda p: [fr.ArgSpec(name, side, (p.size,)) for name, side in (("A", "in"), ("G", "in"), ("C", "out"))],
)
def gated_scale(A, G, *, size, factor=1.0):
    """What it means, in float64."""
    return factor * A / (1 + np.exp(-G))


@fr.kernel("GatedScale")
def gated_scale_kernel(A, G, *, factor):
    """What a core computes: float32 in, float32 out; the store rounds to bf16 as the core's register says."""
    return np.float32(factor) * A * (np.tanh(G / 2, dtype="f4") + 1) / 2


if __name__ == "__main__":
    op = operators.GatedScale(size=2048, factor=0.5)
    a, g = np.random.default_rng(0).standard_normal((2, 2048)).astype(ml_dtypes.bfloat16)
    print(fr.check(op, {"A": a, "G": g}))

    call = fr.simulate([(op, "a", "g", "c")], "npu2", faults=["GatedScale:shift"], input_args=["a", "g"])
    call.get_buffer("a")[:], call.get_buffer("g")[:] = a, g
    with fr.record("broken.h5", call, if_exists="replace"):
        call()
    report = fr.replay("broken.h5")
    print(report)
    assert not report.passed
