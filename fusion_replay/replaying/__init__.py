# SPDX-License-Identifier: Apache-2.0
"""Replaying: one step judged, references chained, outcomes as data; ``replay.py`` is the public face."""
