# SPDX-License-Identifier: Apache-2.0
"""Tilings against the transfers of IRON's designs, walked here one element at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay import operators, refs
from fusion_replay.operators.tiling import ROLES, Tiling, ruler
from fusion_replay.simulator.workloads.op import workload


def walk(offset: int, sizes: list[int], strides: list[int]) -> list[int]:
    """The elements that one TensorAccessPattern (Xilinx/mlir-aie taplib) visits, in order."""
    found = [offset]
    for size, stride in zip(sizes, strides, strict=True):
        found = [f + i * stride for f in found for i in range(size)]
    return found


def owners(op: str, params: dict[str, object], role: str) -> list[int]:
    tiling = refs.find(op).tiling_of(params)
    assert tiling is not None
    assert tiling.source
    return tiling.coordinate(role, np.arange(tiling.size)).tolist()


def test_binary_elementwise() -> None:
    # amd/IRON iron/operators/binary_elementwise_design.py: taps, one chunk a column
    size, columns, tile = 96, 4, 8
    expected = [-1] * size
    chunk = size // columns
    for i in range(columns):
        for e in walk(chunk * i, [1, 1, 1, chunk], [0, 0, 0, 1]):
            expected[e] = i
    params = {"size": size, "tile_size": tile, "num_aie_columns": columns}
    assert owners("ElementwiseAdd", params, "column") == expected
    assert owners("ElementwiseAdd", params, "tile") == [e % chunk // tile for e in range(size)]


def test_channelled_unary() -> None:
    # amd/IRON iron/operators/channeled_unary_design.py: chunk * i * num_channels + chunk * j
    size, columns, channels = 64, 4, 2
    chunk = size // columns // channels
    expected = {}
    for i in range(columns):
        for j in range(channels):
            for e in walk(chunk * i * channels + chunk * j, [chunk], [1]):
                expected[e] = (i, j)
    params = {"size": size, "num_aie_columns": columns, "num_channels": channels, "tile_size": 4}
    assert owners("GELU", params, "column") == [expected[e][0] for e in range(size)]
    assert owners("GELU", params, "channel") == [expected[e][1] for e in range(size)]


def test_gemv_by_batch() -> None:
    # amd/IRON iron/operators/gemv/design.py: C_taps
    m, columns, batches = 32, 4, 3
    column, batch = {}, {}
    for col in range(columns):
        for b in range(batches):
            for e in walk(col * (m // columns) + b * m, [1, 1, 1, m // columns], [0, 0, 0, 1]):
                column[e], batch[e] = col, b
    params = {"M": m, "K": 64, "num_aie_columns": columns, "tile_size_output": 4, "num_batches": batches}
    assert owners("GEMV", params, "column") == [column[e] for e in range(m * batches)]
    assert owners("GEMV", params, "batch") == [batch[e] for e in range(m * batches)]
    assert owners("GEMV", params, "tile") == [e % (m // columns) // 4 for e in range(m * batches)]


@pytest.mark.parametrize("c_col_maj", [False, True])
def test_gemm(c_col_maj: bool) -> None:
    # amd/IRON iron/operators/gemm/design.py with separate_c_tiles: one transfer a row of blocks and column
    m, n, rows, big_m, big_n, columns = 2, 3, 4, 16, 12, 2
    column, row = {}, {}
    for block in range(big_m // (m * rows)):
        for col in range(columns):
            if c_col_maj:
                offset = col * n * big_m + block * rows * m
                sizes, strides = [big_n // (n * columns), n, rows * m], [big_m * n * columns, big_m, 1]
            else:
                offset = col * n + block * rows * m * big_n
                sizes, strides = [big_n // (n * columns), rows * m, n], [n * columns, big_n, 1]
            for e in walk(offset, sizes, strides):
                column[e] = col
    for e in range(big_m * big_n):
        row[e] = (e % big_m if c_col_maj else e // big_n) // m % rows
    params = {
        "M": big_m, "K": 8, "N": big_n, "tile_m": m, "tile_n": n, "num_aie_columns": columns, "c_col_maj": c_col_maj,
    }  # fmt: skip
    assert owners("GEMM", params, "column") == [column[e] for e in range(big_m * big_n)]
    assert owners("GEMM", params, "row") == [row[e] for e in range(big_m * big_n)]


def test_transpose() -> None:
    # amd/IRON iron/operators/transpose/design.py: taps_out_L1L3
    big_m, big_n, columns, channels, m, n, batches = 16, 12, 2, 2, 4, 3, 2
    column, channel = {}, {}
    for i in range(columns):
        for j in range(channels):
            for b in range(batches):
                offset = b * big_m * big_n + (big_n // columns) * i * big_m + (big_m // channels) * j
                sizes = [big_m // channels // m, big_n // columns // n, n, m]
                for e in walk(offset, sizes, [m, n * big_m, big_m, 1]):
                    column[e], channel[e] = i, j
    params = {
        "M": big_m, "N": big_n, "num_aie_columns": columns, "num_channels": channels, "m": m, "n": n,
        "num_batches": batches,
    }  # fmt: skip
    assert owners("Transpose", params, "column") == [column[e] for e in range(big_m * big_n * batches)]
    assert owners("Transpose", params, "channel") == [channel[e] for e in range(big_m * big_n * batches)]


def test_rope_gives_each_column_a_run_of_rows() -> None:
    assert owners("RoPE", {"rows": 8, "cols": 32, "num_aie_columns": 2}, "column") == [0] * 128 + [1] * 128
    assert owners("RoPE", {"rows": 8, "cols": 32, "num_aie_columns": 2}, "tile") == [
        r % 4 for r in range(8) for _ in range(32)
    ]


def test_mha_deals_blocks_of_rows_to_its_pipelines() -> None:
    # amd/IRON iron/operators/mha/design.py: idx_buffer starts at the pipeline's number and grows by their count
    params = {"num_heads": 2, "seq_len": 256, "num_pipelines": 2}
    rows = [row // 64 % 2 for _head in range(2) for row in range(256) for _ in range(64)]
    assert owners("MHA", params, "column") == rows
    assert owners("MHA", params | {"heads_interleaved": True}, "column") == [
        row // 64 % 2 for row in range(256) for _head in range(2) for _ in range(64)
    ]


@pytest.mark.parametrize("spec", [s for s in refs.specs() if s.tiling], ids=lambda s: s.type)
def test_a_tiling_covers_the_first_output(spec: operators.OperatorSpec) -> None:
    device = spec.devices[0]
    step = workload(spec.type).build(device).callable.op.steps[0]
    tiling = spec.tiling_of(vars(step.params))
    assert tiling is None or tiling.size == next(a.size for a in step.args if a.writes)


def test_what_does_not_divide_has_no_tiling() -> None:
    assert refs.find("SiLU").tiling_of({"size": 10, "num_aie_columns": 4}) is None
    assert refs.find("GEMM").tiling_of({"M": 64, "K": 64, "N": 64, "tile_m": 0}) is None


@given(st.lists(st.tuples(st.sampled_from((*ROLES, "")), st.integers(1, 4)), min_size=1, max_size=5), st.data())
def test_blocks_and_coordinates_agree(axes: list[tuple[str, int]], data: st.DataObject) -> None:
    tiling = Tiling(tuple(axes))
    role = data.draw(st.sampled_from(ROLES))
    flat = np.arange(tiling.size)
    blocks = tiling.blocks(flat, role)
    assert blocks.shape[0] == tiling.count(role)
    for number, block in enumerate(blocks):
        assert (tiling.coordinate(role, block) == number).all()
    assert (tiling.unblock(blocks, role) == flat).all()


@pytest.mark.parametrize(("size", "tiles"), [(64, 8), (12, 6), (7, 7), (1, 1), (11, 1)])
def test_the_ruler(size: int, tiles: int) -> None:
    assert ruler(size).count("tile") == tiles
    assert ruler(size).size == size
