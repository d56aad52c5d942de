# SPDX-License-Identifier: Apache-2.0
"""The files of a recording under way: journal frames, spilled raw bytes, compressed chunks; and reading them back."""
