# SPDX-License-Identifier: Apache-2.0
"""One step's operator, executed again: on other inputs, with other parameters, in another arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.numerics.evaluator import bound
from fusion_replay.compare.numerics.stages import DEVICES, Model
from fusion_replay.diverge.causes.case import Version
from fusion_replay.diverge.causes.spans import F64, NEAREST, ROUNDINGS, Index, Mask, Span, stored
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.bf16 import BFLOAT16, wide
from fusion_replay.operators import Call, OperatorSpec
from fusion_replay.operators.spec import runtime_values

NDArray = npt.NDArray[Any]

PRODUCTS = ("GEMM", "GEMV")
UNARY = ("GELU", "SiLU", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "Clamp")
_CELLS = 24  # rows and columns of a product that a hypothesis is tried on first
_WORK = 1 << 27  # multiplications from which on the whole of it is executed exactly, rounded once, and no other way
_LARGE = 1 << 21  # multiplications from which on a product is tried on some rows and columns first
_REFUSED = (FusionReplayError, ArithmeticError, ValueError, IndexError, TypeError)


@dataclass(frozen=True)
class Variant:
    """The operator under one hypothesis.

    Attributes:
        name, detail, rank, cost: as :class:`~.case.Hypothesis` has them.
        inputs: input number -> what it would be.
        params, values: those that would be others.
        constants: numbers of the kernel that are no parameters.
        after: what would be done to the exact result.
        formula: the whole of it, where no parameter says it: the kernel's inputs as float64 -> the exact result.
        model: the device on which alone it is executed.
        apart: bits of evidence that one element is worth at most.
    """

    name: str
    detail: str
    rank: int = 5
    inputs: Mapping[int, Callable[[NDArray], NDArray]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[F64], F64] | None = None
    formula: Callable[[Sequence[F64]], F64] | None = None
    flavour: str = "exact"
    model: Model | None = None
    cost: float = 0.0
    apart: float = 4.0


AS_IT_IS = Variant("", "")


@dataclass(frozen=True)
class Kernel:
    """Operator, parameters and recorded inputs of one step.

    Attributes:
        inputs: in arg-spec order and shapes.
        names: of their buffers.
        versions: input number -> its earlier contents; only of buffers that the runlist itself fills.
        number: of the output.
        previous: old contents of outputs that keep some.
        device: "npu1", "npu2", None where it is not known.
        crop: rows and columns of a product to which it is limited.
    """

    spec: OperatorSpec
    params: Mapping[str, Any]
    inputs: tuple[NDArray, ...]
    values: Mapping[str, int | float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    versions: Mapping[int, tuple[Version, ...]] = field(default_factory=dict)
    number: int = 0
    previous: tuple[NDArray, ...] = ()
    device: str | None = None
    crop: tuple[Index, Index] | None = None

    @cached_property
    def bound_params(self) -> SimpleNamespace:
        return self.spec.bind(self.params)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """The devices and modes that an honest step may have run on."""
        numerics = self.spec.numerics
        if numerics is None or self.number or self.device not in (None, *DEVICES):
            return ()
        try:
            return numerics.models(self.bound_params, self.device)
        except FusionReplayError:
            return ()

    def honest(self, dtype: np.dtype[Any]) -> list[tuple[str, Span]]:
        """What the step gives in each arithmetic that it may have run in."""
        return self._honest.setdefault(str(dtype), [*self.spans(AS_IT_IS, dtype)])

    @cached_property
    def _honest(self) -> dict[str, list[tuple[str, Span]]]:
        return {}

    def spans(
        self, variant: Variant, dtype: np.dtype[Any], models: Sequence[Model] | None = None
    ) -> list[tuple[str, Span]]:
        """(arithmetic, what it gives) under ``variant``: exact and rounded once, and each device model."""
        found: list[tuple[str, Span]] = []
        if variant.model is not None:
            span = self.on_device(variant, variant.model)
            return [] if span is None else [(str(variant.model), span)]
        exact = self.exact(variant)
        roundings = ROUNDINGS if dtype == BFLOAT16 else (NEAREST,)
        if exact is not None:
            found += [(f"rounded {how}", stored(*exact, dtype, how)) for how in roundings]
        if variant.after is None and variant.formula is None and variant.flavour == "exact":
            for model in self.models if models is None else models:
                span = self.on_device(variant, model)
                if span is not None:
                    found.append((str(model), span))
        return found

    def exact(self, variant: Variant = AS_IT_IS) -> tuple[F64, F64 | float] | None:
        """(the result before it is rounded to its dtype, how far float32 arithmetic may be off it); None where the
        operator refuses."""
        return self._as_it_is if variant is AS_IT_IS else self._exact(variant)

    @cached_property
    def _as_it_is(self) -> tuple[F64, F64 | float] | None:
        return self._exact(AS_IT_IS)

    def about(self, variant: Variant) -> tuple[F64, F64 | float] | None:
        """:meth:`exact`, where for a product the slack of the step as it is serves: half the work."""
        mine = self.exact()
        if self.spec.type not in PRODUCTS or mine is None:
            return self.exact(variant)
        return self._exact(variant, mine[1])

    def _exact(self, variant: Variant, slack: F64 | float | None = None) -> tuple[F64, F64 | float] | None:
        try:
            with np.errstate(all="ignore"):
                given = self._given(variant)
                if variant.formula is not None:
                    value = variant.formula([np.asarray(wide(x), np.float64) for x in given])
                    rounds = False
                else:
                    value, rounds = self._meaning(variant, given)
                value = np.ascontiguousarray(value, np.float64).reshape(-1)
                if variant.after is not None:
                    value = np.ascontiguousarray(variant.after(value)).reshape(-1)
                return value, self._slack(variant, given, value, rounds) if slack is None else slack
        except _REFUSED:
            return None

    def on_device(self, variant: Variant, model: Model) -> Span | None:
        """What this device gives; only the order of float32 sums is free."""
        numerics = self.spec.numerics
        if numerics is None or self.number or self.previous:
            return None
        try:
            params = self._bound(self._params(variant), variant)
            values = runtime_values(self.spec, params, {**self.values, **variant.values})
            found = bound(numerics, params, self._given(variant), values, [model], "M", flushes=False)
        except _REFUSED:
            return None
        return Span(found.lo.astype(np.float64), found.hi.astype(np.float64))

    def span(self, variant: Variant, label: str, dtype: np.dtype[Any]) -> Span | None:
        """One of :meth:`spans`, by its name."""
        model = variant.model or next((m for m in self.models if str(m) == label), None)
        if model is not None:
            return self.on_device(variant, model)
        exact = self.exact(variant)
        how = next((h for h in ROUNDINGS if label == f"rounded {h}"), None)
        return None if exact is None or how is None else stored(*exact, dtype, how)

    @property
    def work(self) -> int:
        """Multiplications of a product; 0 of anything else."""
        if self.spec.type not in PRODUCTS:
            return 0
        return self.inputs[0].size * (self.bound_params.N if self.spec.type == "GEMM" else 1)

    @property
    def large(self) -> bool:
        """Too large to be executed whole in each arithmetic."""
        return self.work > _WORK

    def some(self, wrong: Mask) -> tuple[Kernel, Index] | None:
        """The kernel on some rows and columns of a large product, wrong ones first, and which elements those are."""
        p = self.bound_params
        if self.work < _LARGE:
            return None
        if self.spec.type == "GEMV":
            if p.num_batches != 1 or p.M <= 8 * _CELLS:
                return None
            rows = _spread(wrong, 8 * _CELLS)
            return replace(self, crop=(rows, rows[:0])), rows
        struck: Mask = wrong.reshape(p.N, p.M).T if p.c_col_maj else wrong.reshape(p.M, p.N)
        rows, columns = _spread(np.any(struck, axis=1), _CELLS), _spread(np.any(struck, axis=0), _CELLS)
        if p.c_col_maj:
            return replace(self, crop=(rows, columns)), (columns[:, None] * p.M + rows[None, :]).reshape(-1)
        return replace(self, crop=(rows, columns)), (rows[:, None] * p.N + columns[None, :]).reshape(-1)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _given(self, variant: Variant) -> list[NDArray]:
        shapes = [s.shape for s in self.spec.arg_specs({**self.params, **variant.params}) if s.reads]
        found = []
        for i, array in enumerate(self.inputs):
            changed = variant.inputs[i](array) if i in variant.inputs else array
            if i < len(shapes) and variant.formula is None:
                changed = np.ascontiguousarray(changed).reshape(shapes[i])
            found.append(changed)
        if self.crop is None:
            return found if variant.formula is not None else found[: len(shapes)]
        p = self.spec.bind({**self.params, **variant.params})
        rows, columns = self.crop
        a, b = found[0].reshape(-1, p.K)[rows], found[1]
        if self.spec.type == "GEMM":
            b = b.reshape(p.N, p.K)[columns] if p.b_col_maj else b.reshape(p.K, p.N)[:, columns]
        return [np.ascontiguousarray(a), np.ascontiguousarray(b)]

    def _params(self, variant: Variant) -> dict[str, Any]:
        if self.crop is None:
            return {**self.params, **variant.params}
        sizes = {"M": self.crop[0].size} | ({"N": self.crop[1].size} if self.spec.type == "GEMM" else {})
        return {**self.params, **variant.params, **sizes}

    def _bound(self, params: Mapping[str, Any], variant: Variant) -> SimpleNamespace:
        return SimpleNamespace(**{**vars(self.spec.bind(params)), **variant.constants})

    def _meaning(self, variant: Variant, given: Sequence[NDArray]) -> tuple[F64, bool]:
        """The result of output ``number``, and whether the reference rounded it already."""
        params = self._params(variant)
        if self.spec.type == "GEMM" and str(self.bound_params.dtype_out) in ("bf16", "bfloat16"):
            params["dtype_out"] = "f32"
        p = self._bound(params, variant)
        if self.spec.type == "GEMV" and p.epilogue == "none":
            a = wide(given[0].reshape(-1, p.M, p.K))
            b = wide(given[1].reshape(-1, p.K))
            return np.stack([a[i // p.repeat] @ b[i] for i in range(p.num_batches)]), False
        call = Call(p, np, self.previous, runtime_values(self.spec, p, {**self.values, **variant.values}), lambda x: x)
        _, function = self.spec.flavour(variant.flavour)
        result = function(call, *(given if self.spec.raw else [wide(x) for x in given]))
        one = (result if isinstance(result, tuple) else (result,))[self.number]
        return np.asarray(wide(one), np.float64), one.dtype == BFLOAT16

    def _slack(self, variant: Variant, given: Sequence[NDArray], value: F64, rounds: bool) -> F64 | float:
        size = np.abs(value)
        if rounds and not self.spec.exact_bits:
            return size * (2.0**-8 if self.spec.raw else 0.0)
        if self.spec.exact_bits:
            return 0.0
        if self.spec.type in PRODUCTS and variant.formula is None and variant.after is None:
            plain = replace(variant, params={**variant.params, "epilogue": "none"})
            whole = self._meaning(plain, [np.abs(x) for x in given])[0]
            return size * 2.0**-21 + 2.0**-21 * np.asarray(whole).reshape(-1)
        if given and given[0].size == value.size:
            reach = np.abs(np.asarray(wide(given[0]), np.float64)).reshape(-1)
            return size * 2.0**-21 + np.where(value == 0, 0.0, 2.0**-23 * reach)  # what is cut to 0 is 0
        return size * 2.0**-20


def swapped(kernel: Kernel) -> Mapping[int, Callable[[NDArray], NDArray]]:
    """The first two operands in each other's place."""
    a, b = kernel.inputs[:2]
    return {0: lambda _: b, 1: lambda _: a}


def _spread(wrong: Mask, count: int) -> Index:
    """``count`` places, three in four of them wrong where there are so many, the same each time."""
    size = wrong.size
    if size <= count:
        return np.arange(size)
    draw = np.random.default_rng(size)
    bad = np.flatnonzero(wrong)
    bad = bad if bad.size <= 3 * count // 4 else draw.choice(bad, 3 * count // 4, replace=False)
    rest = draw.permutation(size)[: count - bad.size]
    return np.unique(np.concatenate([bad, rest]))


__all__ = ["AS_IT_IS", "PRODUCTS", "UNARY", "Kernel", "Variant", "swapped"]
