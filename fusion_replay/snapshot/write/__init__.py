# SPDX-License-Identifier: Apache-2.0
"""Writing a recording while it runs: from an operand's bytes to frames and chunks."""
