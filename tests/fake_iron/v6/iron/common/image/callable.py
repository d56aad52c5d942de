# SPDX-License-Identifier: Apache-2.0
import aie.utils as aie_utils
from aie.utils.hostruntime.tensor_class import Tensor
from aie.utils.npukernel import NPUKernel

from ..declare import BUILD


class FullELFRun:
    def __init__(self, name, dispatch):
        self.name, self._dispatch, self.fed = name, dispatch, None

    def bind_feedback(self, bo):
        self.fed = bo

    def start(self):
        self._dispatch()

    def wait(self):
        pass


class FullELFCallable:
    def __init__(self, seq):
        self.op = seq
        self._buffers = {n: Tensor((size // 2,)) for n, (_, _, size) in seq.subbuffer_layout.items()}
        elf = BUILD / f"{seq.name}.elf"
        elf.write_text("")
        self.kernel = NPUKernel(elf_path=str(elf))
        self._handle = None

    def get_buffer(self, name):
        return self._buffers[name]

    def _dispatch(self):
        if self._handle is None:
            self._handle = aie_utils.DefaultNPURuntime.load(self.kernel)
        aie_utils.DefaultNPURuntime.run(self._handle, list(self._buffers.values()))

    def new_run(self):
        return FullELFRun(self.op.name, self._dispatch)

    def start(self, *runs):
        for run in runs:
            run.start()

    def wait(self, *runs):
        for run in runs:
            run.wait()

    def __call__(self):
        self._dispatch()


class StepCallable:
    def __init__(self, seq, compare=False, arena=None):
        self.op, self.compare, self.tolerance, self._on_npu = seq, compare, None, True
        self._buffers = {n: Tensor((size // 2,)) for n, (_, _, size) in seq.subbuffer_layout.items()}
        kernels = {id(op): NPUKernel(str(op.image())) for op, *_ in seq.runlist}
        self._steps = [(op, kernels[id(op)], names, [self.get_buffer(n) for n in names]) for op, *names in seq.runlist]
        self.dispatch_values = {}

    def get_buffer(self, name):
        return self._buffers[name]

    def __call__(self):
        for _, kernel, _, args in self._steps:
            kernel(*args, **{n: self.dispatch_values[n] for n in kernel.dispatch_params})
