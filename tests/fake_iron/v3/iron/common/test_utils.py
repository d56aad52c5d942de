# SPDX-License-Identifier: Apache-2.0
import numpy as np
from aie.utils.hostruntime.tensor_class import Tensor


def run_test(operator, input_buffers, output_buffers, rel_tol=0.04, abs_tol=1e-6, warmup_iters=1, timed_iters=1):
    operator.compile()
    op_func = operator.get_callable()
    inputs, outputs, args = iter(input_buffers.items()), iter(output_buffers.items()), []
    output_map = {}
    for spec in operator.get_arg_spec():
        if spec.direction == "in":
            args.append(Tensor.from_numpy(next(inputs)[1]))
        else:
            output_map[next(outputs)[0]] = Tensor(spec.shape, spec.dtype)
            args.append(list(output_map.values())[-1])
    for _ in range(warmup_iters + timed_iters):
        op_func(*args)
    errors = {}
    for name, expected in output_buffers.items():
        got = output_map[name].numpy().astype(np.float32)
        if not np.allclose(got, expected.astype(np.float32), rel_tol, abs_tol):
            errors[name] = np.flatnonzero(got != expected)
    return errors, 1.0, 1.0
