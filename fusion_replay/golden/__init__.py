# SPDX-License-Identifier: Apache-2.0
"""Goldens: recordings that were accepted as the expected behaviour, whole or as recipes to make them again."""
