# SPDX-License-Identifier: Apache-2.0
"""The parts of a redispatch: binaries, memory, targets, journal, outcomes. ``redispatch.py`` puts them together."""
