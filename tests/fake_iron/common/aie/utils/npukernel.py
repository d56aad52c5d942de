# SPDX-License-Identifier: Apache-2.0
import aie.utils


class NPUKernel:
    def __init__(self, xclbin_path=None, insts_path=None, kernel_name="MLIR_AIE", elf_path=None, dispatch_params=()):
        self.xclbin_path, self.insts_path, self.kernel_name = xclbin_path, insts_path, kernel_name
        self.elf_path, self.dispatch_params = elf_path, dispatch_params
        self.trace_config = None

    def __call__(self, *args, **scalars):
        return aie.utils.DefaultNPURuntime.load_and_run(self, list(args))
