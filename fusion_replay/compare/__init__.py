# SPDX-License-Identifier: Apache-2.0
"""Two arrays against each other: deviation statistics, rules, tolerances, verdicts."""
