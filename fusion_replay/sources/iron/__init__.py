# SPDX-License-Identifier: Apache-2.0
"""Every form of IRON: callables, operators and programs that dispatch on an NPU, as sources of steps."""
