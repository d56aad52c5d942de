# SPDX-License-Identifier: Apache-2.0
"""An oracle file from an ONNX model: onnxruntime runs it with every intermediate value as an output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.model.text import one_line
from fusion_replay.oracle.file import OracleReport, OracleWriter
from fusion_replay.snapshot.target import IfExists

NDArray = npt.NDArray[Any]


def from_onnx(
    model: str | os.PathLike[str],
    inputs: Mapping[str, NDArray],
    path: str | os.PathLike[str],
    values: Sequence[str] = (),
    *,
    if_exists: IfExists = "error",
) -> OracleReport:
    """Run an ONNX model once on the CPU, unoptimised, and keep its inputs and every value that it computes.

    Args:
        model: an ``.onnx`` file; weights beside it are found.
        inputs: the model's inputs by name.
        path: the oracle file to write.
        values: globs of value names; all where left out.

    Raises:
        UsageError: no model, inputs that are not its own, globs that match nothing, operators that onnxruntime lacks.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise MissingDependencyError(
            "an oracle from ONNX needs onnx and onnxruntime: pip install 'fusion-replay[onnx]'"
        ) from None
    source = Path(model)
    if not source.is_file():
        raise UsageError(f"{source}: expected an ONNX model there, found {'a folder' if source.is_dir() else 'none'}")
    try:
        loaded = onnx.load(str(source))
    except Exception as error:  # protobuf's own
        raise UsageError(f"{source}: expected an ONNX model ({one_line(str(error))[:200]})") from None
    known = [name for node in loaded.graph.node for name in node.output if name]
    chosen = [name for name in known if not values or any(fnmatchcase(name, g) for g in values)]
    if not chosen:
        raise UsageError(f"{source}: no value matches {', '.join(values)}; it has {', '.join(known[:5])}, ...")
    given = {i.name for i in loaded.graph.input} - {t.name for t in loaded.graph.initializer}
    if given != set(inputs):
        raise UsageError(
            f"{source}: expected inputs {', '.join(sorted(given))}, found {', '.join(sorted(inputs)) or 'none'}"
        )
    with OracleWriter(path, if_exists=if_exists, made_by=f"onnxruntime {onnxruntime.__version__}") as out:
        for name, array in inputs.items():
            out.add(name, array)
        for name, array in zip(chosen, _run(onnxruntime, onnx, loaded, source, inputs, chosen), strict=True):
            if name not in inputs:
                out.add(name, array)
    assert out.report is not None
    return out.report


def _run(
    onnxruntime: Any, onnx: Any, loaded: Any, source: Path, inputs: Mapping[str, NDArray], chosen: Sequence[str]
) -> list[NDArray]:
    del loaded.graph.output[:]
    loaded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in chosen)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(v) for v in session.run(list(chosen), dict(inputs))]
    except Exception as error:  # onnxruntime has a class for each status
        raise UsageError(f"{source}: onnxruntime can't run it ({one_line(str(error))[:300]})") from None


def read_inputs(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    """Arrays by name out of an ``.npz`` file; no pickle.

    Raises:
        UsageError: no such file, or none that numpy reads without pickle.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: expected the model's inputs there (.npz), found none") from None
    except Exception as error:  # zipfile's, numpy's
        raise UsageError(f"{path}: expected arrays in an .npz file ({one_line(str(error))[:200]})") from None


__all__ = ["from_onnx", "read_inputs"]
