# SPDX-License-Identifier: Apache-2.0
"""An operator of one's own, from nothing to a golden: python my_op.py"""

import ml_dtypes
import numpy as np

import fusion_replay as fr


@fr.operator("GatedScale", tolerance=fr.bf16_ulps(2))
def gated_scale(A, G, *, factor=1.0):
    """What it means: A sigmoid(G), scaled, in float64."""
    return factor * A / (1 + np.exp(-G))


def my_kernel(a, g, factor):
    """Stands for the call of your device kernel, here in float32."""
    return (np.float32(factor) * a.astype("f4") / (1 + np.exp(-g.astype("f4")))).astype(ml_dtypes.bfloat16)


if __name__ == "__main__":
    a, g = np.random.default_rng(0).standard_normal((2, 32, 64)).astype(ml_dtypes.bfloat16)
    recording = fr.record("golden.h5", if_exists="replace")
    with recording as rec, rec.step("GatedScale", inputs={"A": a, "G": g}, params={"factor": 0.5}) as step:
        step.outputs["C"] = my_kernel(a, g, factor=0.5)
    fr.replay("golden.h5").check()
