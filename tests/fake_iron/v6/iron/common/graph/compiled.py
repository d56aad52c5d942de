# SPDX-License-Identifier: Apache-2.0
from ..image.sequence import OperatorSequence


class CompiledGraph:
    """One sequence and its callable, made on first use; a full ELF is placed in an arena that versions share."""

    def __init__(self, name, runlist, inputs, outputs, dispatch):
        self.inputs, self.outputs = inputs, outputs
        self.arena = object() if dispatch == "fused" else None
        self.sequence = OperatorSequence(name, runlist, inputs, outputs, dispatch=dispatch, arena=self.arena).compile()
        self._callable = None

    @property
    def callable(self):
        if self._callable is None:
            self._callable = self.sequence.get_callable(self.arena)
        return self._callable

    def __call__(self, *tensors):
        for name, tensor in zip(self.inputs, tensors, strict=True):
            self.callable.get_buffer(name).numpy_view()[...] = tensor
        self.callable()
        return tuple(self.callable.get_buffer(name) for name in self.outputs)
