# SPDX-License-Identifier: Apache-2.0
"""Designs that IRON could not build are refused, by operator, argument, what was expected and what was found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.kernels import find_kernel

STREAM = {"size": 4096, "tile_size": 512, "num_aie_columns": 4, "num_channels": 2}
COPY = {"input_sizes": (8, 64), "input_strides": (64, 1), "output_sizes": (1, 8, 64), "output_strides": (0, 999, 1)}
WALK = {"offset": 64, "sizes": (8, 64), "strides": (1024, 1)}
MHA = {"num_heads": 8, "num_KV_heads": 2, "seq_len": 300, "d": 64, "num_pipelines": 8}
GOOD: dict[str, dict[str, object]] = {
    "ElementwiseAdd": {"size": 2048, "tile_size": 256, "num_aie_columns": 4},
    "ElementwiseMul": {"size": 2048, "tile_size": None, "num_aie_columns": 4},
    "SiLU": {"size": 4096, "tile_size": 1024, "num_aie_columns": 4},
    "ReLU": STREAM,
    "GELU": STREAM,
    "LayerNorm": STREAM,
    "RMSNorm": {**STREAM, "weighted": True, "num_channels": 1},
    "Softmax": {"rows": 32, "cols": 256, "num_aie_columns": 2, "num_channels": 1, "rtp_vector_size": None},
    "RoPE": {"rows": 32, "cols": 64, "angle_rows": 1, "num_aie_columns": 1, "method_type": 0},
    "GEMV": {"M": 2048, "K": 64, "num_aie_columns": 4, "tile_size_input": 4, "tile_size_output": 32},
    "GEMM": {"M": 256, "K": 384, "N": 512, "num_aie_columns": 4, "tile_m": 64, "tile_k": 64, "tile_n": 64},
    "Transpose": {"M": 2048, "N": 64, "num_aie_columns": 2, "num_channels": 1, "m": 256, "n": 32, "s": 8},
    "Repeat": {"rows": 8, "cols": 64, "repeat": 4, "transfer_size": 64},
    "StridedCopy": COPY,
    "Copy": {"src": None, "dst": WALK, "input_buffer_size": 512, "output_buffer_size": 8192, "num_channels": 2},
    "MemCopy": {"size": 2047, "num_cores": 4, "num_channels": 1, "bypass": False, "tile_size": 256},
    "Tanh": STREAM,
    "Sigmoid": STREAM,
    "LeakyReLU": {**STREAM, "alpha": 0.01},
    "AXPY": {**STREAM, "scalar_factor": 3.0},
    "Clamp": {**STREAM, "low": -1.0, "high": 1.0},
    "Dequant": {**STREAM, "group_size": 32},
    "DepthwiseConv1d": {"rows": 64, "channels": 96, "num_aie_columns": 4},
    "DualGEMVSiLUMul": {"M": 256, "K": 128, "num_aie_columns": 4, "tile_size_input": 4, "tile_size_output": 16},
    "SiLUMul": STREAM,
    "WeightedRMSNorm": {"rows": 8, "tile_size": 512, "num_aie_columns": 4, "num_channels": 2},
    "FusedQKVProj": {"embedding_dim": 128, "q_dim": 128, "k_dim": 64, "v_dim": 64},
    "FusedDequantGEMV": {"M": 256, "K": 128, "tile_size_input": 2, "tile_size_output": 32},
    "SwiGLUFusedDecode": {"embedding_dim": 128, "hidden_dim": 512},
    "GQAContext": {"groups": 4, "heads_per_group": 4, "seq_len": 192, "head_dim": 64, "chunk": None},
    "Sample": {"vocab": 4096, "k_max": 64, "cores": 4, "chunk": 256, "steps": 3},
    "Emit": {"slots": 32, "carried": 2},
}

BAD: list[tuple[str, str, dict[str, object], str]] = [
    ("ElementwiseAdd", "npu1", {"num_aie_columns": 8}, r"ElementwiseAdd: num_aie_columns=8: expected 1 to 4 on npu1"),
    ("ElementwiseAdd", "npu2", {"size": 2000}, r"ElementwiseAdd: size=2000: expected a positive multiple of 1024"),
    ("ElementwiseMul", "npu2", {"size": 2047}, r"ElementwiseMul: size=2047: expected a positive multiple of 4 "),
    ("SiLU", "npu2", {"num_aie_columns": 9}, r"SiLU: num_aie_columns=9: expected 1 to 8 on npu2"),
    ("SiLU", "npu2", {"tile_size": 0}, r"SiLU: tile_size=0"),
    ("ReLU", "npu2", {"num_channels": 3}, r"ReLU: size=4096: expected a positive multiple of 6144"),
    ("GELU", "npu1", {"num_aie_columns": 0}, r"GELU: num_aie_columns=0"),
    ("LayerNorm", "npu2", {"tile_size": 16}, r"LayerNorm: tile_size=16: expected a positive multiple of 32 .*npu2"),
    ("RMSNorm", "npu2", {"num_channels": 2}, r"RMSNorm: num_channels=2: expected 1 with weighted=True"),
    ("Softmax", "npu1", {"rows": 24}, r"Softmax: rows=24: expected a positive multiple of 16"),
    ("Softmax", "npu1", {"cols": 40}, r"Softmax: cols=40: expected a positive multiple of 16 "),
    ("Softmax", "npu2", {"cols": 96}, r"Softmax: cols=96: expected a positive multiple of 64 .*npu2"),
    ("Softmax", "npu2", {"rtp_vector_size": 300}, r"Softmax: vector_size=300"),
    ("RoPE", "npu1", {"cols": 48}, r"RoPE: cols=48: expected a positive multiple of 32"),
    ("RoPE", "npu1", {"angle_rows": 5}, r"RoPE: rows=32: expected a positive multiple of 5 \(angle_rows\)"),
    ("RoPE", "npu1", {"num_aie_columns": 2}, r"RoPE: angle_rows=1: expected a positive multiple of 2"),
    ("RoPE", "npu1", {"method_type": 2}, r"RoPE: method_type=2: expected 0 \(halves\) or 1 \(interleaved\)"),
    ("GEMV", "npu1", {"K": 72}, r"GEMV: K=72: expected a positive multiple of 16"),
    ("GEMV", "npu1", {"kernel_vector_size": 8}, r"GEMV: K=64"),
    ("GEMV", "npu1", {"M": 2064}, r"GEMV: M=2064: expected a positive multiple of 128"),
    ("GEMV", "npu1", {"tile_size_output": 6}, r"GEMV: tile_size_output=6: expected a positive multiple of 4"),
    ("GEMV", "npu1", {"epilogue": "gelu"}, r"GEMV: epilogue='gelu': expected 'none' on npu1"),
    ("GEMV", "npu2", {"epilogue": "relu"}, r"GEMV: epilogue='relu': expected 'none' or 'gelu'"),
    ("GEMV", "npu2", {"num_batches": 0}, r"GEMV: num_batches=0"),
    ("GEMM", "npu1", {"M": 192}, r"GEMM: M=192: expected a positive multiple of 256 \(4 \* tile_m\)"),
    ("GEMM", "npu1", {"K": 100}, r"GEMM: K=100: expected a positive multiple of 64 \(tile_k\)"),
    ("GEMM", "npu2", {"N": 384}, r"GEMM: N=384: expected a positive multiple of 256"),
    ("GEMM", "npu2", {"tile_m": 24}, r"GEMM: tile_m=24: expected a positive multiple of 16 .*npu2"),
    ("GEMM", "npu2", {"num_aie_columns": 3}, r"GEMM: num_aie_columns=3: expected 1, 2, 4 or 8"),
    ("GEMM", "npu2", {"dtype_in": "i8"}, r"GEMM: dtype_in=i8: expected bf16"),
    ("Transpose", "npu1", {"m": 100}, r"Transpose: M=2048: expected a positive multiple of 100 \(m\)"),
    ("Transpose", "npu1", {"s": 64}, r"Transpose: n=32: expected a positive multiple of 64 \(s\)"),
    ("Transpose", "npu1", {"num_channels": 12}, r"Transpose: M \* N=131072"),
    ("Repeat", "npu1", {"repeat": 0}, r"Repeat: repeat=0: expected a positive count"),
    ("StridedCopy", "npu1", {"output_sizes": (8, 32)}, r"StridedCopy: output_strides"),
    ("StridedCopy", "npu1", {"input_sizes": (4, 64)}, r"StridedCopy: output_sizes=.*expected 256 elements"),
    ("StridedCopy", "npu1", {"num_aie_channels": 3}, r"StridedCopy: input_sizes\[-1\]=64"),
    ("StridedCopy", "npu1", {"input_sizes": (1,) * 5}, r"StridedCopy: input_sizes=.*1 to 4 dimensions"),
    ("StridedCopy", "npu1", {"transfer_size": 100}, r"StridedCopy: input_sizes=512: .*100 \(transfer_size\)"),
    (
        "StridedCopy",
        "npu1",
        {"input_strides": (-64, 1)},
        r"StridedCopy: input_strides=\(-64, 1\): .*none below 0",
    ),
    ("StridedCopy", "npu1", {"output_strides": (0, 1, 1)}, r"StridedCopy: output_strides=.*: .* no element twice"),
    ("StridedCopy", "npu1", {"input_sizes": (0, 64)}, r"StridedCopy: input_sizes=\(0, 64\): expected each at least 1"),
    ("Copy", "npu1", {"dst": {**WALK, "strides": (1, 1)}}, r"Copy: dst.strides=\(1, 1\): .* no element twice"),
    ("Copy", "npu1", {"src": {**WALK, "strides": (-64, 1)}}, r"Copy: src.strides=\(-64, 1\): expected none below 0"),
    ("GEMM", "npu2", {"partition_N": 0}, r"GEMM: partition_N=0: expected at least 1"),
    ("Transpose", "npu1", {"num_batches": 0}, r"Transpose: num_batches=0: expected at least 1"),
    ("GEMV", "npu1", {"num_batches": 6, "repeat": 4}, r"GEMV: num_batches=6: expected a positive multiple of 4 "),
    ("GEMM", "npu2", {"epilogue": "silu"}, r"GEMM: epilogue='silu': expected 'none' or 'gelu'"),
    ("Copy", "npu1", {"src": {**WALK, "strides": (1,)}}, r"Copy: src.strides=\(1,\): expected 2 strides"),
    ("Copy", "npu1", {"input_buffer_size": 256}, r"Copy: dst.sizes=\(8, 64\): expected 256 elements, as src.sizes"),
    ("Copy", "npu1", {"num_channels": 3}, r"Copy: src.sizes\[-1\]=512: expected a positive multiple of 3 "),
    ("Copy", "npu1", {"tile_size": 100}, r"Copy: src.sizes=256: .*100 \(tile_size, per channel\)"),
    ("MemCopy", "npu1", {"num_cores": 5}, r"MemCopy: num_cores=5: expected 1 to 4 on npu1"),
    ("MemCopy", "npu2", {"num_channels": 3}, r"MemCopy: num_channels=3: expected 1 or 2"),
    ("MemCopy", "npu2", {"size": 0}, r"MemCopy: size=0: expected at least 1"),
    ("LeakyReLU", "npu1", {"tile_size": 32}, r"LeakyReLU: tile_size=32: expected at least 64 elements"),
    ("AXPY", "npu1", {"tile_size": 32}, r"AXPY: tile_size=32: expected a positive multiple of 64 "),
    ("Clamp", "npu2", {"low": 2.0}, r"Clamp: low=2.0: expected at most high=1.0"),
    ("Clamp", "npu2", {"tile_size": 16}, r"Clamp: tile_size=16: expected a positive multiple of 32 "),
    ("Tanh", "npu1", {"size": 4095}, r"Tanh: size=4095: expected a positive multiple of 4096 "),
    ("Dequant", "npu1", {"group_size": 48}, r"Dequant: group_size=48: expected a positive multiple of 32"),
    ("Dequant", "npu1", {"group_size": 96}, r"Dequant: tile_size=512: expected a positive multiple of 96 "),
    ("Dequant", "npu1", {"tile_size": 32}, r"Dequant: tile_size=32: expected a positive multiple of 64 "),
    ("Dequant", "npu2", {"num_aie_columns": 8, "num_channels": 4}, r"Dequant: num_channels=4: expected at most 16"),
    ("DepthwiseConv1d", "npu1", {"channels": 80}, r"DepthwiseConv1d: channels=80: .*multiple of 32"),
    ("DepthwiseConv1d", "npu1", {"rows": 12}, r"DepthwiseConv1d: rows=12: expected at least 4 rows for each of 4 col"),
    ("DualGEMVSiLUMul", "npu1", {"K": 100}, r"DualGEMVSiLUMul: K=100: expected a positive multiple of 64"),
    ("DualGEMVSiLUMul", "npu1", {"tile_size_output": 8}, r"tile_size_output=8: expected a positive multiple of 16"),
    ("DualGEMVSiLUMul", "npu1", {"M": 96}, r"DualGEMVSiLUMul: M=96: expected a positive multiple of 64"),
    ("WeightedRMSNorm", "npu1", {"rows": 6}, r"WeightedRMSNorm: size=3072: expected a positive multiple of 4096"),
    ("FusedQKVProj", "npu1", {"embedding_dim": 72}, r"GEMV: K=72: expected a positive multiple of 16"),
    ("FusedDequantGEMV", "npu1", {"K": 100}, r"FusedDequantGEMV: K=100: expected a positive multiple of 32"),
    ("FusedDequantGEMV", "npu1", {"M": 100}, r"FusedDequantGEMV: M=100: expected a positive multiple of 128"),
    ("SwiGLUFusedDecode", "npu1", {"embedding_dim": 96}, r"SwiGLUFusedDecode: embedding_dim=96: .*multiple of 64"),
    ("SwiGLUFusedDecode", "npu1", {"m_output_stage1": 64}, r"m_output_stage1=64: expected 128, all of a column"),
    ("SwiGLUFusedDecode", "npu2", {"hidden_dim": 16384}, r"hidden_dim=16384: expected at most 2048 a column"),
    ("GQAContext", "npu1", {"groups": 8}, r"GQAContext: groups=8: expected 1 to 4, a column each on npu1"),
    ("GQAContext", "npu2", {"heads_per_group": 5}, r"GQAContext: heads_per_group=5: expected 1 to 4"),
    ("GQAContext", "npu2", {"seq_len": 100}, r"GQAContext: seq_len=100: expected a positive multiple of 64"),
    ("GQAContext", "npu2", {"chunk": 128}, r"GQAContext: seq_len=192: expected a positive multiple of 128 \(chunk"),
    ("Sample", "npu1", {"cores": 8}, r"Sample: cores=8: expected 1 to 4"),
    ("Sample", "npu1", {"vocab": 4098}, r"Sample: vocab=4098: expected a positive multiple of 4 \(cores\)"),
    ("Sample", "npu1", {"k_max": 2000}, r"Sample: k_max=2000: expected 1 to 1024"),
    ("Sample", "npu1", {"chunk": 3}, r"Sample: vocab=1024: expected a positive multiple of 3 "),
    ("Emit", "npu1", {"carried": 0}, r"Emit: carried=0: expected at least 1"),
]

BAD_MHA = [
    ({"d": 128}, r"MHA: d=128: expected 64"),
    ({"num_KV_heads": 3}, r"MHA: num_heads=8: expected a positive multiple of 3 \(num_KV_heads\)"),
    ({"num_pipelines": 7}, r"MHA: num_pipelines=7: expected an even number above 6"),
    ({"num_pipelines": 9}, r"MHA: num_pipelines=9: expected 1 to 8"),
    ({"seq_len": 0}, r"MHA: seq_len=0: expected at least 1"),
]


@pytest.mark.parametrize("op", GOOD)
@pytest.mark.parametrize("generation", ["npu1", "npu2"])
def test_buildable_designs_pass(op: str, generation: str) -> None:
    find_kernel(op).check(SimpleNamespace(**GOOD[op]), Core(generation))


@pytest.mark.parametrize(("op", "generation", "change", "message"), BAD)
def test_unbuildable_designs_are_refused(op: str, generation: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find_kernel(op).check(SimpleNamespace(**{**GOOD[op], **change}), Core(generation))
    assert "\n" not in str(caught.value)


def test_mha_is_for_npu2_alone() -> None:
    check = find_kernel("MHA").check
    check(SimpleNamespace(**MHA), Core("npu2"))
    with pytest.raises(UsageError, match="MHA: device=npu1: expected npu2"):
        check(SimpleNamespace(**MHA), Core("npu1"))
    for change, message in BAD_MHA:
        with pytest.raises(UsageError, match=message):
            check(SimpleNamespace(**{**MHA, **change}), Core("npu2"))


def test_native_products_on_npu2_take_smaller_tiles() -> None:
    params = {**GOOD["GEMM"], "M": 96, "tile_m": 24, "emulate_bf16_mmul_with_bfp16": False}
    find_kernel("GEMM").check(SimpleNamespace(**params), Core("npu2"))


def test_unknown_operator() -> None:
    with pytest.raises(UnknownOperatorError, match=r"no kernel for operator 'Conv2D'; it has: AXPY, .*Transpose"):
        find_kernel("Conv2D")
