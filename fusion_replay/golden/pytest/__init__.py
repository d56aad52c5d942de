# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: goldens as tests, recordings of tests."""
