# SPDX-License-Identifier: Apache-2.0
"""Memory laid out by hand, repetitions counted by hand, journals that were cut or are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model.runlist import ArgSpec, OperandUse, StepDescription
from fusion_replay.replaying.redispatch.attempt_log import TryJournal
from fusion_replay.replaying.redispatch.binaries import choose
from fusion_replay.replaying.redispatch.memory import lay_out
from fusion_replay.replaying.redispatch.outcome import StepOutcome
from fusion_replay.replaying.redispatch.repetition import Repetitions
from fusion_replay.sources.protocol import MemoryUse

BF16 = ml_dtypes.bfloat16


# --- memory -----------------------------------------------------------------------------------------------------------


class Tensor:
    """What ``lay_out`` asks of a recorded tensor."""

    def __init__(self, position: int, values: Any, previous: Any = None) -> None:
        self.position, self.values = position, np.asarray(values, np.uint8)
        self.previous = None if previous is None else Tensor(position, previous)
        self.kept, self.dtype, self.shape = True, "uint8", self.values.shape

    def numpy(self) -> np.ndarray:
        return self.values


def step(uses: list[tuple[str, str, int, int]], inputs: list[Tensor], outputs: list[Tensor]) -> Any:
    """``uses``: direction, buffer, first byte, bytes."""
    operands = tuple(
        OperandUse(ArgSpec(f"x{i}", direction, (n,), "uint8"), buffer, start)  # type: ignore[arg-type]
        for i, (direction, buffer, start, n) in enumerate(uses)
    )
    return SimpleNamespace(
        description=StepDescription(0, 0, operands),
        inputs={str(t.position): t for t in inputs},
        outputs={str(t.position): t for t in outputs},
    )


def test_slices_that_share_bytes_share_memory() -> None:
    made = lay_out(
        step(
            [("in", "x", 64, 4), ("in", "y", 0, 2), ("out", "x", 66, 4), ("out", "x", 70, 2)],
            [Tensor(0, [1, 2, 3, 4]), Tensor(1, [9, 9])],
            [Tensor(2, [7, 7, 7, 7]), Tensor(3, [8, 8])],
        )
    )
    assert made.uses == (MemoryUse(0, 0, 4), MemoryUse(2, 0, 2), MemoryUse(0, 2, 4), MemoryUse(1, 0, 2))
    assert [m.tolist() for m in made.contents] == [[1, 2, 3, 4, 0x55, 0x55], [0x55, 0x55], [9, 9]]
    after = [np.arange(6, dtype=np.uint8), np.arange(2, dtype=np.uint8), np.zeros(2, np.uint8)]
    assert made.after(after, Tensor(2, [0] * 4)).tolist() == [2, 3, 4, 5]  # type: ignore[arg-type]


def test_an_argument_in_place_is_one_memory_twice() -> None:
    made = lay_out(step([("in", "x", 0, 2), ("out", "x", 0, 2)], [Tensor(0, [1, 2])], [Tensor(1, [5, 6], [1, 2])]))
    assert made.uses == (MemoryUse(0, 0, 2), MemoryUse(0, 0, 2))
    assert [m.tolist() for m in made.contents] == [[1, 2]]


def test_a_placed_argument_gets_its_tensor_from_the_start() -> None:
    made = lay_out(step([("in", "x", 128, 2), ("out", "y", 0, 1)], [Tensor(0, [1, 2])], [Tensor(1, [3])]), (128, 0))
    assert made.uses[0] == MemoryUse(0, 0, 130)
    assert made.contents[0][128:].tolist() == [1, 2]
    assert made.windows == ((0, 128, 130), (1, 0, 1))


def test_poison_is_never_what_was_recorded() -> None:
    made = lay_out(step([("out", "y", 0, 3)], [], [Tensor(0, [0x55] * 3)]))
    assert made.contents[0].tolist() == [0xAA] * 3


# --- repetitions ------------------------------------------------------------------------------------------------------


def test_varying_elements_and_pattern() -> None:
    first = np.zeros((4, 5), BF16)
    second, third = first.copy(), first.copy()
    second[1, 2] = 1
    third[3, 4] = -0.0  # equal as a number, other bits
    found = Repetitions(["C"])
    news = [found.add([x]) for x in (first, second, first, third, second)]
    assert news == [True, True, False, True, False]
    certificate = found.certificate()
    assert certificate.pattern == (0, 1, 0, 2, 1)
    assert [n for _, n in certificate.distinct] == [2, 2, 1]
    (varying,) = certificate.varying
    assert (varying.count, varying.first, varying.last, varying.box) == (2, 7, 19, ((1, 3), (2, 4)))
    assert not certificate.deterministic
    assert "pattern ABACB" in str(certificate)


# --- the journal ------------------------------------------------------------------------------------------------------


def outcome(address: str, verdict: str) -> StepOutcome:
    return StepOutcome(address, 0, int(address[2:]), "SiLU", f"{address} SiLU a -> b", verdict)


def test_every_try_is_on_the_disk_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = TryJournal(path, "p")
    journal.trying("0:0")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"plan": "p"}, {"try": "0:0"}]
    journal.finished(outcome("0:0", "unchanged bits"))
    journal.trying("0:1")
    journal.close(keep=True)
    with path.open("a") as file:
        file.write('{"done": "0:1", "val')  # the machine went down here
    again = TryJournal(path, "p")
    assert list(again.done) == ["0:0"]
    assert again.done["0:0"].continued
    assert again.hung == {"0:1": "an earlier run ended while it ran"}
    again.trying("0:2")
    again.trying("0:2")
    again.finished(outcome("0:2", "hung"))
    again.close(keep=True)
    third = TryJournal(path, "p")
    assert third.hung == {"0:1": "an earlier run ended while it ran", "0:2": "hung in an earlier run"}
    third.close(keep=False)
    assert not path.exists()


@pytest.mark.parametrize("text", ["\n", "[]\n", '{"plan": "other"}\n', "notes of mine\n", "\x00\xff"])
def test_a_foreign_journal_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "j"
    path.write_text(text, "latin-1")
    with pytest.raises(UsageError, match="is the journal of something else; move it away, or give --journal"):
        TryJournal(path, "p")
    assert path.read_text("latin-1") == text


def test_entries_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "j"
    values = ['{"done": {}}', '{"done": "0:0", "value": {"address": 1}}', '{"done": "0:0", "value": 3}']
    path.write_text("\n".join(['{"plan": "p"}', "3", *values, '{"nothing": 1}', ""]))
    journal = TryJournal(path, "p")
    assert (journal.done, journal.hung) == ({}, {})


def test_a_journal_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't be written .*; give --journal FILE"):
        TryJournal(tmp_path / "nothing" / "j", "p")


# --- binaries ---------------------------------------------------------------------------------------------------------


def test_recorded_names_lead_nowhere_else(tmp_path: Path) -> None:
    """A name with a path in it, from a file that somebody handed over, is not followed."""
    file = SimpleNamespace(name="../secret.bin", kept=False, nbytes=4)
    own = SimpleNamespace(sequence=0, operator=0, kernel="k", xclbin=file, instructions=file, absent=None, places=())
    sequence = SimpleNamespace(name="s", operators=(object(),), origin={})
    (tmp_path / "secret.bin").write_bytes(b"1234")
    build = tmp_path / "build"
    build.mkdir()
    with pytest.raises(UsageError, match=r"expected such as f\w+_op0\.bin and f\w+_op0\.xclbin"):
        choose(SimpleNamespace(binaries=(own,), sequences=(sequence,)), build)  # type: ignore[arg-type]


def test_an_operator_alone_is_found_by_its_own_name(tmp_path: Path) -> None:
    operator = SimpleNamespace(label="ReLU_sz128_npu1", type="ReLU")
    sequence = SimpleNamespace(name="ReLU", operators=(operator,), origin={"dispatch": "operator"})
    (tmp_path / "ReLU_sz128_npu1.bin").write_bytes(b"1234")
    (tmp_path / "ReLU_sz128_npu1.xclbin").write_bytes(b"xclbin")
    found = choose(SimpleNamespace(binaries=(), sequences=(sequence,)), tmp_path)  # type: ignore[arg-type]
    choice = found[0, 0]
    assert (choice.kernel, choice.xclbin, choice.instructions, choice.origin) == (
        "MLIR_AIE",
        b"xclbin",
        b"1234",
        "new",
    )


# --- pyxrt ------------------------------------------------------------------------------------------------------------


def test_generations_by_name(machine: Any) -> None:
    from fusion_replay.sources.xrt import generation_of

    # Default names of the driver: amd/xdna-driver src/driver/amdxdna (vbnv).
    names = {
        "NPU Phoenix": "npu1",
        "NPU Strix": "npu2",
        "NPU Strix Halo": "npu2",
        "NPU Krackan 1": "npu2",
        "NPU Gorgon Point 1": "npu2",
        "RyzenAI-npu1": "npu1",
        "RyzenAI-npu4": "npu2",
        "Alveo U50": None,
    }
    assert {name: generation_of(name) for name in names} == names


def test_the_device_refuses_what_would_be_silent(machine: Any) -> None:
    from fusion_replay.sources.xrt import XrtDevice

    device = XrtDevice()
    with pytest.raises(MissingError, match="has no bytes"):
        device.load(b"{}", b"", "k")
    with pytest.raises(MissingError, match="the xclbin has no kernel of this name, but none"):
        device.load(b"{}", b"1234", "k")
    device.close()
    assert machine.contexts == 0


def test_contexts_are_few(machine: Any) -> None:
    from fusion_replay.sources.xrt import MAX_CONTEXTS, XrtDevice

    device = XrtDevice()
    for i in range(3 * MAX_CONTEXTS):
        device.arguments(json.dumps({f"k{i}": {"args": []}}).encode(), f"k{i}")
        assert machine.contexts <= MAX_CONTEXTS
    device.close()
