# SPDX-License-Identifier: Apache-2.0
"""What both applications do, by names that both forms of IRON have."""

import ml_dtypes
import numpy as np
from aie.utils.hostruntime.tensor_class import Tensor
from iron import operators
from sequences import OperatorSequence, callable_of

N = 128


def draw(seed):
    return (np.random.default_rng(seed).random(N, np.float32) - 0.5).astype(ml_dtypes.bfloat16)


def sequence(dispatch="separate", calls=2, name="block"):
    """h = a + b; h = h * a; out = relu(h)"""
    add, mul, relu = operators.ElementwiseAdd(size=N), operators.ElementwiseMul(size=N), operators.ReLU(size=N)
    runlist = [(add, "a", "b", "h"), (mul, "h", "a", "h"), (relu, "h", "out")]
    callable_ = OperatorSequence(name, runlist, ["a", "b"], ["out"], dispatch=dispatch).compile().get_callable()
    for i in range(calls):
        callable_.get_buffer("a").numpy_view()[...] = draw(2 * i)
        callable_.get_buffer("b").numpy_view()[...] = draw(2 * i + 1)
        callable_()
        show(callable_.get_buffer("out").numpy())


def single(call, *inputs):
    tensors = [Tensor.from_numpy(x) for x in inputs]
    out = Tensor((N,))
    call(*tensors, out)
    show(out.numpy())


def show(array):
    print(np.asarray(array).view(np.uint16).astype(np.int64).sum(), flush=True)


__all__ = ["N", "OperatorSequence", "callable_of", "draw", "operators", "sequence", "show", "single"]
