# SPDX-License-Identifier: Apache-2.0
class NPU2:
    name = "npu2"

    def resolve(self) -> "NPU2":
        return self
