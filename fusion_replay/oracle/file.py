# SPDX-License-Identifier: Apache-2.0
"""Oracle files: tensors of a framework model in a safetensors file, with a JSON map that says what each of them is.

Equal contents are stored once. Arrays go to a file beside the target while the model runs, and the file gets its name
when all of them are there, so memory holds one array at a time. A safetensors file without the map is an oracle too:
its names are all that is known then.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import xxhash

from fusion_replay.errors import MissingDependencyError, TargetExistsError, UsageError
from fusion_replay.model import safetensors_head, serialise
from fusion_replay.model.arrays import as_array, flat_bytes
from fusion_replay.model.text import one_line
from fusion_replay.snapshot.target import IfExists, publish
from fusion_replay.system.messages import count, human_bytes

FORMAT = "fusion-replay.oracle/1"
_MAP = "fusion_replay_oracle"  # the key in the file's __metadata__

Kind = Literal["output", "input", "value"]
NDArray = npt.NDArray[Any]

_FLOATS = {"BF16", "F16", "F32", "F64"}
_EXTRA = "needs the package safetensors: pip install 'fusion-replay[oracle]'"


@dataclass(frozen=True, slots=True)
class OracleTensor:
    """One tensor of the model.

    Attributes:
        name: unique in the file: the module's path, ``:in`` for what it was given, ``[1]`` for a member of a tuple,
            ``@1`` for its second call.
        key: under which the file holds the contents; tensors with equal ones share it.
        module: path in the model, "" for the model itself or where there is none.
        kind: "output" or "input" of a module, or a "value" that somebody gave a name.
        call: how often the module was called before.
        shape, dtype: as the model had it; dtype as safetensors names it ("F32").
    """

    name: str
    key: str
    module: str = ""
    kind: Kind = "value"
    call: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS


@dataclass(frozen=True, slots=True)
class OracleReport:
    """What was written: tensors by name, distinct contents, bytes of them, and what could not be kept."""

    path: Path
    tensors: int
    contents: int
    nbytes: int
    left_out: tuple[str, ...] = ()

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        lost = f"; left out: {', '.join(map(one_line, self.left_out))}" if self.left_out else ""
        return f"{self.path}: {count(self.tensors, 'tensor')}, {human_bytes(self.nbytes)} of contents{lost}"


class OracleWriter:
    """Context manager that writes an oracle file; :meth:`add` in the order in which the model computes.

    Raises:
        TargetExistsError: the file exists, and ``if_exists`` is "error".
        UsageError: no folder to write into.
    """

    def __init__(self, path: str | os.PathLike[str], *, if_exists: IfExists = "error", made_by: str = "") -> None:
        self.path = Path(path)
        self._if_exists: IfExists = if_exists
        self._made_by = made_by
        self._tensors: list[OracleTensor] = []
        self._stored: dict[str, tuple[str, str, tuple[int, ...]]] = {}  # digest -> key, dtype, shape
        self._names: set[str] = set()
        self._left_out: list[str] = []
        self._nbytes = 0
        self.report: OracleReport | None = None

    def __enter__(self) -> Self:
        if not self.path.parent.is_dir():
            raise UsageError(f"{self.path}: can't be written: the folder {self.path.parent} does not exist")
        if self._if_exists == "error" and os.path.lexists(self.path):
            raise TargetExistsError(f"{self.path}: exists already; choose another name, or if_exists='replace'")
        self._spool = tempfile.TemporaryFile(dir=self.path.parent)
        return self

    def add(self, name: str, array: Any, *, module: str = "", kind: Kind = "value", call: int = 0) -> None:
        """Keep one tensor (numpy, torch, or anything numpy can read) under a name that is still free.

        What a file can't hold (complex numbers, texts) is left out, and the report says so.
        """
        if name in self._names:
            raise UsageError(f"{self.path}: tensor {name!r} was given twice; each needs a name of its own")
        self._names.add(name)
        try:
            kept = as_array(array, name)
        except UsageError:
            self._left_out.append(name)
            return
        if kept.dtype.name not in safetensors_head.DTYPES:
            self._left_out.append(name)
            return
        raw = flat_bytes(kept)
        digest = f"{kept.dtype.name} {kept.shape} {xxhash.xxh3_128_hexdigest(raw.data)}"
        if digest not in self._stored:
            self._stored[digest] = name, kept.dtype.name, kept.shape
            self._spool.write(raw.data)
            self._nbytes += raw.nbytes
        self._tensors.append(OracleTensor(name, self._stored[digest][0], module, kind, call))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._spool as spool:
            if error is None:
                self._publish(spool)

    def _publish(self, spool: Any) -> None:
        described = {
            "format": FORMAT,
            "made_by": self._made_by,
            "tensors": [serialise.pick(t, "name", "key", "module", "kind", "call") for t in self._tensors],
        }
        begin = safetensors_head.head(self._stored.values(), {_MAP: json.dumps(described)})
        handle, part = tempfile.mkstemp(dir=self.path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(begin)
                spool.seek(0)
                shutil.copyfileobj(spool, file, 1 << 20)
            os.chmod(part, 0o666 & ~_umask())
            self.path = publish(Path(part), self.path, self._if_exists)
        except OSError as error:
            if isinstance(error, UsageError) or error.errno is None:
                raise
            raise UsageError(f"{self.path}: can't be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(part)
        self.report = OracleReport(
            self.path, len(self._tensors), len(self._stored), self._nbytes, tuple(self._left_out)
        )


class Oracle:
    """An open oracle file; made by :func:`open_oracle`.

    Attributes:
        tensors: all of them, in the order in which the model computed them.
        made_by: the framework and its version, where the file says.
    """

    def __init__(self, path: Path, handle: Any, tensors: tuple[OracleTensor, ...], made_by: str) -> None:
        self.path = path
        self.tensors = tensors
        self.made_by = made_by
        self._handle = handle
        self._by_name = {t.name: t for t in tensors}

    def __getitem__(self, name: str) -> OracleTensor:
        """
        Raises:
            UsageError: there is none of this name; the message names the nearest.
        """
        if name not in self._by_name:
            from difflib import get_close_matches

            near = ", ".join(get_close_matches(name, self._by_name, n=3)) or ", ".join(list(self._by_name)[:8])
            raise UsageError(f"{self.path}: no tensor {name!r}; nearest: {near or 'it has none'}")
        return self._by_name[name]

    def read(self, tensor: OracleTensor) -> NDArray:
        """The contents in the model's shape and dtype; bf16 as ``ml_dtypes.bfloat16``.

        Raises:
            UsageError: the file is damaged there.
        """
        try:
            return np.asarray(self._handle.get_tensor(tensor.key))
        except Exception as error:  # the library's own, by version
            raise UsageError(f"{self.path}: tensor {one_line(tensor.name)} can't be read ({error})") from None


@contextlib.contextmanager
def open_oracle(path: str | os.PathLike[str]) -> Iterator[Oracle]:
    """Open an oracle file, or any safetensors file.

    Raises:
        UsageError: no file, no safetensors, or a map that does not fit its tensors.
        MissingDependencyError: the package safetensors is not installed.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{file}: expected an oracle file there, found {'a folder' if file.is_dir() else 'none'}")
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingDependencyError(f"reading an oracle {_EXTRA}") from None
    try:
        handle = safe_open(file, framework="np")
    except SafetensorError as error:
        raise UsageError(f"{file}: expected a safetensors file ({error})") from None
    with handle:
        yield Oracle(file, handle, *_described(file, handle))


def write(tensors: Mapping[str, Any], path: str | os.PathLike[str], *, if_exists: IfExists = "error") -> OracleReport:
    """Write an oracle file from arrays by name, in the order in which the model computes them.

    Args:
        tensors: name -> numpy array, torch tensor, or anything numpy can read; float32 stays float32.
        path: a ``.safetensors`` file.

    Raises:
        TargetExistsError, UsageError: as :class:`OracleWriter`.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) and name for name in tensors):
        raise UsageError(f"{path}: expected a mapping from names to arrays, found {type(tensors).__name__}")
    with OracleWriter(path, if_exists=if_exists) as out:
        for name, array in tensors.items():
            out.add(name, array)
    assert out.report is not None
    return out.report


# --- parts ----------------------------------------------------------------------------------------------------------


def _described(path: Path, handle: Any) -> tuple[tuple[OracleTensor, ...], str]:
    keys = list(handle.keys())
    text = (handle.metadata() or {}).get(_MAP)
    if text is None:
        found, made_by = [OracleTensor(key, key) for key in keys], ""
    else:
        found, made_by = _parsed(path, text)
    known = set(keys)
    tensors, names = [], set()
    for tensor in found:
        if tensor.key not in known:
            raise UsageError(f"{path}: its map names {tensor.key[:80]!r}, which is not among its {len(keys)} tensors")
        if tensor.name in names:
            raise UsageError(f"{path}: its map has two tensors called {tensor.name[:80]!r}; each needs its own name")
        names.add(tensor.name)
        part = handle.get_slice(tensor.key)
        tensors.append(replace(tensor, shape=tuple(part.get_shape()), dtype=str(part.get_dtype())))
    return tuple(tensors), made_by


def _parsed(path: Path, text: str) -> tuple[list[OracleTensor], str]:
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise UsageError(f"{path}: expected a map of format {FORMAT}, found {found!r:.80}")
        entries = data.get("tensors")
        if not isinstance(entries, list):
            raise UsageError(f"{path}: its map has no list of tensors")
        found_all = [serialise.from_dict(OracleTensor, entry, "tensor") for entry in entries]
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: its map of tensors can't be read ({one_line(str(error))[:200]})") from None
    made_by = data.get("made_by")
    return found_all, made_by if isinstance(made_by, str) else ""


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


__all__ = ["FORMAT", "Kind", "Oracle", "OracleReport", "OracleTensor", "OracleWriter", "open_oracle", "write"]
