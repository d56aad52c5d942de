# SPDX-License-Identifier: Apache-2.0
def set_current_device(device):
    pass
