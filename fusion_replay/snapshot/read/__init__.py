# SPDX-License-Identifier: Apache-2.0
"""Opening a snapshot, sealed or not: steps, operands, and their contents on demand."""
