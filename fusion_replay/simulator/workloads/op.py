# SPDX-License-Identifier: Apache-2.0
"""``op:NAME``: one operator on the software NPU, a sequence of one step, on seeded inputs (:mod:`.draws`).

A composite (SwiGLU) is the runlist of its steps, as IRON dispatches it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusion_replay import refs
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import OperatorSpec, Param
from fusion_replay.simulator.workloads.base import COLUMNS, Run, Workload, WorkloadOption
from fusion_replay.simulator.workloads.draws import SEED, contents

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ElementwiseAdd": {"size": 4096},
    "ElementwiseMul": {"size": 4096},
    "GELU": {"size": 4096},
    "ReLU": {"size": 4096},
    "SiLU": {"size": 4096},
    "Sigmoid": {"size": 4096},
    "Tanh": {"size": 4096},
    "LeakyReLU": {"size": 4096},
    "Clamp": {"size": 4096, "low": -0.75, "high": 1.25},
    "AXPY": {"size": 4096, "scalar_factor": 1.7},
    "MemCopy": {"size": 4096, "num_cores": 4, "tile_size": 512},
    "Dequant": {"size": 4096, "tile_size": 1024},
    "LayerNorm": {"size": 4096, "tile_size": 1024},
    "RMSNorm": {"size": 4096, "tile_size": 1024},
    "GEMM": {"M": 256, "K": 256, "N": 512},
    "GEMV": {"M": 512, "K": 512},
    "DualGEMVSiLUMul": {"M": 256, "K": 256},
    "SiLUMul": {"size": 4096},
    "Pointwise": {"size": 4096, "tile_size": 512, "mode": "mul"},
    "WeightedRMSNorm": {"rows": 4, "tile_size": 1024},
    "FusedQKVProj": {"embedding_dim": 256, "q_dim": 256, "k_dim": 64, "v_dim": 64},
    "FusedDequantGEMV": {"M": 256, "K": 256},
    "SwiGLUFusedDecode": {"embedding_dim": 256, "hidden_dim": 512},
    "FlowKVDecode": {"num_heads": 8, "num_kv_heads": 4, "head_dim": 64, "seq_len": 128},
    "DepthwiseConv1d": {"rows": 64, "channels": 64},
    "MHA": {"num_heads": 4, "num_KV_heads": 2, "seq_len": 128},
    "GQAContext": {"groups": 4, "heads_per_group": 4, "seq_len": 256},
    "Sample": {"vocab": 4096, "steps": 2},
    "Emit": {"slots": 32, "carried": 2},
    "SwiGLUDecode": {"embedding_dim": 256, "hidden_dim": 512},
    "SwiGLUPrefill": {"embedding_dim": 512, "hidden_dim": 512, "seq_len": 256},
    "Softmax": {"rows": 16, "cols": 256},
    "RoPE": {"rows": 32, "cols": 64, "angle_rows": 8},
    "Repeat": {"rows": 8, "cols": 64, "repeat": 4},
    "Transpose": {"M": 256, "N": 64},
    "StridedCopy": {
        "input_sizes": (8, 64),
        "input_strides": (64, 1),
        "input_offset": 0,
        "output_sizes": (1, 8, 64),
        "output_strides": (0, 1024, 1),
        "output_offset": 64,
        "input_buffer_size": 512,
        "output_buffer_size": 8192,
    },
    "Copy": {
        "input_buffer_size": 512,
        "output_buffer_size": 8192,
        "dst": {"offset": 64, "sizes": (8, 64), "strides": (1024, 1)},
    },
}
"""Small parameters that both devices build, used where none are given. Given ones take precedence one by one."""


class OperatorRun(Run):
    """``invocations`` calls of one operator, each on inputs of its own."""

    def __init__(
        self, callable_: Any, spec: OperatorSpec, params: Mapping[str, Any], *, seed: int = SEED, invocations: int = 1
    ):
        self.callable = callable_
        self.invocations = invocations
        self._spec, self._params, self._args, self._seed = spec, params, spec.arg_specs(params), seed
        self._results: dict[str, Any] = {}
        for position, arg in enumerate(self._args):
            if arg.writes and not arg.reads and spec.partial:  # old contents that show where nothing was written
                self._write(position, arg, 0)

    def prepare(self, i: int) -> None:
        for position, arg in enumerate(self._args):
            if arg.reads:
                self._write(position, arg, i)

    def finish(self, i: int) -> None:
        for arg in self._args:
            if arg.writes:
                self._results[arg.name] = {
                    "shape": list(arg.shape),
                    "dtype": arg.dtype,
                    "mean_abs": self._mean_abs(arg),
                }

    def describe(self) -> str:
        device, first = self.callable.op.device, self.callable.op.runlist[0][0]
        name = self._spec.type if _is_composite(self._spec) else first.name
        shapes = [f"{a.name} {a.shape}" for a in self._args if a.reads]
        outputs = [f"{a.name} {a.shape}" for a in self._args if a.writes]
        calls = "1 call" if self.invocations == 1 else f"{self.invocations} calls"
        return f"{name} on {device}: {', '.join(shapes)} -> {', '.join(outputs)}, {calls}"

    def result(self) -> dict[str, Any]:
        return {"operator": self._spec.type, **self._results}

    def _write(self, position: int, arg: ArgSpec, i: int) -> None:
        rng = np.random.default_rng([self._seed, i, position])
        values = contents(self._spec.type, self._params, arg, rng)
        buffer = self.callable.get_buffer(arg.name)
        with buffer.mutate() as held:
            held.reshape(-1).view(np.uint8)[: arg.nbytes] = values.reshape(-1).view(np.uint8)
        buffer.to("npu")

    def _mean_abs(self, arg: ArgSpec) -> float | None:
        if arg.dtype != "bfloat16":
            return None
        held = self.callable.get_buffer(arg.name).numpy().reshape(-1)[: arg.size]
        with np.errstate(invalid="ignore"):  # NaN, from a fault
            mean = float(np.abs(held.astype(np.float64)).mean()) if arg.size else 0.0
        return mean if np.isfinite(mean) else None


def workload(name: str) -> Workload:
    """The workload of one operator, by IRON's class name or an alias, in any case.

    Raises:
        UnknownOperatorError: the catalogue, or the software NPU, has no such operator.
    """
    from fusion_replay.simulator.kernels import find_kernel

    spec = refs.meant(name)
    if not _is_composite(spec):
        find_kernel(spec.type)
    known = ", ".join(p.name for p in spec.params)
    given = ", ".join(f"{k}={_spelled(v)}" for k, v in DEFAULTS.get(spec.type, {}).items()) or "none"
    options = [
        WorkloadOption("param", str, None, f"K=V, a field of the operator ({known}); defaults: {given}", repeat=True),
        WorkloadOption("seed", int, SEED, "of the inputs", minimum=0),
        WorkloadOption("calls", int, 1, "how often it is called, each time on new inputs", minimum=1),
    ]
    if spec.values:
        roles = ", ".join(spec.values)
        options.append(WorkloadOption("value", str, None, f"K=V, a runtime value of each call ({roles})", repeat=True))
    return Workload(
        name=f"op:{spec.type}",
        summary=spec.summary or f"one {spec.type}",
        options=tuple(options),
        builder=lambda device, faults, o: _build(spec, device, faults, o),
    )


def _build(spec: OperatorSpec, device: str, faults: Sequence[Any], options: SimpleNamespace) -> OperatorRun:
    from fusion_replay.simulator import simulate
    from fusion_replay.simulator.operators import operator_class

    columns = {"num_aie_columns": COLUMNS[device]} if _wants_all_columns(spec) else {}
    given = _assignments(spec, options.param)
    values = _values(spec, getattr(options, "value", ()))
    symbols = {f"{role}_parameter": role for role in values if f"{role}_parameter" not in given}
    params = {**columns, **DEFAULTS.get(spec.type, {}), **given, **symbols}
    args = spec.arg_specs(params)
    runlist: list[tuple[Any, ...]] = [(operator_class(spec.type)(**params), *(a.name for a in args))]
    if spec.runlist is not None and _is_composite(spec):
        runlist = [(operator_class(kind)(**fields), *names) for kind, fields, names in spec.runlist(spec.bind(params))]
    reads, writes = [a.name for a in args if a.reads], [a.name for a in args if a.writes]
    callable_ = simulate(runlist, device, faults, name=f"op_{spec.type}", input_args=reads, output_args=writes)
    if values:
        callable_.write_values({params[f"{role}_parameter"]: value for role, value in values.items()})
    return OperatorRun(callable_, spec, params, seed=options.seed, invocations=options.calls)


def _is_composite(spec: OperatorSpec) -> bool:
    """Whether it is a chain of other operators and nothing else: no device design has its name."""
    from fusion_replay.simulator.kernels import has_kernel

    return spec.runlist is not None and not has_kernel(spec.type)


def _wants_all_columns(spec: OperatorSpec) -> bool:
    """IRON's own default of 8 columns is for npu2; npu1 has half as many."""
    return any(p.name == "num_aie_columns" and p.default == max(COLUMNS.values()) for p in spec.params)


def _values(spec: OperatorSpec, texts: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        role, value = _split(spec, "value", text, spec.values)
        try:
            found[role] = int(value)
        except ValueError:
            raise UsageError(f"op:{spec.type}: value {text!r}: expected {role}=COUNT") from None
    return found


def _assignments(spec: OperatorSpec, texts: Sequence[str]) -> dict[str, Any]:
    params = {p.name: p for p in spec.params}
    found = {}
    for text in texts:
        name, value = _split(spec, "param", text, tuple(params))
        found[name] = _parsed(spec, params[name], value)
    return found


def _split(spec: OperatorSpec, what: str, text: str, known: Sequence[str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise UsageError(f"op:{spec.type}: {what} {text!r}: expected K=V with K one of {', '.join(known)}")
    return name, value


def _parsed(spec: OperatorSpec, param: Param, text: str) -> Any:
    """``text`` as the parameter's type; lists as ``8x64`` or ``8,64`` or JSON, ``none`` where it may be left out."""
    if text.lower() in ("none", "null") and param.default is None:
        return None
    try:
        if param.type is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if param.type is tuple:
            return tuple(int(n) for n in text.strip("[]()").replace("x", ",").split(","))
        if param.type is object:
            return text if not text.startswith(("{", "[")) else json.loads(text)
        return param.type(text)
    except (KeyError, ValueError):
        raise UsageError(
            f"op:{spec.type}: param {param.name}={text!r}: expected {param.type.__name__}"
            + (" such as 8x64" if param.type is tuple else "")
        ) from None


def _spelled(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


__all__ = ["OperatorRun", "workload"]
