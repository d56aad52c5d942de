# SPDX-License-Identifier: Apache-2.0
from iron.common.image.sequence import OperatorSequence
from iron.common.image.standalone import OperatorImage


def callable_of(op):
    return OperatorImage(op).compile()


__all__ = ["OperatorSequence", "callable_of"]
