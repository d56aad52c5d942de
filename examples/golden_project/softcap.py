# SPDX-License-Identifier: Apache-2.0
"""The operator of this project: what it means, and what a core of the software NPU computes for it."""

import numpy as np

import fusion_replay as fr


@fr.operator(
    "SoftCap",
    tolerance=fr.bf16_ulps(2),
    args=lambda p: [fr.ArgSpec(name, side, (p.size,)) for name, side in (("A", "in"), ("C", "out"))],
)
def softcap(A, *, size, cap=30.0):
    """cap tanh(A / cap), in float64."""
    return cap * np.tanh(A / cap)


@fr.kernel("SoftCap")
def softcap_kernel(A, *, cap):
    """Float32 in, float32 out; the store rounds to bf16 as the core's register says."""
    return np.float32(cap) * np.tanh(A / np.float32(cap), dtype="f4")
