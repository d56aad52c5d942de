# SPDX-License-Identifier: Apache-2.0
"""Which operator a kernel handle belongs to. The runtime is given no more than an xclbin and buffers.

Until late August 2026 an operator's ``get_callable()`` loads its kernel and returns a function that keeps the handle
alone (amd/IRON ``iron/common/base.py``), so the operator is read from the frame that loads. Later an ``OperatorImage``
holds the operator and dispatches itself (``iron/common/image/standalone.py``): it is the caller of ``load_and_run``.
A handle that was loaded before the recording began is told by the path of its xclbin, which the runtime's cache knows.
"""

from __future__ import annotations

import gc
import os
import sys
import weakref
from types import FrameType, FunctionType
from typing import Any

from fusion_replay.errors import NotAttachableError

_DEPTH = 6  # frames between the runtime and the operator's own code: overriding runtimes, NPUKernel, get_callable
_UNKNOWN = object()
_BASES = type.__dict__["__mro__"].__get__
_OWN = type.__dict__["__dict__"].__get__


class Handles:
    """Operators by kernel handle. Handles are not kept alive: they hold hardware contexts, which are few."""

    def __init__(self) -> None:
        self._operators: dict[int, tuple[Any, Any]] = {}
        self._words: dict[int, str] = {}

    def loaded(self, handle: Any, kernel: Any, frame: FrameType | None) -> None:
        """A runtime has just loaded ``kernel``; ``frame`` is its caller's."""
        self._words[id(handle)] = self.words(kernel)
        operator = self.owner(kernel, frame)
        if operator is not None:
            self._remember(handle, operator)

    def owner(self, kernel: Any, frame: FrameType | None) -> Any:
        """The operator on whose behalf the code in ``frame`` acts; None inside a sequence, or where it is unknown."""
        if getattr(kernel, "elf_path", None) is not None:
            return None  # a whole runlist in one image
        for _ in range(_DEPTH):
            if frame is None:
                return None
            names = frame.f_code.co_varnames
            first = frame.f_locals.get(names[0]) if frame.f_code.co_argcount and names else None
            for candidate in (first, _attributes(first).get("op")):
                if "runlist" in _attributes(candidate):
                    return None
                if is_operator(candidate):
                    return candidate
            frame = frame.f_back
        return None

    def operator_of(self, handle: Any, runtime: Any) -> Any:
        """The operator of a handle, None where it cannot be told."""
        known = self._operators.get(id(handle))
        if known is None:
            known = self._remember(handle, _by_path(handle, runtime) or _UNKNOWN)
        return None if known[1] is _UNKNOWN else known[1]

    def words(self, kernel_or_handle: Any) -> str:
        """What can be said of it in a message: the file's name, without its folder, and the kernel's."""
        path = getattr(kernel_or_handle, "xclbin_path", None) or getattr(kernel_or_handle, "elf_path", None)
        if path is None:
            return self._words.get(id(kernel_or_handle)) or str(
                getattr(kernel_or_handle, "name", None) or "without name"
            )
        return f"{getattr(kernel_or_handle, 'kernel_name', None)} of {os.path.basename(str(path))}"

    def _remember(self, handle: Any, operator: Any) -> tuple[Any, Any]:
        key = id(handle)

        def gone(_: Any) -> None:
            self._operators.pop(key, None)
            self._words.pop(key, None)

        try:
            held: Any = weakref.ref(handle, gone)
        except TypeError:
            held = handle
        self._operators[key] = (held, operator)
        return self._operators[key]


class Only:
    """Which dispatches are meant where one operator, or a callable of one, was asked for.

    Raises:
        NotAttachableError: a function whose operator is gone.
    """

    def __init__(self, wanted: Any) -> None:
        self._handle = handle_in(wanted)
        if self._handle is not None:
            self.operator = _by_path(self._handle, _loaded_runtime())
            if self.operator is None:
                raise NotAttachableError(
                    "this function keeps a kernel handle and not its operator, which is gone; "
                    "record the operator itself, or call its get_callable() inside 'with record(path):'"
                )
        else:
            self.operator = wanted if is_operator(wanted) else _attributes(wanted).get("op")

    def means(self, operator: Any, handle: Any, runtime: Any) -> bool:
        if self._handle is not None:
            return handle is self._handle
        return operator is self.operator or _path_of(self.operator) in _paths(handle, runtime)


def is_operator_call(candidate: Any) -> bool:
    """An operator, an image of one that dispatches itself, or the function that its ``get_callable()`` returned."""
    if handle_in(candidate) is not None:
        return True
    if is_operator(candidate):
        return _class_has(candidate, "get_callable") or _class_has(candidate, "buffers")
    return callable(candidate) and is_operator(_attributes(candidate).get("op"))


def handle_in(function: Any) -> Any:
    """The kernel handle that IRON's function of a single operator keeps in its closure; None in any other object."""
    if type(function) is not FunctionType or "get_callable" not in function.__qualname__:
        return None
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name == "handle":
            return cell.cell_contents
    return None


def is_operator(candidate: Any) -> bool:
    """An instance that declares runtime arguments: ``get_arg_spec()``, or ``buffers`` since late August 2026.

    It is asked of every live object of the program. Not even ``isinstance`` may look there: where the type says no, it
    reads ``__class__``, and the deprecated objects of libraries warn of any attribute (torch's ``reduce_op``).
    """
    if candidate is None or issubclass(type(candidate), type):
        return False
    if not (_class_has(candidate, "get_arg_spec") or _class_has(candidate, "reference")):
        return False
    own = _attributes(candidate)
    declared = _class_has(candidate, "buffers") or "buffers" in own
    return "runlist" not in own and (_class_has(candidate, "get_arg_spec") or declared)


def _class_has(candidate: Any, name: str) -> bool:
    """Whether its class, or one that it derives from, has anything of this name but None."""
    bases: tuple[type, ...] = _BASES(type(candidate))
    return any(_OWN(base).get(name) is not None for base in bases)


def _attributes(candidate: Any) -> dict[str, Any]:
    """Its own, without running any code of it: the object may be anything."""
    try:
        found = object.__getattribute__(candidate, "__dict__")
    except AttributeError:
        return {}
    return found if issubclass(type(found), dict) else {}


def _by_path(handle: Any, runtime: Any) -> Any:
    """A live operator from whose files this handle was loaded."""
    paths = _paths(handle, runtime)
    if not paths:
        return None
    return next((c for c in gc.get_objects() if is_operator(c) and _path_of(c) in paths), None)


def _path_of(operator: Any) -> str | None:
    """The xclbin of a compiled operator: amd/IRON ``iron/common/base.py``, in its later form and its earlier one."""
    own = _attributes(operator).get("_xclbin_path")
    own = own or getattr(_attributes(operator).get("xclbin_artifact"), "filename", None)
    return None if own is None else os.path.realpath(str(own))


def _paths(handle: Any, runtime: Any) -> set[str]:
    """Of the xclbin that a handle was loaded from, by the keys of the runtime's cache of hardware contexts."""
    cache = _attributes(runtime).get("_context_cache")
    if not isinstance(cache, dict):
        return set()
    return {
        os.path.realpath(str(key[0]))
        for key, entry in list(cache.items())
        if isinstance(key, tuple) and any(ref() is handle for ref in entry.get("handles", ()))
    }


def _loaded_runtime() -> Any:
    """The default runtime, where it exists already: asking ``aie.utils`` for it may open the device."""
    module = _attributes(sys.modules.get("aie.utils"))
    return module.get("DefaultNPURuntime") or module.get("_DefaultNPURuntime")


__all__ = ["Handles", "Only", "handle_in", "is_operator", "is_operator_call"]
