# SPDX-License-Identifier: Apache-2.0
from iron_doubles import v6
from iron_doubles.operators import device_symbol


class StepCallable(v6.StepCallable):
    def __call__(self):
        super().__call__()


__all__ = ["StepCallable", "device_symbol"]
