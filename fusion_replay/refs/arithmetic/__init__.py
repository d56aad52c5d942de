# SPDX-License-Identifier: Apache-2.0
"""Arithmetic that references of several operators share: sums, products, activations and exp in float64."""
