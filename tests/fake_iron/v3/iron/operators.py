# SPDX-License-Identifier: Apache-2.0
from dataclasses import dataclass, field

import aie.utils as aie_utils

from .common.base import AIERuntimeArgSpec, CompositeOperator, MLIROperator


@dataclass
class _Elementwise(MLIROperator):
    size: int
    tile_size: int = 64
    num_aie_columns: int = 1
    context: object = field(default=None, repr=False)

    def __post_init__(self):
        MLIROperator.__init__(self, self.context)


class _Binary(_Elementwise):
    def get_arg_spec(self):
        return [AIERuntimeArgSpec(d, (self.size,)) for d in ("in", "in", "out")]


class _Unary(_Elementwise):
    def get_arg_spec(self):
        return [AIERuntimeArgSpec(d, (self.size,)) for d in ("in", "out")]


class ElementwiseAdd(_Binary):
    pass


class ElementwiseMul(_Binary):
    pass


class ReLU(_Unary):
    pass


class Hang(_Unary):
    pass


class Fail(_Unary):
    pass


class AddRelu(CompositeOperator):
    """A composite: sub-operators with kernels of their own, called one after the other."""

    def __init__(self, size):
        super().__init__()
        self.add, self.relu = ElementwiseAdd(size), ReLU(size)

    def get_callable(self):
        add, relu = self.add.get_callable(), self.relu.get_callable()

        def call(a, b, c):
            add(a, b, c)
            return relu(c, c)

        return call


__all__ = ["aie_utils"]
