# SPDX-License-Identifier: Apache-2.0
from iron_doubles import v6

from .callable import StepCallable


class OperatorSequence(v6.OperatorSequence):
    def get_callable(self, arena=None):
        return StepCallable(self, compare=self.mode == "compare", arena=arena)
