# SPDX-License-Identifier: Apache-2.0
"""What a parameter set of IRON's CI means: operators with their fields, buffers, and how the inputs are drawn.

Source: amd/IRON ``iron/operators/*/test.py`` and ``reference.py``: how each test builds its operator, and the
distributions of the golden generators. Composite operators (SwiGLU, a GEMM in parts) are the runlists that IRON's own
``swiglu_decode/op.py``, ``swiglu_prefill/op.py`` and ``gemm/op.py`` dispatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay import operators
from fusion_replay.errors import UsageError
from fusion_replay.model import ArgSpec
from fusion_replay.workloads.base import COLUMNS, Plan
from fusion_replay.workloads.draws import POSITIVE, contents, normal, of_kind

Draw = Callable[[np.random.Generator], npt.NDArray[Any]]


@dataclass(frozen=True)
class MatrixPlan:
    """A sequence and how each of its input buffers is filled, in the order of their seeds."""

    sequence: Plan
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


def plan_of(operator: str, parameters: Mapping[str, Any], device: str, name: str) -> MatrixPlan:
    """The plan of one parameter set; ``name`` becomes the sequence's.

    Raises:
        UnknownOperatorError, UsageError: the catalogue has no such operator, or it cannot have these fields.
    """
    if operator in _COMPOSITES:
        return _COMPOSITES[operator](parameters, device, name)
    spec = operators.find(operator)
    fields = {_FIELDS.get(k, k): v for k, v in parameters.items()}
    if spec.type == "Softmax":  # rows of one tile, as IRON's test has them
        length = fields.pop("size")
        fields |= {"rows": length // fields["tile_size"], "cols": fields.pop("tile_size")}
    if spec.type == "RMSNorm" and fields["weighted"]:  # IRON's operator makes do with one channel, whatever it is given
        fields["num_channels"] = 1
    return _single(spec.type, fields, name)


def _single(op_type: str, fields: Mapping[str, Any], name: str) -> MatrixPlan:
    step = _operator(op_type, **fields)
    args = step.arg_specs()
    reads, writes = [a.name for a in args if a.reads], [a.name for a in args if a.writes]
    runlist = [(step, *(a.name for a in args))]
    inputs = {a.name: partial(contents, op_type, fields, a) for a in args if a.reads}
    return MatrixPlan(Plan(name, runlist, tuple(reads), tuple(writes), {}), inputs)


def _operator(op_type: str, **fields: Any) -> Any:
    """The software NPU's operator of this type; a field that it does not have is an error here, not ignored."""
    from fusion_replay.sources.simulator.operators import operator_class

    made = operator_class(op_type)
    unknown = [k for k in fields if k not in {p.name for p in made.spec.params}]
    if unknown:
        raise UsageError(f"{op_type}: the report's parameter {', '.join(unknown)} is no field of the operator")
    return made(**fields)


def _gemm(p: Mapping[str, Any], device: str, name: str) -> MatrixPlan:
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
    return MatrixPlan(Plan(name, runlist, tuple(inputs), tuple(f"C{i}" for i in numbers), {}), inputs)


def _padded_b(b: ArgSpec, used: int, b_col_maj: bool, rng: np.random.Generator) -> npt.NDArray[Any]:
    values = of_kind(POSITIVE, b, rng)
    columns = values if b_col_maj else values.T
    columns[used:] = 0
    return values


def _swiglu_decode(p: Mapping[str, Any], device: str, name: str) -> MatrixPlan:
    """down(silu(gate x) * (up x)) for one token."""
    emb, hidden, columns = p["embedding_dim"], p["hidden_dim"], COLUMNS[device]
    widen = _operator("GEMV", M=hidden, K=emb, num_aie_columns=columns, tile_size_input=4, tile_size_output=hidden // 8)
    narrow = _operator("GEMV", M=emb, K=hidden, num_aie_columns=columns, tile_size_input=1, tile_size_output=emb // 8)
    silu = _operator("SiLU", size=hidden, num_aie_columns=columns, tile_size=hidden // 16)
    multiply = _operator("ElementwiseMul", size=hidden, num_aie_columns=columns, tile_size=hidden // 8)
    runlist = [
        (widen, "weights_1", "input", "left"),
        (widen, "weights_2", "input", "right"),
        (silu, "left", "left_swished"),
        (multiply, "left_swished", "right", "intermediate"),
        (narrow, "weights_3", "intermediate", "output"),
    ]
    return _swiglu(name, runlist, weight=widen.arg_specs()[0], x=widen.arg_specs()[1], last=narrow.arg_specs()[0])


def _swiglu_prefill(p: Mapping[str, Any], device: str, name: str) -> MatrixPlan:
    """The same for a prompt, by matrix products."""
    rows, emb, hidden, columns = p["seq_len"], p["embedding_dim"], p["hidden_dim"], COLUMNS[device]
    accuracy = {"emulate_bf16_mmul_with_bfp16": False, "prio_accuracy": True} if p["prio_accuracy"] else {}
    widen = _operator("GEMM", M=rows, K=emb, N=hidden, num_aie_columns=columns, **accuracy)
    narrow = _operator("GEMM", M=rows, K=hidden, N=emb, num_aie_columns=columns, **accuracy)
    silu = _operator("SiLU", size=rows * hidden, num_aie_columns=columns, tile_size=hidden // 8)
    multiply = _operator("ElementwiseMul", size=rows * hidden, num_aie_columns=columns, tile_size=hidden // 8)
    runlist = [
        (widen, "input", "weights_1", "left"),
        (widen, "input", "weights_2", "right"),
        (silu, "left", "left_swished"),
        (multiply, "left_swished", "right", "intermediate"),
        (narrow, "intermediate", "weights_3", "output"),
    ]
    return _swiglu(name, runlist, x=widen.arg_specs()[0], weight=widen.arg_specs()[1], last=narrow.arg_specs()[1])


def _swiglu(name: str, runlist: list[tuple[Any, ...]], *, x: ArgSpec, weight: ArgSpec, last: ArgSpec) -> MatrixPlan:
    inputs: dict[str, Draw] = {
        "input": partial(of_kind, normal, x),
        "weights_1": partial(of_kind, normal, weight),
        "weights_2": partial(of_kind, normal, weight),
        "weights_3": partial(of_kind, normal, last),
    }
    return MatrixPlan(Plan(name, runlist, ("input",), ("output",), {}), inputs)


_COMPOSITES: Mapping[str, Callable[[Mapping[str, Any], str, str], MatrixPlan]] = {
    "gemm": _gemm,
    "swiglu_decode": _swiglu_decode,
    "swiglu_prefill": _swiglu_prefill,
}

__all__ = ["MatrixPlan", "plan_of"]
