# SPDX-License-Identifier: Apache-2.0
"""Two steps, recorded on the device at hand (here the software NPU) and compared with what was accepted."""

import os

import ml_dtypes
import numpy as np


def capped_sum():
    import fusion_replay as fr
    from fusion_replay.simulator import operators

    add = operators.ElementwiseAdd(size=2048, tile_size=256, num_aie_columns=4)
    cap = operators.SoftCap(size=2048, cap=2.0)
    call = fr.simulate(
        [(add, "a", "b", "sum"), (cap, "sum", "out")],
        "npu1",
        faults=os.environ.get("FAULTS", "").split(),  # to see what a failure looks like
        input_args=["a", "b"],
        output_args=["out"],
    )
    call.get_buffer("a")[:], call.get_buffer("b")[:] = (
        np.random.default_rng(0).standard_normal((2, 2048)).astype(ml_dtypes.bfloat16)
    )
    return call


def test_capped_sum(npu_golden):
    npu_golden.check(capped_sum)
