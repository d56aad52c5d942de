# SPDX-License-Identifier: Apache-2.0
"""Redispatch: recorded steps on a device again; ``run.py`` does it with the other modules."""
