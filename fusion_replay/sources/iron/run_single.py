# SPDX-License-Identifier: Apache-2.0
"""Runs one operator of IRON on arrays: compiled, with tensors of mlir-aie's own default class, called once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, NotAttachableError, UsageError
from fusion_replay.model.arrays import as_array, numpy_dtype
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.sources.describe import arg_specs, describe_operator
from fusion_replay.sources.iron.watching.owner import Only, is_operator


def prepare(
    target: Any, inputs: Mapping[str, Any] | Sequence[Any], values: Mapping[str, int | float]
) -> Callable[[], Any]:
    """The call of ``target`` on these contents: an operator, or what makes one run (its function, its image).

    Args:
        inputs: by argument name, or in arg-spec order; an output's name gives its old contents, zeros otherwise.
        values: per-call scalars, by device symbol.

    Raises:
        UsageError: unknown names, a wrong number of inputs or of elements.
        MissingDependencyError: no mlir-aie here.
        NotAttachableError: the operator has no way to run alone.
    """
    operator = Only(target).operator
    specs = [spec for spec, _ in arg_specs(operator, describe_operator(operator))]
    contents = _by_name(type(operator).__name__, specs, inputs)
    try:
        tensor = importlib.import_module("aie.utils").tensor
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(
            f"check: {type(operator).__name__} runs through mlir-aie, whose aie.utils can't be used here ({error})"
        ) from error
    arguments = [tensor(_content(spec, contents.get(spec.name))) for spec in specs]
    return partial(_callable_of(target) if is_operator(target) else target, *arguments, **values)


def _by_name(kind: str, specs: Sequence[ArgSpec], inputs: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    reads = [spec.name for spec in specs if spec.reads]
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(reads):
            raise UsageError(f"check: {kind} expects {len(reads)} inputs ({', '.join(reads)}), found {len(inputs)}")
        return dict(zip(reads, inputs, strict=True))
    unknown = set(inputs) - {spec.name for spec in specs}
    missing = [name for name in reads if name not in inputs]
    if unknown or missing:
        found = ", ".join(map(str, inputs)) or "none"
        raise UsageError(f"check: {kind} expects the inputs {', '.join(reads)}, found {found}")
    return inputs


def _content(spec: ArgSpec, given: Any) -> npt.NDArray[Any]:
    dtype = numpy_dtype(spec.dtype)
    if given is None:
        return np.zeros(spec.shape, dtype)
    array = as_array(given, spec.name)
    if array.nbytes != spec.nbytes:
        raise UsageError(
            f"check: input {spec.name} has {array.nbytes} bytes ({array.shape} {array.dtype}), "
            f"expected {spec.nbytes} ({spec.shape} {spec.dtype})"
        )
    return np.ascontiguousarray(array).reshape(-1).view(dtype).reshape(spec.shape)


def _callable_of(operator: Any) -> Any:
    """amd/IRON ``iron/common/base.py`` until August 2026, ``iron/common/image/standalone.py`` since."""
    if hasattr(type(operator), "get_callable"):
        operator.compile()
        return operator.get_callable()
    try:
        image = importlib.import_module("iron.common.image.standalone").OperatorImage
    except (ImportError, AttributeError) as error:
        raise NotAttachableError(
            f"check: {type(operator).__name__} has no get_callable(), and this IRON has no OperatorImage ({error}); "
            "put it in an OperatorSequence(dispatch='separate') and give its get_callable()"
        ) from error
    return image(operator).compile()


__all__ = ["prepare"]
