# SPDX-License-Identifier: Apache-2.0
"""The report page: one HTML file that shows a replay, a diff, a bisection or waiting goldens, without a network."""
