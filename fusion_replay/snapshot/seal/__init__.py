# SPDX-License-Identifier: Apache-2.0
"""From a journal, or from another snapshot, to a sealed HDF5 file."""
