# SPDX-License-Identifier: Apache-2.0
"""Errors of a kernel run on the software NPU, as the host runtime raises them."""

from __future__ import annotations

from enum import IntEnum

from fusion_replay.errors import FusionReplayError


class ErtCmdState(IntEnum):
    """Final states of a command, by the names and numbers of Xilinx/XRT's ``xrt/detail/ert.h``."""

    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_TIMEOUT = 8


class HostRuntimeError(FusionReplayError, RuntimeError):
    """The runtime refused or lost a kernel; ``state`` is the command's final state where there is one."""

    exit_code = 1

    def __init__(self, message: str, state: ErtCmdState | None = None) -> None:
        super().__init__(message)
        self.state = state
