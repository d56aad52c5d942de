# SPDX-License-Identifier: Apache-2.0
def run_iters(fn, *args, warmup=0, iters=1):
    return [fn(*args) for _ in range(warmup + iters)][warmup:]
