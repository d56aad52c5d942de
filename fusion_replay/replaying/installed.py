# SPDX-License-Identifier: Apache-2.0
"""``reference="installed"``: IRON's own ``reference()``, from the IRON that is installed here.

The operator is built again from its recorded fields and asked for its outputs on the recorded inputs.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingDependencyError, MissingError
from fusion_replay.sources.iron.own_reference import call_reference

if TYPE_CHECKING:
    from fusion_replay.model.runlist import OperatorDescription

NDArray = npt.NDArray[Any]

CATALOGUE = "iron.operators"


def require_iron() -> None:
    """
    Raises:
        MissingDependencyError: IRON cannot be imported here.
    """
    if "iron" not in sys.modules and importlib.util.find_spec("iron") is None:
        raise MissingDependencyError(
            "reference 'installed' needs IRON's own operators, and no package 'iron' is installed here: "
            "install https://github.com/amd/IRON as its README says, or use --reference auto"
        )


def installed_reference(
    op: OperatorDescription,
    inputs: Sequence[NDArray],
    previous: Sequence[NDArray] = (),
    values: Mapping[str, int | float] | None = None,
) -> tuple[NDArray, ...]:
    """What the installed IRON expects of this operator, in the order of its outputs.

    Args:
        op: as recorded.
        inputs: in arg-spec order, bf16 as ``ml_dtypes.bfloat16``.
        previous: old contents of the outputs, handed to a reference that takes them.
        values: runtime values of the dispatch; those that the reference names are passed on.

    Raises:
        MissingError: the installed IRON has no such operator, it has no ``reference()``, or its fields are not known.
    """
    kind = operator_class(op)
    function = getattr(kind, "reference", None)
    if not callable(function):
        raise MissingError(f"{kind.__module__}.{kind.__name__} has no reference(); use --reference auto")
    return call_reference(build(kind, op), inputs, previous, values or {})


def operator_class(op: OperatorDescription) -> type[Any]:
    """The installed class of a recorded operator.

    A file's word is no reason to import just any module: only what lies in ``iron``, or was imported by the user.

    Raises:
        MissingError: there is none.
    """
    require_iron()
    named = op.module == "iron" or op.module.startswith("iron.")
    tried = [op.module] if op.module and (named or op.module in sys.modules) else []
    for module in (*tried, CATALOGUE):
        try:
            found = getattr(importlib.import_module(module), op.type, None)
        except ImportError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue  # another version of IRON keeps the operator elsewhere
            raise MissingError(f"the installed IRON can't be imported: {module}: {error}") from error
        if isinstance(found, type) and hasattr(found, "reference") and not _simulated(found):
            return found
    elsewhere = f"; import {op.module} with --import where it is yours" if op.module and not named else ""
    raise MissingError(f"the installed IRON has no operator {op.type} with a reference(){elsewhere}")


def build(kind: type[Any], op: OperatorDescription) -> Any:
    """The operator with its recorded fields.

    Where its constructor refuses (it asks for a device, or for limits that a CPU reference does not have) the fields
    are set on a bare object.

    Raises:
        MissingError: a field was recorded by its class only.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    accepted = [n for n, f in fields.items() if f.init] or list(inspect.signature(kind).parameters)
    given = {name: _field(op, name, op.params[name], fields.get(name)) for name in accepted if name in op.params}
    try:
        return kind(**given)
    except Exception:
        bare = object.__new__(kind)
        for name, field in fields.items():
            if field.default is not dataclasses.MISSING:
                object.__setattr__(bare, name, field.default)
        for name in op.params:
            if name.isidentifier():
                object.__setattr__(bare, name, _field(op, name, op.params[name], fields.get(name)))
        return bare


# --- parts ----------------------------------------------------------------------------------------------------------


def _simulated(kind: type[Any]) -> bool:
    return kind.__module__.startswith("fusion_replay.")


def _field(op: OperatorDescription, name: str, value: Any, field: dataclasses.Field[Any] | None) -> Any:
    """A recorded JSON value as the field's own type: lists as tuples, dtype names as the scalar types."""
    if isinstance(value, list):
        return tuple(_field(op, name, item, None) for item in value)
    if isinstance(value, Mapping) and "class" in value:
        if "name" in value and "value" in value:  # a member of an enumeration, which IRON's constructors make of it
            return value["value"]
        raise MissingError(f"{op.type}: field {name} is an object of class {value['class']}, which is not made again")
    if isinstance(value, str):
        if re.fullmatch(r"<\w+>", value):  # before format 1.2
            raise MissingError(f"{op.type}: field {name} was recorded as an object of class {value[1:-1]} only")
        if name.endswith("dtype") or (field is not None and isinstance(field.default, type)):
            return ml_dtypes.bfloat16 if value == "bfloat16" else np.dtype(value).type
    return value
