# SPDX-License-Identifier: Apache-2.0
"""Fused dispatch on the software NPU: its layout, its bits, and the faults that only it has."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator import SimulatedSequence, operators
from fusion_replay.simulator.arena import aligned, back_to_back, lives, places
from fusion_replay.simulator.workloads import find

N = 256
SIZES = {"h": 2 * N, "g": 2 * N, "k": 2 * N}


def runlist() -> list[tuple[Any, ...]]:
    add = operators.ElementwiseAdd(size=N, tile_size=32, num_aie_columns=8)
    silu = operators.SiLU(size=N, tile_size=32, num_aie_columns=8)
    return [(add, "x", "w", "h"), (silu, "w", "g"), (add, "g", "h", "k"), (add, "k", "w", "k"), (silu, "k", "y")]


def sequence(faults: tuple[Any, ...] = (), dispatch: str = "fused", **given: Any) -> Any:
    steps = given.pop("runlist", None) or runlist()
    return SimulatedSequence("s", steps, ["x"], ["y"], device="npu2", dispatch=dispatch, faults=faults, **given)


def filled(made: Any, seed: int = 1) -> Any:
    callable_ = made.get_callable()
    rng = np.random.default_rng(seed)
    for name in ("x", "w"):
        tensor = callable_.get_buffer(name)
        tensor.numpy_view()[...] = rng.standard_normal(tensor.shape)
    return callable_


def bits(callable_: Any, name: str = "y") -> bytes:
    return callable_.get_buffer(name).numpy().tobytes()


def test_buffers_that_live_together_never_share_bytes_and_others_may() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        names = [f"b{i}" for i in range(12)]
        sizes = {n: int(rng.integers(1, 500)) for n in names}
        spans = {n: tuple(sorted(rng.integers(0, 20, 2).tolist())) for n in names}
        placed = places(spans, sizes)
        assert all(at % 64 == 0 for at in placed.values())
        for a, b in combinations(names, 2):
            if spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]:
                assert placed[a] + sizes[a] <= placed[b] or placed[b] + sizes[b] <= placed[a]
        live = max(sum(aligned(sizes[n]) for n in names if spans[n][0] <= t <= spans[n][1]) for t in range(20))
        assert live <= aligned(max(placed[n] + sizes[n] for n in names)) <= sum(map(aligned, sizes.values()))


def test_what_the_host_may_want_is_not_pooled() -> None:
    uses = [(["a"], ["b"]), (["b"], ["c"]), (["c", "d"], ["d"]), (["b"], ["e"])]
    assert lives(uses, ()) == {"b": (0, 3), "c": (1, 2)}  # a and d come from outside, e is read by no step
    assert lives(uses, ("b",)) == {"c": (1, 2)}
    assert back_to_back(["a", "b", "c"], {"a": 10, "b": 20, "c": 30}, {"b": 64}) == {"a": 0, "c": 64, "b": 192}


def test_the_same_bits_as_separate_dispatch_whatever_the_plan() -> None:
    separate = filled(sequence(dispatch="separate"))
    separate()
    for given in ({}, {"plan_scratch": False}, {"buffer_offsets": {"h": 0, "g": 512, "k": 1024}}):
        fused = filled(sequence(**given))
        fused()
        assert bits(fused) == bits(separate)
        assert fused.origin["dispatch"] == "fused"


def test_folds_drop_a_rounding_and_no_more() -> None:
    plain, folded = filled(sequence()), filled(sequence(folds=True))
    plain()
    folded()
    assert folded.folds
    a, b = (c.get_buffer("y").numpy().astype(np.float64) for c in (plain, folded))
    assert (a != b).any()
    assert np.abs(a - b).max() <= 2.0**-6 * np.abs(a).max(), "a few last places of bfloat16"


def test_npu1_has_no_full_elf() -> None:
    with pytest.raises(UsageError, match="npu1 runs no full ELF"):
        SimulatedSequence("s", runlist(), ["x"], ["y"], device="npu1", dispatch="fused")


@pytest.mark.parametrize("fault", ["0:3:alias-race", "0:1:reset-swallowed", "0:2:offset-collision"])
def test_separate_dispatch_has_none_of_them(fault: str) -> None:
    with pytest.raises(UsageError, match="only a fused dispatch has it"):
        sequence((fault,), dispatch="separate").get_callable()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("0:0:alias-race", "it does not work in place"),
        ("0:0:dropped-copy", "it is no copy"),
        ("0:0:stale-value", "it takes no per-call value"),
        ("0:4:offset-collision", "which no plan places"),
    ],
)
def test_a_step_that_can_not_have_it_is_refused(fault: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        sequence((fault,)).get_callable()


def test_an_aliasing_race_keeps_old_tiles_and_other_ones_each_time() -> None:
    honest, racing = filled(sequence()), filled(sequence(("0:3:alias-race",)))
    honest()
    seen = set()
    for _ in range(6):
        racing()
        wrong = np.frombuffer(bits(racing, "k"), "V2") != np.frombuffer(bits(honest, "k"), "V2")
        assert 0 < wrong.sum() <= N // 4
        seen.add(bits(racing))
    assert len(seen) > 1


def test_a_swallowed_reset_is_right_in_the_first_dispatch_alone() -> None:
    honest, broken = filled(sequence()), filled(sequence(("0:1:reset-swallowed",)))
    honest()
    broken()
    assert bits(broken) == bits(honest)
    broken()
    assert bits(broken) != bits(honest)
    assert sorted(np.frombuffer(bits(broken, "g"), np.uint16)) == sorted(np.frombuffer(bits(honest, "g"), np.uint16))


def test_colliding_offsets_are_of_the_plan() -> None:
    # Step 1 writes g while h, which step 2 still needs, lies there.
    made = sequence(("0:1:offset-collision",))
    honest, broken = filled(sequence()), filled(made)
    honest()
    broken()
    assert bits(broken) != bits(honest)
    assert made.subbuffer_layout["g"][:2] == made.subbuffer_layout["h"][:2]
    packed = filled(sequence(("0:1:offset-collision",), plan_scratch=False))
    packed()
    assert bits(packed) == bits(honest)


def test_a_fault_goes_with_its_runlist_entry() -> None:
    whole = sequence(("0:3:alias-race",))
    window = SimulatedSequence(
        "w", whole.runlist[2:4], [], ["k"], device="npu2", dispatch="fused", faults=whole.faults
    ).get_callable()
    assert [f.step for f in window.faults] == [1]
    elsewhere = SimulatedSequence(
        "w", whole.runlist[:3], ["x"], ["k"], device="npu2", dispatch="fused", faults=whole.faults
    ).get_callable()
    assert elsewhere.faults == ()


def llama(faults: tuple[str, ...] = (), **options: Any) -> Any:
    run = find("llama-decode").build("npu2", faults, {"tokens": 2, "dispatch": "fused", **options})
    run.execute()
    return run.callable


def test_llama_fused_decodes_the_same_tokens() -> None:
    separate = find("llama-decode").build("npu2", (), {"tokens": 2})
    tokens = separate.execute()["tokens"]
    for names in ("shared", "own"):
        run = find("llama-decode").build("npu2", (), {"tokens": 2, "dispatch": "fused", "intermediates": names})
        assert run.execute()["tokens"] == tokens
        assert bits(run.callable, "logits") == bits(separate.callable, "logits")


def test_a_dropped_copy_and_a_stale_value_in_a_cache() -> None:
    honest = llama()
    rows = np.frombuffer(bits(honest, "keys_cache_1"), np.uint16).reshape(4, 256, 64)[0]
    dropped = np.frombuffer(bits(llama(("0:45:dropped-copy",)), "keys_cache_1"), np.uint16).reshape(4, 256, 64)[0]
    stale = np.frombuffer(bits(llama(("0:45:stale-value",)), "keys_cache_1"), np.uint16).reshape(4, 256, 64)[0]
    assert rows[0].any()
    assert rows[1].any()
    assert not dropped.any(), "neither token's keys were copied"
    assert not stale[1].any(), "the second token's keys went to the first one's row"
    assert stale[0].any()
