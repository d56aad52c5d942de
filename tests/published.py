# SPDX-License-Identifier: Apache-2.0
"""The published schema as a validator made once: ``jsonschema.validate`` checks the schema itself again every time."""

from __future__ import annotations

from typing import Any

import jsonschema

from fusion_replay.report.jsonl import schema


def _validator() -> Any:
    published = schema()
    kind = jsonschema.validators.validator_for(published)
    kind.check_schema(published)
    return kind(published)


PUBLISHED = _validator()
