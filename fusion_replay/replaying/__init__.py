# SPDX-License-Identifier: Apache-2.0
"""The parts of a replay: one step judged, references chained, outcomes told. ``replay.py`` puts them together."""
