# SPDX-License-Identifier: Apache-2.0
"""The files behind IRON's kernels: found in every form, stored once, said to be absent where they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import DamagedSnapshotError, SnapshotError
from fusion_replay.report import overview
from fusion_replay.snapshot.binaries import read_binaries
from iron_doubles import VARIANTS, Variant, machine
from iron_doubles import block as llama
from iron_doubles.layout import label, unique

every = pytest.mark.parametrize("variant", VARIANTS, ids=str)
BLOCK_NAME = "block"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The doubles name their files without a folder: this is where they lie."""
    machine.MACHINE.__init__()  # type: ignore[misc]
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(variant: Variant) -> Any:
    runlist = llama.block(variant.ops, variant.values).runlist
    callable_ = variant.build(runlist, llama.INPUTS, llama.OUTPUTS, llama.SIZES)
    for name, values in (llama.weights() | llama.token(0)).items():
        variant.write(callable_, name, values)
    return callable_


def run(variant: Variant, callable_: Any) -> None:
    if variant.values:
        callable_.write_values(llama.values(0))
    callable_()


def compile_into(folder: Path, callable_: Any) -> dict[str, bytes]:
    """What a build leaves: instructions of each operator, its link of the xclbin chain; V5 and V6 name the whole."""
    files = {"chain.xclbin": b"XCLBIN whole", "combined.xclbin": b"XCLBIN combined"}
    for index, _ in enumerate(unique(callable_.op.runlist)):
        name = label(callable_.op.name, index)
        files[f"{name}.xclbin"] = f"XCLBIN {index}".encode()
        files[f"{name}.bin"] = np.arange(index + 1, dtype="<u4").tobytes()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


@every
def test_every_form_gives_both_files_of_each_operator(variant: Variant, place: Path) -> None:
    callable_ = build(variant)
    files = compile_into(place, callable_)
    with fr.record("a.h5", callable_):
        run(variant, callable_)
        run(variant, callable_)
    with fr.open("a.h5") as snap:
        assert [b.operator for b in snap.binaries] == list(range(len(snap.sequences[0].operators)))
        for kernel in snap.binaries:
            name = label(callable_.op.name, kernel.operator)
            assert kernel.kernel == name
            assert kernel.xclbin is not None
            assert kernel.xclbin.read() == files[kernel.xclbin.name]
            operator = callable_.op.runlist[[s.operator for s in snap.sequences[0].steps].index(kernel.operator)][0]
            if variant.values and operator.symbols:
                assert kernel.instructions is None
                assert kernel.absent is not None
                assert "made at each dispatch" in kernel.absent
            else:
                assert kernel.instructions is not None
                assert kernel.absent is None
                assert kernel.instructions.name == f"{name}.bin"
                assert kernel.instructions.numpy().tobytes() == files[f"{name}.bin"]
                assert kernel.instructions.sha256 == hashlib.sha256(files[f"{name}.bin"]).hexdigest()
        assert snap.losses == ()


def v3() -> Variant:
    return next(v for v in VARIANTS if v.label == "V3")


def test_equal_files_are_stored_once(place: Path) -> None:
    callable_ = build(v3())
    compile_into(place, callable_)
    with fr.record("a.h5", callable_):
        run(v3(), callable_)
    with fr.open("a.h5") as snap:
        xclbins = {b.xclbin.digest for b in snap.binaries if b.xclbin is not None}
        assert len(xclbins) == 1  # the last link of the chain, for every kernel
        rows = [row for row in snap.index.contents.tolist() if row[0].decode() in xclbins]
        assert len(rows) == 1


def test_left_out_they_are_still_named(place: Path) -> None:
    callable_ = build(v3())
    files = compile_into(place, callable_)
    with fr.record("a.h5", callable_, binaries=False):
        run(v3(), callable_)
    with fr.open("a.h5") as snap:
        found = snap.binaries[0].instructions
        assert found is not None
        assert not found.kept
        assert found.sha256 == hashlib.sha256(files[found.name]).hexdigest()
        with pytest.raises(SnapshotError, match="not kept"):
            found.read()
        assert "0 files kept (0 B), " in str(overview.overview(snap))


def test_absent_and_unreadable_files_are_said_and_nothing_fails(place: Path) -> None:
    callable_ = build(v3())
    files = compile_into(place, callable_)
    for name in files:
        if name.endswith("_op2.bin"):
            Path(name).unlink()
        if name.endswith("_op3.bin"):
            Path(name).write_bytes(b"")
    with fr.record("a.h5", callable_):
        run(v3(), callable_)
    with fr.open("a.h5") as snap:
        gone, empty = snap.binaries[2], snap.binaries[3]
        assert gone.instructions is None
        assert gone.absent == f"{gone.kernel}.bin: no such file when the run began"
        assert empty.instructions is not None
        assert (empty.instructions.nbytes, empty.instructions.read()) == (0, b"")
        assert gone.absent in str(overview.overview(snap))
        records = [r for r in overview.overview(snap).records() if r["type"] == "kernel_files"]
        assert [r["absent"] for r in records].count(None) == len(records) - 1
        assert snap.losses == ()


def test_a_journal_has_them_too(place: Path) -> None:
    callable_ = build(v3())
    files = compile_into(place, callable_)
    with fr.record("a.h5", callable_):
        run(v3(), callable_)
        with fr.open("a.h5") as snap:
            assert not snap.sealed
            first = snap.binaries[0].instructions
            assert first is not None
            assert first.read() == files[first.name]


def test_the_software_npu_has_none(place: Path) -> None:
    from fusion_replay.simulator.operators import SiLU

    call = fr.simulate([(SiLU(size=64, tile_size=64, num_aie_columns=1), "a", "b")])
    with fr.record("a.h5", call):
        call()
    with fr.open("a.h5") as snap:
        assert snap.binaries == ()


@pytest.mark.parametrize(
    "change",
    [
        {"operator": 99},
        {"operator": -1},
        {"sequence": 1},
        {"kernel": 3},
        {"kernel": "k" * 5000},
        {"absent": []},
        {"xclbin": {"name": "x"}},
        {"xclbin": []},
        {"xclbin": {"name": "x", "nbytes": 1, "digest": "0", "sha256": "0" * 64}},
    ],
)
def test_a_table_that_lies_is_refused(place: Path, change: dict[str, Any]) -> None:
    callable_ = build(v3())
    compile_into(place, callable_)
    with fr.record("a.h5", callable_):
        run(v3(), callable_)
    with fr.open("a.h5") as snap:
        snap.index.binaries[0] |= change
        with pytest.raises(DamagedSnapshotError, match=r"a\.h5: the table of device files does not fit"):
            read_binaries(snap.index, snap.store, "a.h5")


def test_a_file_that_disagrees_with_its_sha256_is_not_handed_out(place: Path) -> None:
    callable_ = build(v3())
    compile_into(place, callable_)
    with fr.record("a.h5", callable_):
        run(v3(), callable_)
    with fr.open("a.h5") as snap:
        snap.index.binaries[0]["xclbin"]["sha256"] = "0" * 64
        found = snap.binaries[0].xclbin
        assert found is not None
        with pytest.raises(DamagedSnapshotError, match="SHA-256"):
            found.read()
