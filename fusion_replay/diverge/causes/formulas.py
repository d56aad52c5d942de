# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions that one kernel may compute where another is meant, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fusion_replay.diverge.causes.spans import F64

Function = Callable[[F64], F64]


def erf(x: F64) -> F64:
    """To 1e-16: numpy has none of its own."""
    return np.array([math.erf(v) for v in x.reshape(-1)]).reshape(x.shape)


def sigmoid(x: F64) -> F64:
    return 1 / (1 + np.exp(-x))


def gelu_tanh(x: F64) -> F64:
    return x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


ACTIVATIONS: dict[str, Function] = {
    "no activation": lambda x: x,
    "GELU by tanh": gelu_tanh,
    "GELU by erf": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "quick GELU, x sigmoid(1.702 x)": lambda x: x * sigmoid(1.702 * x),
    "SiLU": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU, squared": lambda x: np.maximum(x, 0) ** 2,
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "leaky ReLU of 0.01": lambda x: np.where(x < 0, 0.01 * x, x),
    "leaky ReLU of 0.1": lambda x: np.where(x < 0, 0.1 * x, x),
    "leaky ReLU of 0.2": lambda x: np.where(x < 0, 0.2 * x, x),
    "ELU": lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x),
    "softplus": lambda x: np.logaddexp(0, x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard tanh": lambda x: np.clip(x, -1, 1),
    "exp": np.exp,
    "negated": lambda x: -x,
    "absolute value": np.abs,
    "SiLU with base 2, x / (1 + 2^-x)": lambda x: x / (1 + np.exp2(-x)),
    "sigmoid with base 2": lambda x: 1 / (1 + np.exp2(-x)),
    "GELU by tanh without its cubic term": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * x),
}
"""What it is called -> the function."""

BINARY: dict[str, Callable[[F64, F64], F64]] = {
    "A + B": lambda a, b: a + b,
    "A B": lambda a, b: a * b,
    "A - B": lambda a, b: a - b,
    "B - A": lambda a, b: b - a,
    "A / B": lambda a, b: a / b,
    "A alone": lambda a, b: a,
    "B alone": lambda a, b: b,
    "|A| + |B|": lambda a, b: np.abs(a) + np.abs(b),
    "|A| |B|": lambda a, b: np.abs(a * b),
    "max(A, B)": np.maximum,
    "min(A, B)": np.minimum,
    "(A + B) / 2": lambda a, b: (a + b) / 2,
    "A + A": lambda a, b: a + a,
    "B + B": lambda a, b: b + b,
    "A A": lambda a, b: a * a,
    "B B": lambda a, b: b * b,
    "A SiLU(B)": lambda a, b: a * b * sigmoid(b),
    "SiLU(A) B": lambda a, b: a * sigmoid(a) * b,
}
