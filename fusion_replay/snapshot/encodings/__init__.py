# SPDX-License-Identifier: Apache-2.0
"""How contents are stored: one file per encoding."""
