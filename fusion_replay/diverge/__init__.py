# SPDX-License-Identifier: Apache-2.0
"""What diverged first, and why: dataflow of a recording, differences of two, which side moved, where in a tensor the
errors lie, and in which pattern."""
