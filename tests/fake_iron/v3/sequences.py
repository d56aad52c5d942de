# SPDX-License-Identifier: Apache-2.0
from iron.common.sequence import OperatorSequence


def callable_of(op):
    return op.compile().get_callable()


__all__ = ["OperatorSequence", "callable_of"]
