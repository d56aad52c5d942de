# SPDX-License-Identifier: Apache-2.0
"""The decode runlist against the tables of IRON's application, typed here by hand (amd/IRON llama_npu.py).

Nothing is allocated: operators and the runlist are data.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.operators import parameters_of
from fusion_replay.simulator.workloads.base import COLUMNS, SequenceSpec
from fusion_replay.simulator.workloads.llama_config import CONFIGS, weights
from fusion_replay.simulator.workloads.llama_runlist import plan

BIG = CONFIGS["llama-3.2-1b"]
L = 2048
B = 262_144  # bytes of one head's values at L = 2048

OPERATORS: list[tuple[str, dict[str, Any]]] = [
    ("RMSNorm", {"size": 2048, "tile_size": 2048, "num_aie_columns": 1, "num_channels": 1, "weighted": True}),
    ("GEMV", {"M": 2048, "K": 2048, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 32}),
    ("GEMV", {"M": 512, "K": 2048, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 32}),
    ("RoPE", {"rows": 32, "cols": 64, "angle_rows": 1}),
    ("RoPE", {"rows": 8, "cols": 64, "angle_rows": 1}),
    (
        "StridedCopy",
        {
            "input_sizes": (8, 64),
            "input_strides": (64, 1),
            "output_sizes": (1, 8, 64),
            "output_strides": (0, L * 64, 1),
            "input_buffer_size": 512,
            "output_buffer_size": 8 * L * 64,
            "num_aie_channels": 1,
            "output_offset_parameter": "cache_offset",
        },
    ),
    ("Repeat", {"rows": 8, "cols": L * 64, "repeat": 4, "transfer_size": 64}),
    (
        "GEMV",
        {"M": L, "K": 64, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 256, "num_batches": 32},
    ),
    ("ElementwiseMul", {"size": 32 * L, "tile_size": 256, "num_aie_columns": 8}),
    (
        "Softmax",
        {
            "rows": 32,
            "cols": L,
            "num_aie_columns": 1,
            "num_channels": 1,
            "rtp_vector_size": L,
            "vector_size_parameter": "softmax_vector_size",
        },
    ),
    ("Transpose", {"M": L, "N": 64, "num_aie_columns": 2, "num_channels": 1, "m": 256, "n": 32, "s": 8}),
    ("GEMV", {"M": 64, "K": L, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 4, "num_batches": 32}),
    ("GEMV", {"M": 2048, "K": 2048, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 256}),
    ("ElementwiseAdd", {"size": 2048, "tile_size": 256, "num_aie_columns": 8}),
    ("GEMV", {"M": 8192, "K": 2048, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 1024}),
    ("SiLU", {"size": 8192, "tile_size": 1024, "num_aie_columns": 8}),
    ("ElementwiseMul", {"size": 8192, "tile_size": 1024, "num_aie_columns": 8}),
    ("GEMV", {"M": 2048, "K": 8192, "num_aie_columns": 8, "tile_size_input": 1, "tile_size_output": 256}),
    ("GEMV", {"M": 128256, "K": 2048, "num_aie_columns": 8, "tile_size_input": 4, "tile_size_output": 32}),
]

BEFORE_TRANSPOSES = """\
0 x W_norm1_7 x_norm
1 W_attn_query_7 x_norm queries
2 W_attn_key_7 x_norm keys
2 W_attn_value_7 x_norm values
3 queries rope_angles queries
4 keys rope_angles keys
5 keys keys_cache_7
5 values values_cache_7
6 keys_cache_7 attn_scores_keys
6 values_cache_7 attn_scores_values
7 attn_scores_keys queries attn_scores
8 attn_scores attn_scale_factor attn_scores
9 attn_scores attn_weights
"""
AFTER_TRANSPOSES = """\
11 attn_scores_values_transposed attn_weights attn_context
12 W_attn_output_decode_7 attn_context attn_output
13 x attn_output x
0 x W_norm2_7 x_norm
14 W_ffn_gate_7 x_norm ffn_gate
14 W_ffn_up_7 x_norm ffn_up
15 ffn_gate ffn_gate
16 ffn_gate ffn_up ffn_hidden
17 W_ffn_down_7 ffn_hidden ffn_output
13 x ffn_output x
"""

BYTES = {
    "keys_cache_0": 2_097_152,
    "attn_scores_keys": 8_388_608,
    "attn_scores_values": 8_388_608,
    "attn_scores_values_transposed": 8_388_608,
    "attn_scores": 131_072,
    "attn_weights": 131_072,
    "attn_scale_factor": 131_072,
    **dict.fromkeys(("x", "x_norm", "queries", "attn_context", "attn_output", "ffn_output"), 4_096),
    "keys": 1_024,
    "values": 1_024,
    **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_hidden"), 16_384),
    "rope_angles": 128,
    "logits": 256_512,
    "W_final_norm": 4_096,
    "W_out_head": 525_336_576,
}


@pytest.fixture(scope="module")
def big() -> SequenceSpec:
    return plan(BIG, L, COLUMNS["npu2"])


def first_use(sequence: SequenceSpec) -> list[Any]:
    return list({id(op): op for op, *_ in sequence.runlist}.values())


def base(name: str) -> str:
    return name.partition("[")[0]


def test_operators_in_first_use_order(big: SequenceSpec) -> None:
    ops = first_use(big)
    assert [type(op).__name__ for op in ops] == [name for name, _ in OPERATORS]
    for index, (op, (name, expected)) in enumerate(zip(ops, OPERATORS, strict=True)):
        found = parameters_of(op)
        assert {k: found[k] for k in expected} == expected, f"operator {index} {name}"
        if name == "GEMV":
            assert found["num_batches"] == expected.get("num_batches", 1)


def test_steps_of_a_layer(big: SequenceSpec) -> None:
    index = {id(op): i for i, op in enumerate(first_use(big))}
    lines = [" ".join([str(index[id(op)]), *names]) for op, *names in big.runlist[7 * 55 : 8 * 55]]
    heads = [
        f"10 attn_scores_values[{h * B}:{h * B + B}] attn_scores_values_transposed[{h * B}:{h * B + B}]"
        for h in range(32)
    ]
    assert lines == BEFORE_TRANSPOSES.splitlines() + heads + AFTER_TRANSPOSES.splitlines()


def test_the_tail_and_the_totals(big: SequenceSpec) -> None:
    assert [names for _, *names in big.runlist[-2:]] == [["x", "W_final_norm", "x"], ["W_out_head", "x", "logits"]]
    assert len(big.runlist) == 882
    kinds = Counter(type(op).__name__ for op, *_ in big.runlist)
    assert kinds["Transpose"] == 512
    assert kinds["StridedCopy"] == 32
    assert sum(names[-1] in names[:-1] for _, *names in big.runlist) == 97  # in place
    assert big.input_args == ("x", "rope_angles")
    assert big.output_args == ("logits",)


def test_explicit_buffer_sizes(big: SequenceSpec) -> None:
    assert len(big.buffer_sizes) == 34
    assert sum(v for k, v in big.buffer_sizes.items() if "cache" in k) == 67_108_864
    assert {k: v for k, v in big.buffer_sizes.items() if "cache" not in k} == {
        "attn_scores_values": 8_388_608,
        "attn_scores_values_transposed": 8_388_608,
    }


def test_bytes_of_every_buffer_and_of_all_weights(big: SequenceSpec) -> None:
    found: dict[str, int] = dict(big.buffer_sizes)
    for op, *names in big.runlist:
        for name, spec in zip(names, op.get_arg_spec(), strict=True):
            if "[" not in name:
                assert found.setdefault(name, spec.nbytes()) == spec.nbytes(), name
            else:
                start, end = map(int, re.findall(r"\d+", name.partition("[")[2]))
                assert end - start == spec.nbytes(), name
    assert {k: found[k] for k in BYTES} == BYTES
    all_weights = sum(v for k, v in found.items() if k.startswith("W_"))
    assert all_weights == 2_471_628_800
    assert sum(v for k, v in found.items() if k.startswith("W_") and k.endswith("_0")) == 121_643_008


def test_weights_name_exactly_the_weight_buffers(big: SequenceSpec) -> None:
    slots = {w.buffer: 2 * math.prod(w.shape) for w in weights(BIG)}
    used = {base(n) for _, *names in big.runlist for n in names}
    assert set(slots) == {n for n in used if n.startswith("W_")}
    assert sum(slots.values()) == 2_471_628_800
    assert len({w.tensor for w in weights(BIG)}) == 16 * 9 + 2


def test_npu1_uses_its_four_columns_and_the_same_runlist(big: SequenceSpec) -> None:
    small = plan(BIG, L, COLUMNS["npu1"])
    assert [names for _, *names in small.runlist] == [names for _, *names in big.runlist]
    assert max(parameters_of(op).get("num_aie_columns") or 0 for op in first_use(small)) == 4


@pytest.mark.parametrize("layers", [1, 5])
def test_fewer_layers(layers: int) -> None:
    assert len(plan(replace(BIG, layers=layers), 1024, 8).runlist) == 55 * layers + 2


@pytest.mark.parametrize("context", [0, 32, 100, 2112])
def test_context_outside_the_design_is_refused(context: int) -> None:
    with pytest.raises(UsageError, match=f"context {context}: expected a multiple of 64 from 64 to 2048"):
        plan(BIG, context, 8)
