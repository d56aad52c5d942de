# SPDX-License-Identifier: Apache-2.0
import aie.utils as aie_utils
import numpy as np
from aie.utils.benchmark import run_iters

from .image.standalone import OperatorImage


def run_test(operator, inputs, outputs, *, warmup_iters=1, timed_iters=1):
    fn = OperatorImage(operator).compile()
    tensor_class = aie_utils.DEFAULT_TENSOR_CLASS
    args, produced = [], {}
    for b in operator.buffers:
        buf = tensor_class.from_numpy(inputs[b.name]) if b.direction.fills else tensor_class(b.shape, dtype=b.dtype)
        if b.direction.drains:
            produced[b.name] = buf
        args.append(buf)
    results = run_iters(fn, *args, warmup=warmup_iters, iters=timed_iters)
    assert all(result.npu_time for result in results)
    return {n: buf.numpy() for n, buf in produced.items() if not np.array_equal(buf.numpy(), outputs[n])}
