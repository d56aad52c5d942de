# SPDX-License-Identifier: Apache-2.0
"""OpenBLAS's core types that this host can run and that add in orders of their own.

``OPENBLAS_CORETYPE`` is obeyed without a look at the processor: a process told to use kernels of AVX-512 where there
is none dies of SIGILL, and a name that the library does not know is passed over in silence. So no list of names, nor
of processor flags, is right everywhere. Here a child per name multiplies once: those that the processor stops are left
out, and of those that give the same bits one is enough, since they could not show a difference.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import cache

NAMES = ("SkylakeX", "Haswell", "Sandybridge", "Prescott", "NEOVERSEV1", "NEOVERSEN1", "ARMV8")

PRODUCTS = """
import hashlib
import numpy as np
rng, told = np.random.default_rng(0), hashlib.sha256()
for kind in (np.float32, np.float64):
    a, b = rng.standard_normal((128, 256)).astype(kind), rng.standard_normal((256, 128)).astype(kind)
    for product in (a @ b, b @ a, a @ b[:, 0], a[0] @ b[:, 0], a.T @ a):
        told.update(product.tobytes())
print(told.hexdigest())
"""


def environment(core_type: str) -> dict[str, str]:
    """Of a child that is to use these kernels, in one thread: a product split among threads adds in other orders."""
    return {**os.environ, "OPENBLAS_CORETYPE": core_type, "OPENBLAS_NUM_THREADS": "1"}


@cache
def core_types() -> tuple[str, ...]:
    """Names for ``OPENBLAS_CORETYPE`` under which plain products come out in different bits; one where none differ."""
    children = {
        name: subprocess.Popen(
            [sys.executable, "-c", PRODUCTS], env=environment(name), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in NAMES
    }
    names: dict[bytes, str] = {}
    for name, child in children.items():
        told, error = child.communicate(timeout=120)
        if child.returncode == 0:
            names.setdefault(told, name)
        elif child.returncode != -signal.SIGILL:
            raise RuntimeError(f"{name}: {error.decode(errors='replace')}")
    return tuple(names.values())
