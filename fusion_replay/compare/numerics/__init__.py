# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of kernels as data, and its evaluator: what an honest device may give for recorded inputs."""
