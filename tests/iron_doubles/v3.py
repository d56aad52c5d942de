# SPDX-License-Identifier: Apache-2.0
"""V3: amd/IRON ``iron/common/sequence.py``, August 2026 (02f78d83, by its first eight digits).

As V2, with paths in place of artifacts, scratch planning and a sequence that compiles itself when its callable is asked
for. Differences as in V2; scratch is planned first fit, and in fused mode alone (elsewhere each buffer is its own).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

from iron_doubles import layout, v2
from iron_doubles.machine import MACHINE

logger = logging.getLogger(__name__)

SequenceDispatch, FusedDispatch = v2.SequenceDispatch, v2.FusedDispatch


class SeparateDispatch(v2.SequenceDispatch):
    name = "separate"

    def __init__(self) -> None:
        self.combined_xclbin_path: Path | None = None
        self.op_xclbin_path_map: dict[int, Path] = {}
        self.op_insts_path_map: dict[int, Path] = {}
        self.op_kernel_name_map: dict[int, str] = {}

    def set_up_artifacts(self, seq: Any) -> None:
        for index, op in enumerate(layout.unique(seq.runlist)):
            name = layout.label(seq.name, index)
            MACHINE.designs[name] = op
            self.op_xclbin_path_map[id(op)] = self.combined_xclbin_path = Path(f"{name}.xclbin")
            self.op_insts_path_map[id(op)], self.op_kernel_name_map[id(op)] = Path(f"{name}.bin"), name

    def make_callable(self, seq: Any) -> Any:
        return SequenceXclbinCallable(seq, self)


class CompareDispatch(SeparateDispatch):
    name = "compare"

    def __init__(self, rel_tol: float = 0.05, abs_tol: float = 1e-2, raise_on_mismatch: bool = True) -> None:
        super().__init__()
        self.rel_tol, self.abs_tol, self.raise_on_mismatch = rel_tol, abs_tol, raise_on_mismatch

    def make_callable(self, seq: Any) -> Any:
        return SequenceCompareCallable(seq, self)


class OperatorSequence(v2.OperatorSequence):
    aliases: ClassVar[dict[str, Any]] = {
        "auto": SeparateDispatch,
        "fused": FusedDispatch,
        "separate": SeparateDispatch,
        "compare": CompareDispatch,
    }

    def __init__(
        self,
        name: str,
        runlist: Any,
        input_args: Any,
        output_args: Any,
        buffer_sizes: Any = None,
        buffer_offsets: Any = None,
        plan_scratch: bool = True,
        dispatch: Any = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, runlist, input_args, output_args, buffer_sizes, dispatch, **kwargs)
        self.buffer_offsets, self.plan_scratch = buffer_offsets, plan_scratch

    def infer_buffer_offsets(self) -> dict[str, int]:
        return layout.plan(self.runlist, {*self.input_args, *self.output_args, *self.explicit_buffer_sizes})

    def calculate_buffer_layout(self) -> Any:
        if not isinstance(self._dispatch, FusedDispatch):
            return super().calculate_buffer_layout()
        offsets = self.buffer_offsets
        if offsets is None and self.plan_scratch:
            offsets = self.infer_buffer_offsets()
        return layout.planned(
            self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes, offsets or {}
        )

    def get_callable(self) -> Any:
        if not hasattr(self, "subbuffer_layout"):
            self.compile()
        return super().get_callable()


class SequenceXclbinCallable(v2.SequenceXclbinCallable): ...


class SequenceCompareCallable(v2.SequenceCompareCallable):
    logger = logger
