# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

BUILD = Path(tempfile.mkdtemp(prefix="fake-iron-"))


@dataclasses.dataclass(frozen=True)
class Direction:
    fills: bool
    drains: bool


In, Out, InOut = Direction(True, False), Direction(False, True), Direction(True, True)


@dataclasses.dataclass(frozen=True)
class Buffer:
    name: str
    direction: Direction
    shape: tuple
    dtype: object = ml_dtypes.bfloat16
    placement: tuple = ("", 0)

    @property
    def elements(self):
        return math.prod(self.shape)

    @property
    def nbytes(self):
        return self.elements * np.dtype(self.dtype).itemsize


class Operator:
    def __init__(self, **params):
        self.__dict__.update(params)

    @property
    def buffers(self):
        return tuple(Buffer(n, d, (self.size,)) for n, d in self._arguments)

    @property
    def values(self):
        return ()

    def resolved(self):
        return self

    def reference(self, *inputs):
        raise NotImplementedError

    def image(self):
        path = BUILD / f"{type(self).__name__}_{self.size}.xclbin"
        path.write_text(type(self).__name__)
        return path
