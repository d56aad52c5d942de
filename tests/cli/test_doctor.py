# SPDX-License-Identifier: Apache-2.0
"""doctor: what is here, what is missing, which form of IRON it is and what that allows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion_replay.cli import doctor
from fusion_replay.sources import provenance

FAKE = Path(__file__).parents[1] / "fake_iron"


def checks(run) -> dict[str, dict[str, object]]:
    return {r["name"]: r for r in map(json.loads, run("doctor", "--json").out.splitlines())}


def test_doctor(run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks(run)
    assert found["numpy"]["found"] == np.__version__
    if found["pyxrt"]["ok"] and found["NPU device"]["ok"]:
        pytest.skip("this machine has an NPU")
    assert run("doctor", "--json").status == 4
    text = run("doctor")
    for extra in ("hdf5", "torch", "minilm"):
        assert f": pip install 'fusion-replay[{extra}]'" in text.out, "what each extra gives, there or not"
    assert "pyxrt" in next(line for line in text.out.splitlines() if line.startswith("recording on an NPU needs"))
    assert text.out.splitlines()[-1].startswith("FAILED in ")

    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Check("everything", True, True, "here")]))
    complete = run("doctor")
    assert (complete.status, complete.out.splitlines()[-1][:6]) == (0, "PASSED")


@pytest.mark.parametrize("form", ["V3", "V6"])
def test_the_form_of_iron_and_what_it_allows(run, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKE / form.lower()))
    found = checks(run)
    assert found["iron"]["ok"]
    assert str(found["iron form"]["found"]).startswith(f"{form} (common/")
    assert ("fr.RecordingDispatch" in str(found["iron allows"]["found"])) == (form == "V3")
    text = run("doctor").out
    assert "\n  steps with dispatch='separate' on every NPU\n" in text
    assert "iron" not in sys.modules, "looking is not importing"


def test_a_form_that_shows_no_step_is_not_enough(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = tmp_path / "iron" / "common"
    common.mkdir(parents=True)
    (tmp_path / "iron" / "__init__.py").write_text("")
    (common / "fusion.py").write_text("class FusedMLIROperator:\n    def patch_rtp(self): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    form = checks(run)["iron form"]
    assert (form["ok"], form["needed"]) == (False, True)
    assert str(form["found"]).startswith("V0a")
    assert "--whole-calls" in str(form["fix"])


BINDING = """
import mmap
with open(__file__.replace("pyxrt.py", "libxrt_coreutil.so.2.21.75"), "w+b") as file:
    file.truncate(4096)
    library = mmap.mmap(file.fileno(), 4096)
def enumerate_devices(): return {devices}
"""


@pytest.mark.parametrize(
    ("binding", "ok", "said"),
    [
        (BINDING.replace("{devices}", "1"), True, "XRT 2.21.75, 1 device"),
        (BINDING.replace("{devices}", "0"), False, "XRT 2.21.75, 0 devices"),
        ("def enumerate_devices(): return 1", True, "XRT of unknown version, 1 device"),
        (
            "raise ImportError('libxrt_coreutil.so.2: no such file')",
            False,
            "ImportError: libxrt_coreutil.so.2: no such",
        ),
        ("def enumerate_devices(): raise RuntimeError('no libxrt_core')", False, "RuntimeError: no libxrt_core"),
        ("import os; os.abort()", False, "cannot be loaded: it ended with status -6"),
    ],
)
def test_pyxrt_is_there_when_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binding: str, ok: bool, said: str
) -> None:
    monkeypatch.delenv("XILINX_XRT", raising=False)
    (tmp_path / "pyxrt.py").write_text(binding)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = next(check for check in doctor.examine() if check.name == "pyxrt")
    assert (found.ok, found.needed) == (ok, True)
    assert found.found.startswith(str(tmp_path / "pyxrt.py"))
    assert said in found.found
    assert "pyxrt" not in sys.modules, "it may crash, and takes nobody along"


def test_versions_stand_beside_what_is_there(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.glob, "glob", lambda pattern: ["/dev/null"])
    monkeypatch.setattr(provenance, "pci_devices", lambda: [{"vbnv": "NPU Phoenix", "fw_version": "1.5.5.391"}])
    assert checks(run)["NPU device"]["found"] == "/dev/null, NPU Phoenix firmware 1.5.5.391"

    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(provenance, "pci_devices", missing)
    assert checks(run)["NPU device"]["found"] == "/dev/null"
