# SPDX-License-Identifier: Apache-2.0
"""A user's operator on the software NPU: declared, simulated, recorded, replayed, and broken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import RunlistError, UnknownOperatorError, UsageError
from fusion_replay.simulator import operators as ops
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel, has_kernel

BF16 = ml_dtypes.bfloat16

pytestmark = pytest.mark.usefixtures("registry")


def declare(**how: Any) -> None:
    @fr.operator("Blend", tolerance=fr.bf16_ulps(2), **how)
    def reference(A: Any, B: Any, *, share: float = 0.25) -> Any:
        return share * A + (1 - share) * B

    @fr.kernel("Blend")
    def on_the_core(a: Any, b: Any, *, share: float, core: Core) -> Any:
        assert a.dtype == b.dtype == np.float32
        return core.round_bf16(a * np.float32(share)) + b * np.float32(1 - share)


def shapes(params: SimpleNamespace) -> tuple[fr.ArgSpec, ...]:
    return (fr.ArgSpec("A", "in", (64,)), fr.ArgSpec("B", "in", (64,)), fr.ArgSpec("C", "out", (64,)))


def run(op: Any, tmp_path: Path, *faults: str, device: str = "npu2") -> Any:
    call = fr.simulate([(op, "a", "b", "c")], device, faults)
    rng = np.random.default_rng(0)
    for name in "ab":
        call.get_buffer(name)[...] = rng.uniform(0.5, 4, 64).astype(BF16)
    with fr.record(tmp_path / "u.h5", call, if_exists="replace"):
        call()
    return call, fr.replay(tmp_path / "u.h5")


@pytest.mark.parametrize("where", ["declared", "given"])
@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_from_declaration_to_verdict(where: str, device: str, tmp_path: Path) -> None:
    declare(**({"args": shapes} if where == "declared" else {}))
    given = () if where == "declared" else shapes(SimpleNamespace())
    op = ops.custom("Blend", given, share=0.75)
    call, report = run(op, tmp_path, device=device)
    assert report.passed
    a, b, c = (np.array(call.get_buffer(n).numpy()).astype(np.float64) for n in "abc")
    step = np.ldexp(1.0, np.frexp(a * 0.75)[1] - 8)
    exact = np.floor(a * 0.75 / step) * step + b * 0.25  # the intermediate rounding, down as after power-up
    ulp = np.ldexp(1.0, np.frexp(exact)[1] - 8)
    np.testing.assert_array_equal(c, np.floor(exact / ulp) * ulp)
    with fr.open(tmp_path / "u.h5") as snap:
        assert list(snap["0:0"].inputs)[:2] == ["A", "B"]
        assert snap["0:0"].op.params == {"share": 0.75}
    _, report = run(op, tmp_path, "Blend:shift:16")
    assert not report.passed


def test_several_outputs_old_contents_and_integers(tmp_path: Path) -> None:
    @fr.kernel("Count")
    def count(x: Any, *, previous: Any, start: int = 3) -> Any:
        assert x.dtype == np.int32
        return x + start, previous[1] + np.array([int((x > 0).sum())], np.int32)

    x, old = np.array([1, -2, 5], np.int32), [np.zeros(3, np.int32), np.array([10], np.int32)]
    first, second = find_kernel("Count").run(Dispatch(Core("npu1"), SimpleNamespace(), [x], old))
    assert (first.tolist(), second.tolist()) == ([4, 1, 8], [12])
    first, _ = find_kernel("Count").run(Dispatch(Core("npu1"), SimpleNamespace(), [x], old, {"start": 1}))
    assert first.tolist() == [2, -1, 6]


def test_what_a_kernel_may_not_do() -> None:
    @fr.kernel("Half")
    def half(x: Any, *, scale: float) -> Any:
        return x * scale

    x, out = np.ones(4, BF16), np.zeros(4, BF16)
    with pytest.raises(UsageError, match=r"kernel 'Half': there is one already, by .*half"):
        fr.kernel("Half")
    with pytest.raises(UsageError, match="kernel 'GEMV': there is one already, by the software NPU itself"):
        fr.kernel("GEMV")
    with pytest.raises(UsageError, match="kernel 'Half': argument 'scale' is no parameter or runtime value"):
        find_kernel("Half").run(Dispatch(Core("npu1"), SimpleNamespace(), [x], [out]))
    with pytest.raises(UsageError, match=r"the operator has 2 inputs, .*half takes 1"):
        find_kernel("Half").run(Dispatch(Core("npu1"), SimpleNamespace(scale=2), [x, x], [out]))
    with pytest.raises(UsageError, match="gave 1 results for 2 outputs"):
        find_kernel("Half").run(Dispatch(Core("npu1"), SimpleNamespace(scale=2), [x], [out, out]))
    with pytest.raises(UsageError, match=r"gave 4 elements \(4,\) for an output of 2"):
        find_kernel("Half").run(Dispatch(Core("npu1"), SimpleNamespace(scale=2), [x], [out[:2]]))
    with pytest.raises(UsageError, match="must name its arguments"):
        fr.kernel("Any")(lambda *x: x)
    fr.kernel("Half", replace=True)(lambda x: x)
    assert find_kernel("Half").run(Dispatch(Core("npu1"), SimpleNamespace(), [x], [out]))[0].tolist() == [1] * 4


def test_what_is_missing_is_said() -> None:
    declare()
    with pytest.raises(UsageError, match="Blend was declared without shapes: give args="):
        ops.custom("Blend", share=0.5)
    with pytest.raises(UsageError, match="Blend: parameter ratio: expected share"):
        ops.custom("Blend", shapes(SimpleNamespace()), ratio=0.5)
    with pytest.raises(UnknownOperatorError, match="operator 'Blur' is unknown"):
        ops.custom("Blur")
    with pytest.raises(RunlistError, match=r"step 0 \(Blend\): declared without shapes, .*args=.*custom\(\)"):
        fr.simulate([(ops.Blend(share=0.5), "a", "b", "c")])
    with pytest.raises(RunlistError, match="expected 3 buffers"):
        fr.simulate([(ops.custom("Blend", shapes(SimpleNamespace())), "a")])

    @fr.operator("NoKernel", args=lambda p: (fr.ArgSpec("x", "in", (4,)), fr.ArgSpec("y", "out", (4,))))
    def no_kernel(x: Any) -> Any:
        return x

    assert not has_kernel("NoKernel")
    with pytest.raises(UnknownOperatorError, match=r"Declare one with @fusion_replay.kernel\('NoKernel'\)"):
        fr.simulate([(ops.custom("NoKernel"), "x", "y")])
