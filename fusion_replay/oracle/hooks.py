# SPDX-License-Identifier: Apache-2.0
"""``fr.oracle(module, inputs, path)``: what the modules of a torch model were given and gave, into an oracle file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.model.arrays import need_torch
from fusion_replay.oracle import file
from fusion_replay.oracle.file import Kind, OracleReport, OracleWriter
from fusion_replay.snapshot.target import IfExists


class _Oracle:
    """``fr.oracle(...)`` and ``fr.oracle.write(...)``."""

    write = staticmethod(file.write)

    def __call__(
        self,
        module: Any,
        inputs: Any,
        path: str | os.PathLike[str],
        modules: str | Sequence[str] | None = None,
        *,
        if_exists: IfExists = "error",
    ) -> OracleReport:
        """Run a ``torch.nn.Module`` once and keep inputs and outputs of its modules; the model is left as it was.

        Args:
            module: the model, in evaluation mode where it has dropout.
            inputs: what it is called with: a tensor, a tuple of positional arguments, or a mapping of keyword ones.
            path: the oracle file to write, ``.safetensors``.
            modules: globs of module paths (``"encoder.layer.*"``); all modules where left out.
            if_exists: "error", "replace" or "number".

        Raises:
            UsageError: no module, training mode with dropout, globs that match nothing, a model that raises.
            TargetExistsError: the file exists.
            MissingDependencyError: torch is not installed.
        """
        torch = need_torch()
        if not isinstance(module, torch.nn.Module):
            raise UsageError(f"oracle: expected a torch.nn.Module, found {type(module).__name__}")
        chosen = _chosen(module, modules)
        _refuse_dropout(module)
        args, kwargs = _arguments(inputs)
        made_by = f"torch {torch.__version__} {type(module).__name__}"
        with OracleWriter(path, if_exists=if_exists, made_by=made_by) as out, torch.no_grad():
            handles = _hook(chosen, out)
            try:
                module(*args, **kwargs)
            except UsageError:
                raise
            except Exception as error:
                raise UsageError(f"oracle: the model raised {type(error).__name__}: {error}") from error
            finally:
                for handle in handles:
                    handle.remove()
        assert out.report is not None
        return out.report


oracle = _Oracle()


def _chosen(module: Any, globs: str | Sequence[str] | None) -> list[tuple[str, Any]]:
    every = list(module.named_modules())
    if globs is None:
        return every
    wanted = [globs] if isinstance(globs, str) else list(globs)
    lost = [g for g in wanted if not any(fnmatchcase(name, g) for name, _ in every)]
    if lost or not wanted:
        some = ", ".join(name for name, _ in every[1:6])
        raise UsageError(f"oracle: no module matches {', '.join(lost) or 'nothing'}; the model has {some}, ...")
    return [(name, part) for name, part in every if any(fnmatchcase(name, g) for g in wanted)]


def _refuse_dropout(module: Any) -> None:
    for name, part in module.named_modules():
        if part.training and "Dropout" in type(part).__name__ and getattr(part, "p", 0):
            raise UsageError(f"oracle: {name} drops values while the model is in training mode; call .eval() first")


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {str(k): v for k, v in inputs.items()}
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}


def _hook(chosen: Sequence[tuple[str, Any]], out: OracleWriter) -> list[Any]:
    """Contents are kept at once: a module may write over its inputs afterwards."""
    calls: defaultdict[str, int] = defaultdict(int)

    def keep(name: str, kind: Kind, call: int, value: Any) -> None:
        side = f"{name or 'model'}{':in' if kind == 'input' else ''}"
        again = f"@{call}" if call else ""
        for member, tensor in _tensors(value):
            out.add(f"{side}{member}{again}", tensor, module=name, kind=kind, call=call)

    handles = []
    for name, part in chosen:

        def before(_part: Any, args: Any, kwargs: Any, name: str = name) -> None:
            given = (*args, *kwargs.values())
            keep(name, "input", calls[name], given[0] if len(given) == 1 else given)

        def after(_part: Any, _args: Any, result: Any, name: str = name) -> None:
            calls[name] += 1
            keep(name, "output", calls[name] - 1, result)

        handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(part.register_forward_hook(after))
    return handles


def _tensors(value: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor in tuples, lists, mappings and dataclass-like outputs, with its place: ``""``, ``[1]``, ``[k][0]``.

    The only tensor of a tuple needs no number.
    """
    import torch

    if isinstance(value, torch.Tensor):
        yield "", value
        return
    if isinstance(value, Mapping):
        members = list(value.items())
    elif isinstance(value, (tuple, list)):
        members = list(enumerate(value))
    else:
        return
    found = [(key, inner, tensor) for key, member in members for inner, tensor in _tensors(member)]
    for key, inner, tensor in found:
        yield ("" if len(found) == 1 else f"[{key}]{inner}"), tensor


__all__ = ["oracle"]
