# SPDX-License-Identifier: Apache-2.0
"""All that depends on the operating system: files, locks, processes, signals, terminals."""
