# SPDX-License-Identifier: Apache-2.0
"""What diverged first, and why: dataflow of a recording, differences of two, which side moved."""
