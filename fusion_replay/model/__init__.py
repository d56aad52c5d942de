# SPDX-License-Identifier: Apache-2.0
"""What is talked about, as data: sequences, steps and their operands, buffers and byte ranges, arrays and bfloat16."""
