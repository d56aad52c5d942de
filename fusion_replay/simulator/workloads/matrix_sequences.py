# SPDX-License-Identifier: Apache-2.0
"""The sequence of each parameter set of IRON's CI: operators with their fields, buffers, and how the inputs are drawn.

Source: amd/IRON ``iron/operators/*/test.py`` and ``reference.py``: how each test builds its operator, and the
distributions of the golden generators. Composite operators (SwiGLU, a GEMM in parts) become the runlists that IRON's
own ``op.py`` of them dispatches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.simulator.workloads.base import COLUMNS, SequenceSpec
from fusion_replay.simulator.workloads.draws import POSITIVE, contents, normal, of_kind

Draw = Callable[[np.random.Generator], npt.NDArray[Any]]


@dataclass(frozen=True)
class MatrixSequence:
    """A sequence and how each of its input buffers is filled, in the order of their seeds."""

    sequence: SequenceSpec
    inputs: Mapping[str, Draw]


_FIELDS = {
    "input_length": "size",
    "aie_columns": "num_aie_columns",
    "channels": "num_channels",
    "dim": "d",
    "num_pipelines": "num_of_pipelines",
    "num_kv_heads": "num_KV_heads",
}
"""The report's names where they are not the operator's own."""


def sequence_of(operator: str, parameters: Mapping[str, Any], device: str, name: str) -> MatrixSequence:
    """The plan of one parameter set; ``name`` becomes the sequence's.

    Raises:
        UnknownOperatorError, UsageError: the catalogue has no such operator, or it cannot have these fields.
    """
    if operator in _COMPOSITES:
        return _COMPOSITES[operator](parameters, device, name)
    spec = refs.find(operator)
    fields = {_FIELDS.get(k, k): v for k, v in parameters.items()}
    if spec.type == "Softmax":  # rows of one tile, as IRON's test has them
        length = fields.pop("size")
        fields |= {"rows": length // fields["tile_size"], "cols": fields.pop("tile_size")}
    if spec.type == "RMSNorm" and fields["weighted"]:  # IRON's operator makes do with one channel, whatever it is given
        fields["num_channels"] = 1
    return _single(spec.type, fields, name)


def _single(op_type: str, fields: Mapping[str, Any], name: str) -> MatrixSequence:
    step = _operator(op_type, **fields)
    args = step.arg_specs()
    reads, writes = [a.name for a in args if a.reads], [a.name for a in args if a.writes]
    runlist = [(step, *(a.name for a in args))]
    inputs = {a.name: partial(contents, op_type, fields, a) for a in args if a.reads}
    return MatrixSequence(SequenceSpec(name, runlist, tuple(reads), tuple(writes), {}), inputs)


def _operator(op_type: str, **fields: Any) -> Any:
    """The software NPU's operator of this type; a field that it does not have is an error here, not ignored."""
    from fusion_replay.simulator.operators import operator_class

    made = operator_class(op_type)
    unknown = [k for k in fields if k not in {p.name for p in made.spec.params}]
    if unknown:
        raise UsageError(f"{op_type}: the report's parameter {', '.join(unknown)} is no field of the operator")
    return made(**fields)


def _gemm(p: Mapping[str, Any], device: str, name: str) -> MatrixSequence:
    """``partition_N`` products that share A, each on its part of B: N / partition_N columns, padded to the design's.

    IRON's test asks for accuracy: float32 until K is through, no bfp16.
    """
    parts = p["partition_N"]
    unit = p["n"] * p["num_aie_columns"]
    used = p["N"] // parts
    width = -(-used // unit) * unit
    step = _operator(
        "GEMM",
        M=p["M"],
        K=p["K"],
        N=width,
        tile_m=p["m"],
        tile_k=p["k"],
        tile_n=p["n"],
        num_aie_columns=p["num_aie_columns"],
        b_col_maj=p["b_col_maj"],
        c_col_maj=p["c_col_maj"],
        prio_accuracy=True,
        emulate_bf16_mmul_with_bfp16=False,
    )
    a, b, _ = step.arg_specs()
    numbers = [""] if parts == 1 else [f"_{i}" for i in range(parts)]
    inputs: dict[str, Draw] = {"A": partial(of_kind, normal, a)}
    inputs |= {f"B{i}": partial(_padded_b, b, used, p["b_col_maj"]) for i in numbers}
    runlist = [(step, "A", f"B{i}", f"C{i}") for i in numbers]
    return MatrixSequence(SequenceSpec(name, runlist, tuple(inputs), tuple(f"C{i}" for i in numbers), {}), inputs)


def _padded_b(b: ArgSpec, used: int, b_col_maj: bool, rng: np.random.Generator) -> npt.NDArray[Any]:
    values = of_kind(POSITIVE, b, rng)
    columns = values if b_col_maj else values.T
    columns[used:] = 0
    return values


def _swiglu(p: Mapping[str, Any], device: str, name: str) -> MatrixSequence:
    """down(silu(gate x) * (up x)): the runlist that the catalogue says the composite is, on all columns."""
    op_type = "SwiGLUPrefill" if "seq_len" in p else "SwiGLUDecode"
    spec = refs.find(op_type)
    assert spec.runlist is not None
    steps = spec.runlist(spec.bind({**p, "num_aie_columns": COLUMNS[device]}))
    runlist = [(_operator(kind, **fields), *names) for kind, fields, names in steps]
    shapes = {n: a for op, *names in runlist for n, a in zip(names, op.arg_specs(), strict=True)}
    inputs: dict[str, Draw] = {n: partial(of_kind, normal, shapes[n]) for n in ("input", "w_gate", "w_up", "w_down")}
    return MatrixSequence(SequenceSpec(name, runlist, ("input",), ("output",), {}), inputs)


_COMPOSITES: Mapping[str, Callable[[Mapping[str, Any], str, str], MatrixSequence]] = {
    "gemm": _gemm,
    "swiglu_decode": _swiglu,
    "swiglu_prefill": _swiglu,
}

__all__ = ["MatrixSequence", "sequence_of"]
