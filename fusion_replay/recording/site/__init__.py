# SPDX-License-Identifier: Apache-2.0
"""This folder goes in front of PYTHONPATH of a recorded program; Python runs ``sitecustomize`` in it at start-up."""
