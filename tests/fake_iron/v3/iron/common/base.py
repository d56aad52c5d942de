# SPDX-License-Identifier: Apache-2.0
import dataclasses
import tempfile
from pathlib import Path

import aie.utils as aie_utils
import ml_dtypes
from aie.utils.npukernel import NPUKernel

BUILD = Path(tempfile.mkdtemp(prefix="fake-iron-"))


class AIEOperatorBase:
    def __init__(self, context=None):
        self.context = context
        self.artifacts = []


class MLIROperator(AIEOperatorBase):
    @property
    def name(self):
        fields = "_".join(str(getattr(self, f.name)) for f in dataclasses.fields(self) if f.repr)
        return f"{type(self).__name__}_{fields}_{aie_utils.get_current_device().resolve().name}"

    def compile(self, dry_run=False):
        self.link_xclbin()
        return self

    def link_xclbin(self):
        if getattr(self, "_xclbin_path", None) is None:
            self._xclbin_path = BUILD / f"{self.name}.xclbin"
            self._insts_path = BUILD / f"{self.name}.bin"
            self._xclbin_path.write_text(type(self).__name__)
            self._insts_path.write_bytes(self.size.to_bytes(4, "little"))

    def get_callable(self):
        self.link_xclbin()
        npu_kernel = NPUKernel(
            xclbin_path=str(self._xclbin_path), kernel_name="MLIR_AIE", insts_path=str(self._insts_path)
        )
        handle = aie_utils.DefaultNPURuntime.load(npu_kernel)

        def call(*args):
            return aie_utils.DefaultNPURuntime.run(handle, list(args))

        return call


class CompositeOperator(AIEOperatorBase):
    pass


@dataclasses.dataclass(frozen=True)
class AIERuntimeArgSpec:
    direction: str
    shape: tuple
    dtype: object = ml_dtypes.bfloat16

    @property
    def reads(self):
        return self.direction in {"in", "inout"}

    @property
    def writes(self):
        return self.direction in {"out", "inout"}
