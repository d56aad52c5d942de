# SPDX-License-Identifier: Apache-2.0
"""What recording and replaying cost, measured against other ways to keep the same tensors (docs/benchmarks.md)."""
