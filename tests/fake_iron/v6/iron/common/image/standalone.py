# SPDX-License-Identifier: Apache-2.0
import aie.utils as aie_utils
from aie.utils.npukernel import NPUKernel


class OperatorImage:
    def __init__(self, op):
        self.op, self._kernel = op, None

    def compile(self, record="memory"):
        if self._kernel is None:
            self._kernel = NPUKernel(str(self.op.image()))
        return self

    def __call__(self, *args, **scalars):
        self.compile()
        _, result = aie_utils.DefaultNPURuntime.load_and_run(self._kernel, list(args), dispatch_scalars=scalars or None)
        return result
