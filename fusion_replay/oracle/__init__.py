# SPDX-License-Identifier: Apache-2.0
"""Framework models' tensors against a recording: files, mapping to buffers, judgement, causes of a wrong runlist."""
