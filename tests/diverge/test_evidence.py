# SPDX-License-Identifier: Apache-2.0
"""What lay in an output's bytes before, put together from earlier steps, against a memory that runs along.

Earlier versions and references under other hypotheses: tests/diverge/test_explain.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from byte_runlists import SIZE, Entry, Use, record
from fusion_replay.diverge.evidence import Evidence

ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(lambda r: (r[0], min(SIZE, r[0] + r[1])))
uses = st.builds(
    lambda buffer, direction, span: Use(buffer, direction, *span),
    st.sampled_from("xy"),
    st.sampled_from(["in", "out"]),
    ranges,
)
entries = st.lists(st.lists(uses, min_size=1, max_size=3).map(lambda u: Entry(tuple(u))), min_size=1, max_size=6)


@settings(max_examples=settings().max_examples // 2, deadline=None)
@given(entries, st.integers(1, 2))
def test_previous_contents_are_the_bytes_that_lay_there(runlist: list[Entry], invocations: int) -> None:
    """No digest of old contents is kept here: bytes that no earlier step saw or left can't be told."""
    memory, seen = ({name: np.zeros(SIZE, kind) for name in "xy"} for kind in (np.uint8, np.bool_))
    with tempfile.TemporaryDirectory() as folder:
        path = record(Path(folder) / "x.h5", runlist, invocations=invocations)
        with fr.open(path) as snapshot:
            evidence = Evidence(snapshot)
            for step in snapshot:
                for output in step.outputs.values():
                    found, span = evidence.previous(step, output), slice(output.use.start, output.use.end)
                    assert (found is not None) == seen[output.use.buffer][span].all()
                    assert found is None or found.tolist() == memory[output.use.buffer][span].tolist()
                for operand in step.description.operands:
                    seen[operand.buffer][operand.start : operand.end] = True
                for output in step.outputs.values():
                    memory[output.use.buffer][output.use.start : output.use.end] = output.numpy()


def test_what_was_not_kept_can_not_be_told(tmp_path: Path) -> None:
    runlist = [Entry((Use("x", "out"),)), Entry((Use("y", "out", 0, 4),)), Entry((Use("x", "out", 2, 6),))]
    with fr.open(record(tmp_path / "x.h5", runlist)) as snapshot:
        contents = snapshot.index.contents = snapshot.index.contents.copy()
        contents["encoding"][snapshot["0:0"].outputs[0].row] = 255  # the digest alone
        assert Evidence(snapshot).previous(snapshot["0:2"], snapshot["0:2"].outputs[0]) is None
