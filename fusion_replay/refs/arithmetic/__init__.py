# SPDX-License-Identifier: Apache-2.0
"""Arithmetic that references of several operators share: sums, products, activations and exp in float64.

Tested with the operators that use it: tests/refs/test_axpy.py, test_matmul.py, test_activation.py, test_sample.py.
"""
