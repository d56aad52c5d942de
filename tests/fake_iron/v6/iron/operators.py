# SPDX-License-Identifier: Apache-2.0
from .common.declare import In, Operator, Out


class _Binary(Operator):
    _arguments = (("x", In), ("y", In), ("z", Out))


class _Unary(Operator):
    _arguments = (("x", In), ("y", Out))


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
