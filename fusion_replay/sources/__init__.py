# SPDX-License-Identifier: Apache-2.0
"""Where steps come from: ``attach(obj)`` picks the adapter, :mod:`.protocol` says what a source is."""
