# SPDX-License-Identifier: Apache-2.0
"""What a kernel may have computed instead: each parameter of its spec flipped, operands and parts of them exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes import integers, products, rows
from fusion_replay.diverge.causes.formulas import ACTIVATIONS, BINARY
from fusion_replay.diverge.causes.kernel import PRODUCTS, UNARY, Kernel, Variant, swapped
from fusion_replay.diverge.causes.spans import F64
from fusion_replay.model.bf16 import BFLOAT16

NDArray = npt.NDArray[Any]
Change = Callable[[NDArray], NDArray]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "method_type": (0, 1),
    "epilogue": ("none", "gelu"),
    "alpha": (0.0, 0.01, 0.1, 0.2, 0.25, 1.0),
    "scalar_factor": (0.01, 1.0, 3.0),
    "num_KV_heads": (1, 2, 4, 8),
}
_FLOAT_BITS = (16, 12, 8, *(n for n in range(31, 0, -1) if n not in (16, 12, 8)))


def variants(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    """Hypotheses from the operator's spec, from one operator type's own, then from the history of its inputs.

    ``actual``: the output's values, to which numbers may be fitted.
    """
    yield from _flipped(kernel)
    yield from _truncated(kernel)
    yield from _own(kernel, actual)
    yield from _operands(kernel)
    yield from _stale(kernel)


# --- parameters -----------------------------------------------------------------------------------------------------


def _flipped(kernel: Kernel) -> Iterator[Variant]:
    bound = vars(kernel.bound_params)
    for param in kernel.spec.params:
        here = bound[param.name]
        if not param.decides:
            continue
        others = _CHOICES.get(param.name, (not here,) if isinstance(here, bool) else ())
        for other in others:
            if other != here:
                yield Variant(
                    _name_of(param.name), f"{param.name} {other!r} for {here!r}", 4, params={param.name: other}
                )
    if kernel.spec.type != "RMSNorm":
        for flavour in ("pr117",):
            if kernel.spec.flavour(flavour)[1] is not kernel.spec.flavour("exact")[1] and not kernel.spec.raw:
                yield Variant("parameter", f"as IRON's reference of {flavour} computes it", 6, flavour=flavour)


def _name_of(param: str) -> str:
    return {"b_col_maj": "transposed-operand", "epilogue": "activation", "alpha": "parameter"}.get(param, "parameter")


def _truncated(kernel: Kernel) -> Iterator[Variant]:
    """Floats keep the upper bits of their float32 pattern, runtime integers their lower ones, or are off by one."""
    for name, value in kernel.params.items():
        if isinstance(value, float) and hasattr(kernel.bound_params, name):
            seen = {value}
            for bits in _FLOAT_BITS:
                kept = _upper(value, bits)
                if kept not in seen and np.isfinite(kept):
                    seen.add(kept)
                    yield Variant(
                        "truncated-scalar",
                        f"{name} {value:g} lost all but {bits} bits: {kept:g}",
                        5,
                        params={name: kept},
                    )
    whole = {k: v for k, v in kernel.values.items() if isinstance(v, int) and not isinstance(v, bool)}
    for by in (-1, 1):
        for name, value in whole.items():
            yield Variant("mask", f"{name} {value + by} for {value}", 4, values={name: value + by})
    for name in kernel.spec.values:
        compiled = getattr(kernel.bound_params, f"rtp_{name}", None)
        if not isinstance(compiled, int) or whole:
            continue
        for by in (-1, 1):
            yield Variant("mask", f"{name} {compiled + by} for {compiled}", 4, params={f"rtp_{name}": compiled + by})
    known = set()
    for bits in (8, 16, *(n for n in range(31, 0, -1) if n not in (8, 16))):
        kept_values = {k: v & ((1 << bits) - 1) for k, v in whole.items()}
        if kept_values != whole and tuple(kept_values.values()) not in known:
            known.add(tuple(kept_values.values()))
            detail = ", ".join(f"{k} {whole[k]} -> {v}" for k, v in kept_values.items() if v != whole[k])
            yield Variant("truncated-scalar", f"{detail}: {bits} bits are left", 5, values=kept_values)


def _upper(value: float, bits: int) -> float:
    word = np.float32(value).view(np.uint32) & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    return float(word.view(np.float32))


# --- one operator's own ---------------------------------------------------------------------------------------------


def _own(kernel: Kernel, actual: F64) -> Iterator[Variant]:
    op = kernel.spec.type
    if op in UNARY:
        mine = kernel.exact()
        for what, function in ACTIVATIONS.items():
            same = kernel.exact(_formula(what, function))
            if mine is None or same is None or not np.allclose(mine[0], same[0], rtol=1e-9, atol=0, equal_nan=True):
                yield _formula(what, function)
    elif op in ("ElementwiseAdd", "ElementwiseMul"):
        mine_name = "A + B" if op == "ElementwiseAdd" else "A B"
        for what, both in BINARY.items():
            if what != mine_name:
                yield Variant("formula", f"{what} for {mine_name}", 4, formula=partial(_joined, both))
    elif op == "AXPY":
        yield Variant("formula", "the scalar multiplies the other operand", 4, inputs=swapped(kernel))
    elif op in PRODUCTS:
        yield from products.of_product(kernel)
        if kernel.inputs[0].dtype.kind == "i":
            yield from integers.of_whole_product(kernel)
    elif op in ("RMSNorm", "LayerNorm"):
        yield from rows.of_norm(kernel, actual)
    elif op == "Softmax":
        yield from rows.of_softmax(kernel, actual)
    elif op in _FAMILIES:
        yield from _FAMILIES[op](kernel)


_FAMILIES: dict[str, Callable[[Kernel], Iterator[Variant]]] = {
    "DualGEMVSiLUMul": products.of_gate,
    "GQAContext": products.of_groups,
    "MHA": products.of_attention,
    "RoPE": rows.of_rope,
    "Dequant": integers.of_dequant,
}


def _formula(what: str, function: Callable[[F64], F64]) -> Variant:
    return Variant("activation", f"{what} instead", 4, formula=lambda x: function(x[0].reshape(-1)))


def _joined(function: Callable[[F64, F64], F64], x: Sequence[F64]) -> F64:
    return function(x[0].reshape(-1), x[1].reshape(-1))


# --- operands -------------------------------------------------------------------------------------------------------


def _operands(kernel: Kernel) -> Iterator[Variant]:
    """Signs lost, operands negated or exchanged."""
    floats = [i for i, x in enumerate(kernel.inputs) if x.dtype == BFLOAT16 or x.dtype.kind == "f"]
    names = {i: s.name for i, s in enumerate(a for a in kernel.spec.arg_specs(kernel.params) if a.reads)}
    if kernel.spec.type in UNARY or kernel.spec.exact_bits:
        floats = []
    for i in floats:
        yield Variant("signs-lost", f"|{names[i]}| for {names[i]}", 4, inputs={i: np.abs})
    if len(floats) > 1:
        told = " and ".join(f"|{names[i]}|" for i in floats)
        yield Variant(
            "signs-lost", f"{told}: signs are lost before the operation", 4, inputs=dict.fromkeys(floats, np.abs)
        )
    if len(kernel.inputs) == 2 and kernel.inputs[0].size == kernel.inputs[1].size and kernel.spec.type != "AXPY":
        yield Variant("operand-order", "the operands exchanged", 5, inputs=swapped(kernel))


def _stale(kernel: Kernel) -> Iterator[Variant]:
    """One input, or all that the runlist fills, as they were some time before: whole, or in part."""
    together: dict[int, Change] = {}
    older: list[str] = []
    for i, versions in kernel.versions.items():
        name = _called(kernel, i)
        for number, version in enumerate(versions):
            old = version.read()
            yield Variant("stale-input", f"input {name} is {version.what}", 6, inputs={i: partial(_instead, old)})
            if number == 0:
                together[i] = partial(_instead, old)
                older.append(f"{name} is {version.what}")
                for parts, what in ((2, "half"), (8, "eighth")):
                    for part in range(parts) if old.size % parts == 0 else ():
                        detail = f"{what} {part} of input {name} is {version.what}"
                        yield Variant("stale-input", detail, 7, inputs={i: _partly(old, parts, part)})
    for i in range(len(kernel.inputs)):  # never transferred: https://github.com/amd/IRON/issues/181
        detail = f"input {_called(kernel, i)} is read as zeros"
        yield Variant("stale-input", detail, 6, inputs={i: np.zeros_like})
    if len(together) > 1:
        yield Variant("stale-input", f"inputs are older ones: {', '.join(older)}", 6, inputs=together)
    filled = [*kernel.versions] if len(kernel.versions) > 1 else range(len(kernel.inputs))
    if len(filled) > 1:
        which = "all inputs that the runlist fills" if len(kernel.versions) > 1 else "all inputs"
        yield Variant("stale-input", f"{which} are read as zeros", 6, inputs=dict.fromkeys(filled, np.zeros_like))


def _called(kernel: Kernel, i: int) -> str:
    return kernel.names[i] if i < len(kernel.names) else str(i)


def _instead(old: NDArray, _now: NDArray) -> NDArray:
    return old


def _partly(old: NDArray, parts: int, part: int) -> Change:
    def change(x: NDArray) -> NDArray:
        out, size = x.reshape(-1).copy(), x.size // parts
        out[part * size : (part + 1) * size] = old.reshape(-1)[part * size : (part + 1) * size]
        return out.reshape(x.shape)

    return change
