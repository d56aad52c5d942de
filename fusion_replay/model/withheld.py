# SPDX-License-Identifier: Apache-2.0
"""Why a step's contents are not in a recording, in the words that are stored beside it."""

from __future__ import annotations

FILTERED = "outside the filter"
BEYOND, BEYOND_BUDGET = "beyond max_", "beyond --reference-budget "
"""Begin the reason of a limit, which they name: ``beyond max_steps 10``."""

AS_IN, AS_REFERENCE = "as in ", "as the reference"
"""Begin the reason of a step that did not deviate, from an earlier snapshot (``as in good.h5``) or its reference."""

__all__ = ["AS_IN", "AS_REFERENCE", "BEYOND", "BEYOND_BUDGET", "FILTERED"]
