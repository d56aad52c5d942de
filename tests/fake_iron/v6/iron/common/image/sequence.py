# SPDX-License-Identifier: Apache-2.0
import aie.utils as aie_utils
from aie.iron.device import NPU2

from ..declare import Operator
from .callable import FullELFCallable, StepCallable

_MODES = ("fused", "separate", "compare", "reference")


class OperatorSequence:
    def __init__(
        self,
        name,
        runlist,
        input_args,
        output_args,
        buffer_sizes=None,
        dispatch="auto",
        arena=None,
        feedback_args=(),
        coresident=(),
    ):
        refused = ((arena, "a shared arena"), (feedback_args, "feedback arguments"), (coresident, "co-residence"))
        for given, what in refused:
            if given and dispatch not in ("auto", None, "fused", "reference"):
                raise ValueError(f"{what}: dispatch={dispatch!r} has none")
        if dispatch != "auto" and dispatch not in _MODES:
            raise TypeError(f"dispatch {dispatch!r} is not one of {sorted(_MODES)} or 'auto'")
        if not all(isinstance(op, Operator) for op, *_ in runlist):
            raise TypeError("runlist entries must be (Operator, *str) tuples")
        self.name, self.runlist, self.input_args, self.output_args = name, runlist, input_args, output_args
        self.explicit_buffer_sizes, self.arena = buffer_sizes or {}, arena
        self.mode = None if dispatch == "auto" else dispatch

    def compile(self, record="memory"):
        if self.mode is None:
            self.mode = "fused" if isinstance(aie_utils.get_current_device(), NPU2) else "separate"
        self.subbuffer_layout, self.slice_info = {}, {}
        for op, *names in self.runlist:
            for name, buffer in zip(names, op.buffers, strict=True):
                kind = "input" if name in self.input_args else "output" if name in self.output_args else "scratch"
                self.subbuffer_layout.setdefault(name, (kind, 0, buffer.nbytes))
        return self

    def get_callable(self, arena=None):
        if not hasattr(self, "subbuffer_layout"):
            self.compile()
        return FullELFCallable(self) if self.mode == "fused" else StepCallable(self, self.mode == "compare")
