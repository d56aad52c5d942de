# SPDX-License-Identifier: Apache-2.0
"""OpenBLAS's core types that this host can run and that add in orders of their own.

``OPENBLAS_CORETYPE`` is obeyed without a look at the processor: a process told to use kernels of AVX-512 where there
is none dies of SIGILL, and a name that the library does not know is passed over in silence. So no list of names, nor
of processor flags, is right everywhere. Here a child per name multiplies once: those that the processor stops are left
out, and of those that give the same bits one is enough, since they could not show a difference. A short test asks for
the oldest alone, against what the library chooses by itself.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from functools import cache

NAMES = (
    ("NEOVERSEV1", "NEOVERSEN1", "ARMV8")
    if platform.machine() in ("aarch64", "arm64")
    else ("SkylakeX", "Haswell", "Sandybridge", "Prescott")
)
"""From the newest to the oldest."""

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
    names: dict[bytes, str] = {}
    for name in NAMES:
        if (told := _products(name)) is not None:
            names.setdefault(told, name)
    return tuple(names.values())


@cache
def oldest() -> str:
    """The last of :data:`NAMES` that runs here."""
    return next(name for name in reversed(NAMES) if _products(name) is not None)


@cache
def _products(core_type: str) -> bytes | None:
    """A digest of plain products with these kernels; None where the processor stops them."""
    command = [sys.executable, "-c", PRODUCTS]
    child = subprocess.run(command, env=environment(core_type), capture_output=True, timeout=120, check=False)
    if child.returncode not in (0, -signal.SIGILL):
        raise RuntimeError(f"{core_type}: {child.stderr.decode(errors='replace')}")
    return None if child.returncode else child.stdout
