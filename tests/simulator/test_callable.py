# SPDX-License-Identifier: Apache-2.0
"""Running sequences on the software NPU: results, coherence between steps, runtime values, failures.

Expected values come from small integers, which bf16 adds exactly, and from numpy's own reshapes.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.simulator import HostRuntimeError, NpuTensor, operators
from fusion_replay.simulator import operators as ops
from fusion_replay.simulator.device import power_up
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernel import KernelResult, SimulatedKernel
from fusion_replay.simulator.kernels import Kernel

BF16 = ml_dtypes.bfloat16
N = 4096
ADD = ops.ElementwiseAdd(size=N, tile_size=1024, num_aie_columns=4)
MUL = ops.ElementwiseMul(size=N, tile_size=1024, num_aie_columns=4)
RELU = ops.ReLU(size=N, num_aie_columns=4, num_channels=1, tile_size=1024)
SILU = ops.SiLU(size=N, tile_size=1024, num_aie_columns=4)

devices = pytest.mark.parametrize("device", ["npu1", "npu2"])


def integers(seed: int, n: int = N) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(-64, 64, n).astype(BF16)


def add_relu(device: str = "npu1", **options: Any) -> Any:
    """y = relu(a + b), then y += a in place."""
    call = fr.simulate(
        [(ADD, "a", "b", "t"), (RELU, "t", "y"), (ADD, "y", "a", "y")],
        device,
        input_args=["a", "b"],
        output_args=["y"],
        **options,
    )
    call.get_buffer("a")[...] = integers(1)
    call.get_buffer("b")[...] = integers(2)
    return call


def expected_add_relu() -> list[int]:
    a, b = integers(1).astype(int), integers(2).astype(int)
    return (np.maximum(a + b, 0) + a).tolist()


def contents(call: Any) -> dict[str, bytes]:
    return {name: call.get_buffer(name).numpy().tobytes() for name in call.op.subbuffer_layout}


# --- results ----------------------------------------------------------------------------------------------------


@devices
def test_steps_run_in_order_and_in_place(device: str) -> None:
    call = add_relu(device)
    call()
    assert call.get_buffer("y").numpy().astype(int).tolist() == expected_add_relu()
    assert call.get_buffer("y").device == "cpu", "outputs are brought back"
    assert call.last_elapsed > 0
    call()
    assert call.get_buffer("y").numpy().astype(int).tolist() == expected_add_relu()
    assert call.invocations == 2


def test_a_slice_is_part_of_its_buffer() -> None:
    heads, m, n = 4, 64, 32
    transpose = ops.Transpose(M=m, N=n, num_aie_columns=1, num_channels=1, m=32, n=32, s=8)
    nbytes = m * n * 2
    slices = [f"[{h * nbytes}:{(h + 1) * nbytes}]" for h in range(heads)]
    call = fr.simulate(
        [(transpose, f"v{s}", f"vt{s}") for s in slices],
        buffer_sizes={"v": heads * nbytes, "vt": heads * nbytes},
    )
    values = np.random.default_rng(0).integers(0, 1 << 16, heads * m * n, np.uint16).view(BF16)
    call.get_buffer("v")[...] = values
    call()
    expected = values.view(np.uint16).reshape(heads, m, n).transpose(0, 2, 1)
    assert np.array_equal(call.get_buffer("vt").numpy().view(np.uint16).reshape(heads, n, m), expected)
    one = call.get_buffer(f"vt{slices[2]}")
    assert np.array_equal(one.numpy().view(np.uint16).reshape(n, m), expected[2])
    assert one.base is call.get_buffer("vt")


def test_scratch_keeps_its_contents_between_calls() -> None:
    call = fr.simulate([(ADD, "total", "x", "total")], input_args=["x"])
    call.get_buffer("x")[...] = integers(3)
    for _ in range(3):
        call()
    assert call.get_buffer("total").numpy().astype(int).tolist() == (3 * integers(3).astype(int)).tolist()


@devices
def test_the_same_runlist_is_bit_identical_15_of_15_times(device: str) -> None:
    """As reported for separate dispatch in https://github.com/Xilinx/mlir-aie/issues/3656."""
    values = np.random.default_rng(0).standard_normal(N).astype(BF16)

    def once() -> dict[str, bytes]:
        call = fr.simulate([(MUL, "x", "x", "t"), (SILU, "t", "t"), (ADD, "t", "x", "y")], device)
        call.get_buffer("x")[...] = values
        call()
        return contents(call)

    first = once()
    assert any(first["y"])
    assert all(once() == first for _ in range(14))


# --- coherence between steps ------------------------------------------------------------------------------------


class Spy:
    """A kernel in the plan's place that looks at the arguments around the real one."""

    def __init__(self, kernel: Any, look: Any) -> None:
        self._kernel, self._look = kernel, look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def __call__(self, *args: Any, **scalars: Any) -> Any:
        for a in args:
            self._look(a)
        result = self._kernel(*args, **scalars)
        for a in args:
            self._look(a)
        return result


def watched(call: Any, look: Any) -> Any:
    call._execution_plan = [(Spy(kernel, look), args) for kernel, args in call._execution_plan]
    return call


@devices
def test_reading_through_numpy_around_every_step_changes_nothing(device: str) -> None:
    seen = []
    plain, recorded = add_relu(device), watched(add_relu(device), lambda t: seen.append(t.numpy().copy()))
    for _ in range(2):
        plain()
        recorded()
    assert contents(recorded) == contents(plain)
    assert len(seen) == 2 * 2 * 8
    assert np.array_equal(seen[-1], plain.get_buffer("y").numpy()), "what was seen last is the result"


@devices
def test_reading_through_raw_views_corrupts_the_run(device: str) -> None:
    careless = watched(add_relu(device), lambda t: t.numpy_view().copy())
    careless()
    result = careless.get_buffer("y").numpy().astype(int)
    wrong = np.count_nonzero(result != expected_add_relu())
    assert wrong > N // 2
    assert careless.get_buffer("t").numpy().astype(int).tolist() == [0] * N, "the sum was overwritten by host zeros"


def test_an_input_written_without_a_record_is_not_seen() -> None:
    call = add_relu()
    call()
    call.get_buffer("a").numpy()[...] = 0
    call()
    assert call.get_buffer("y").numpy().astype(int).tolist() == expected_add_relu()


def test_weights_travel_once() -> None:
    call = fr.simulate([(MUL, "x", "w", "y")], input_args=["x"], output_args=["y"])
    with call.get_buffer("w").overwrite() as w:
        w[...] = integers(5)
    for i in range(4):
        call.get_buffer("x")[...] = integers(i)
        call()
        call.get_buffer("w").numpy()
    assert call.get_buffer("w").allocation.pushed == 2 * N
    assert call.get_buffer("w").allocation.pulled == 0
    assert call.get_buffer("x").allocation.pushed == 4 * 2 * N


def test_kernels_work_on_device_memory_itself() -> None:
    call = add_relu()
    step = call.op.steps[0]
    given = []

    def look(dispatch: Dispatch) -> list[Any]:
        given.extend([*dispatch.inputs, *dispatch.previous])
        return list(dispatch.previous)

    looking = Kernel(step.spec.type, look, lambda params, core: None)
    SimulatedKernel(step, looking, power_up("npu1"), "looking")(*map(call.get_buffer, step.names))
    for array, name in zip(given, ("a", "b", "t"), strict=True):
        assert np.shares_memory(array, call.get_buffer(name).allocation.device)
        assert not array.flags.writeable


# --- runtime values ---------------------------------------------------------------------------------------------


def masked_softmax() -> Any:
    softmax = ops.Softmax(rows=16, cols=64, vector_size_parameter="softmax_vector_size")
    copy = ops.StridedCopy((64,), (1,), 0, (64,), (1,), 0, 64, 1024, output_offset_parameter="cache_offset")
    call = fr.simulate([(softmax, "x", "p"), (copy, "new", "cache")])
    call.get_buffer("new")[...] = np.arange(64).astype(BF16)
    call.get_buffer("cache").fill_(-1)
    return call


def test_runtime_values_by_symbol() -> None:
    call = masked_softmax()
    assert call.symbols == ("softmax_vector_size", "cache_offset")
    assert [k.dispatch_params for k, _ in call._execution_plan] == [("softmax_vector_size",), ("cache_offset",)]
    call.write_values({"softmax_vector_size": 4, "cache_offset": 128})
    call()
    p = call.get_buffer("p").numpy().astype(float).reshape(16, 64)
    assert np.all(p[:, 4:] == 0)
    assert p[:, :4] == pytest.approx(0.25, rel=0.05)
    cache = call.get_buffer("cache").numpy().astype(int)
    assert cache[128:192].tolist() == list(range(64))
    assert (cache[:128] == -1).all()
    assert (cache[192:] == -1).all()
    call.write_values({"cache_offset": 512})
    call()
    cache = call.get_buffer("cache").numpy().astype(int)
    assert cache[512:576].tolist() == cache[128:192].tolist() == list(range(64))
    assert call.dispatch_values == {"softmax_vector_size": 4, "cache_offset": 512}


def test_a_runtime_value_that_was_never_written_or_is_unknown() -> None:
    call = masked_softmax()
    with pytest.raises(UsageError, match="missing softmax_vector_size: give them with write_values"):
        call()
    with pytest.raises(UsageError, match="position: no step asks for it; expected softmax_vector_size, cache_offset"):
        call.write_values({"position": 3})
    with pytest.raises(UsageError, match="expected none"):
        add_relu().write_values({"position": 3})


# --- kernels by hand, failures ----------------------------------------------------------------------------------


def test_a_kernel_called_with_tensors_of_ones_own() -> None:
    kernel = add_relu()._execution_plan[0][0]
    a, b, c = NpuTensor(integers(1)), NpuTensor(integers(2)), NpuTensor((N,), BF16)
    a[...] = integers(7)
    result = kernel(a, b, c)
    assert isinstance(result, KernelResult)
    assert result.is_success()
    assert result.ret.name == "ERT_CMD_STATE_COMPLETED"
    assert result.npu_time > 0
    assert [t.device for t in (a, b, c)] == ["npu"] * 3, "every argument is left on the device"
    assert c.numpy().astype(int).tolist() == (integers(7).astype(int) + integers(2).astype(int)).tolist()


def test_kernels_refuse_wrong_arguments() -> None:
    kernel = add_relu()._execution_plan[0][0]
    a = NpuTensor(integers(1))
    with pytest.raises(HostRuntimeError, match="has 3 buffer arguments \\(A, B, C\\), called with 2"):
        kernel(a, a)
    with pytest.raises(HostRuntimeError, match=r"argument C needs 8192 bytes .* has 128"):
        kernel(a, a, NpuTensor((64,), BF16))
    with pytest.raises(HostRuntimeError, match="argument B must be an NpuTensor, found ndarray"):
        kernel(a, integers(1), a)
    with pytest.raises(UsageError, match="unknown offset"):
        kernel(a, a, a, offset=3)


def test_kernel_names_are_spelled_as_irons() -> None:
    call = add_relu()
    names = [k.kernel_name for k, _ in call._execution_plan]
    assert names[0] == names[2]
    assert [n[-4:] for n in names] == ["_op0", "_op1", "_op0"]
    assert len(names[0].split("_")[0]) == 7


def test_a_timeout_stops_the_runlist_there() -> None:
    call = add_relu(faults=["1:1:timeout"])
    call()
    before = call.get_buffer("y").numpy().copy()
    call.get_buffer("a")[...] = integers(9)
    with pytest.raises(HostRuntimeError, match="Kernel returned ERT_CMD_STATE_TIMEOUT at 1:1 ReLU") as caught:
        call()
    assert caught.value.state is not None
    assert caught.value.state.name == "ERT_CMD_STATE_TIMEOUT"
    assert np.array_equal(call.get_buffer("y").numpy(), before), "nothing after the timeout has run"
    assert call.get_buffer("t").numpy().astype(int).tolist() == (integers(9) + integers(2)).astype(int).tolist()
    call()  # the third call is fine again
    assert call.invocations == 3


def test_unknown_buffers_are_named() -> None:
    with pytest.raises(UsageError, match="'z': the runlist has no such buffer; it has a, b, y, t"):
        add_relu().get_buffer("z")


def test_an_operator_without_a_kernel() -> None:
    from fusion_replay.model.runlist import ArgSpec
    from fusion_replay.operators import OperatorSpec
    from fusion_replay.refs import plugins, register

    spec = OperatorSpec(
        type="OnlyDescribed", args=lambda p: (ArgSpec("A", "in", (4,)),), params=(), flavours={}, tolerance={}
    )
    with plugins.forgetting():
        register(spec)
        op = operators.operator_class("OnlyDescribed")()
        with pytest.raises(UnknownOperatorError, match="OnlyDescribed"):
            fr.simulate([(op, "a")])


def test_what_a_recording_says_of_its_origin() -> None:
    call = add_relu("npu2")
    assert call.origin == {
        "variant": "simulator",
        "device": "npu2",
        "flavour": "iron-2026-09",
        "dispatch": "separate",
    }
    assert (call.device, call.op.name, call.op.input_args) == ("npu2", "sim", ["a", "b"])


def test_rounding_state_survives_from_step_to_step() -> None:
    """A GEMM leaves nearest-even behind, so the same add rounds differently after it."""
    gemm = ops.GEMM(M=256, K=64, N=64, num_aie_columns=1)
    a = np.full(N, 1.0, BF16)
    b = np.full(N, 3 * 2.0**-9, BF16)  # three quarters of the last place of 1.0: floor drops it, nearest takes it

    def total(runlist: list[Any]) -> float:
        call = fr.simulate(runlist, "npu2")
        call.get_buffer("a")[...] = a
        call.get_buffer("b")[...] = b
        call()
        return float(call.get_buffer("c").numpy()[0])

    assert total([(ADD, "a", "b", "c")]) == 1.0
    assert total([(gemm, "m", "k", "n"), (ADD, "a", "b", "c")]) == 1 + 2.0**-7


@devices
def test_what_may_be_exact_says_why(device: str) -> None:
    call = add_relu(device)  # floor at power-up: sums are cut, and nothing excuses a deviation of zero
    call()
    (reason,) = call.exact_kinds
    assert call.exact_kinds[reason] == ("ReLU",)
    norm = ops.RMSNorm(size=N, num_aie_columns=1, num_channels=1, tile_size=N)  # leaves the register at conv_even
    call = fr.simulate([(norm, "a", "n"), (ADD, "n", "a", "y")], device, input_args=["a"])
    call()
    assert any("ElementwiseAdd" in kinds and "conv_even" in why for why, kinds in call.exact_kinds.items())
