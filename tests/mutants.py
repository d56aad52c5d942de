# SPDX-License-Identifier: Apache-2.0
"""Deliberate mistakes in the references: three per operator, each a change of one line of its source.

``python tests/mutants.py OPERATOR NUMBER`` runs the operator's own tests against the mistaken reference; its exit
status is pytest's: 1 when they catch it.
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from fusion_replay import operators, refs

TESTS = Path(__file__).parent / "refs"


@dataclass(frozen=True)
class Mistake:
    file: str
    """A module of fusion_replay/refs: ``gemm``, ``arithmetic.activation``."""
    right: str
    wrong: str


def _m(file: str, *pairs: tuple[str, str]) -> tuple[Mistake, ...]:
    return tuple(Mistake(file, right, wrong) for right, wrong in pairs)


MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "AXPY": _m(
        "axpy",
        ("round_bf16(call.xp.full_like(a, call.params.scalar_factor)) * a", "call.params.scalar_factor * a"),
        ("call.round(_product(call, a)), b", "_product(call, a), b"),
        ("add_to_odd(call.xp, product, b))", "add_to_odd(call.xp, _product(call, a), b))[::-1]"),
    ),
    "Clamp": _m(
        "clamp",
        ("xp.where(a > high, high, a)", "xp.where(a > high, low, a)"),
        ("xp.where(a > high, high, a)", "a"),
        ("a < low, low,", "a < low, high,"),
    ),
    "Copy": _m(
        "copy",
        ("return moved(walk, runtime)", "return walk"),
        ("copied(a, old, source, target, call.params.num_channels)", "copied(a, old * 0, source, target, 1)"),
        ("int(valid), *walk.sizes[axis + 1 :]", "int(valid) - 1, *walk.sizes[axis + 1 :]"),
    ),
    "DepthwiseConv1d": _m(
        "depthwise_conv1d",
        ("total + weight[j] * padded", "total + weight[TAPS - 1 - j] * padded"),
        ("xp.concat((xp.zeros_like(weight[: TAPS - 1]), x), axis=0)", "xp.concat((x, x[: TAPS - 1]), axis=0)"),
        ("range(1, TAPS)", "range(1, TAPS - 1)"),
    ),
    "Dequant": _m(
        "dequant",
        ("(nibbles & 15, nibbles >> 4)", "(nibbles >> 4, nibbles & 15)"),
        ("tiles, groups, p.group_size)), xp.float64)", "tiles, groups, p.group_size)), xp.float64) - 8.0"),
        ("packed[:, split:], (tiles, groups, 2)", "packed[:, : 2 * groups], (tiles, groups, 2)"),
    ),
    "DualGEMVSiLUMul": _m(
        "dual_gemv_silu_mul",
        ("left, right = _products(call, a, b)", "right, left = _products(call, a, b)"),
        ("(-1, 2, block_rows(p))", "(-1, 2, 1)"),
        ("call.round(silu(call.xp, left)) * right", "silu(call.xp, left) * right"),
    ),
    "ElementwiseAdd": _m(
        "elementwise_add",
        ("return a + b", "return a - b"),
        ("return a + b", "return a + abs(b)"),
        ("return a + b", "return a + b[::-1]"),
    ),
    "ElementwiseMul": _m(
        "elementwise_mul",
        ("return a * b", "return a * abs(b)"),
        ("return a * b", "return a / b"),
        ("return a * b", "return a * (b + 2.0**-9)"),
    ),
    "Emit": _m(
        "emit",
        ("plane * p.carried + index", "index"),
        ("value << shift", "value >> shift"),
        ("* scale + bias)", "* (scale + bias))"),
    ),
    "FlowKVDecode": _m(
        "flowkv_decode",
        ("queries[kv, group]))", "queries[0, group]))"),
        ("-(second * sin)", "second * sin"),
        ("scores = rotated @ k.T / math.sqrt(p.head_dim)", "scores = rotated @ v.T / math.sqrt(p.head_dim)"),
    ),
    "FusedDequantGEMV": _m(
        "fused_dequant_gemv",
        ("tile_size=tile * p.K", "tile_size=p.K"),
        ("matvec(call.round(_weights(call, packed))", "matvec(_weights(call, packed)"),
        ("return matvec(_weights(call, packed)", "return matvec(call.round(_weights(call, packed))"),
    ),
    "FusedQKVProj": _m(
        "fused_qkv_proj",
        ("return matvec(weights, wide(x), narrow)", "return matvec(abs(weights), wide(x), narrow)"),
        ("return matvec(weights, wide(x), narrow)", "return matvec(weights[::-1], wide(x), narrow)"),
        ("return matvec(weights, wide(x), narrow)", "return matvec(weights, wide(x)[::-1], narrow)"),
    ),
    "GELU": _m(
        "arithmetic.activation",
        ("_CUBIC * x * x * x", "_CUBIC * x * x"),
        ("_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)", "_SQRT_2_OVER_PI = math.sqrt(math.pi / 4.0)"),
        ("xp.exp(-2.0 * _SQRT", "xp.exp(-1.0 * _SQRT"),
    ),
    "GEMM": _m(
        "gemm",
        ("b.T if p.b_col_maj else b, finish)", "b, finish)"),
        ("return c.T if p.c_col_maj else c", "return c"),
        ("_gemm(call, a, b, round_before=False)", "_gemm(call, a, b)"),
    ),
    "GEMV": _m(
        "gemv",
        ("matrices[i // p.repeat]", "matrices[i % matrices.shape[0]]"),
        ("vectors[i], finish)", "vectors[0], finish)"),
        ("_gemv(call, a, b, round_before=False)", "_gemv(call, a, b)"),
    ),
    "GQAContext": _m(
        "gqa_context",
        ("sums[:width] + sums[width:]", "sums[0:-1:2] + sums[1::2]"),
        ("range(1, rounds.shape[0])", "range(1, rounds.shape[0] - 1)"),
        ("return weights @ cache", "return weights[:, ::-1] @ cache"),
    ),
    "LayerNorm": _m(
        "layer_norm",
        ("centred = x - xp.mean(x, axis=-1, keepdims=True)", "centred = x"),
        (" + _epsilon(call.params))", ")"),
        ("xp.mean(x, axis=-1, keepdims=True)", "xp.mean(x, axis=0, keepdims=True)"),
    ),
    "LeakyReLU": _m(
        "leaky_relu",
        ("a > 0, a, add_to_odd(xp, upper * a, lower)", "a > 0, a, -add_to_odd(xp, upper * a, lower)"),
        ("through_float32(xp, xp.full_like(a, call.params.alpha))", "call.params.alpha"),
        ("a > 0, a, through_float32(xp, alpha * a)", "a > 0, a, xp.zeros_like(a)"),
    ),
    "MHA": _m(
        "mha",
        ("scores = (wide(q[start:stop]) @ k[:seen].T) / scale", "scores = wide(q[start:stop]) @ k[:seen].T"),
        ("[None, :] > row", "[None, :] >= row + 2"),
        ("wide(k[h // share]), wide(v[h // share])", "wide(k[h % k.shape[0]]), wide(v[h % k.shape[0]])"),
    ),
    "MemCopy": _m(
        "mem_copy",
        ("asarray(a, copy=True)", "asarray(a[::-1], copy=True)"),
        ("asarray(a, copy=True)", "zeros_like(a)"),
        ("return call.xp.asarray(a, copy=True)", "return call.xp.concat((a[1:], a[:1]), axis=0)"),
    ),
    "Pointwise": _m(
        "pointwise",
        ('"add": elementwise_add.SPEC', '"add": elementwise_mul.SPEC'),
        ('"mul": elementwise_mul.SPEC', '"mul": elementwise_add.SPEC'),
        ("(a,) if call.params", "(b,) if call.params"),
    ),
    "RMSNorm": _m(
        "rms_norm",
        ("x / call.round(root + call.params.epsilon)", "x / root"),
        ("return call.xp.mean(x * x, axis=-1, keepdims=True)", "return call.xp.mean(x * x, axis=0, keepdims=True)"),
        ("call.round(call.xp.mean(call.round(x * x), axis=-1", "call.round(call.xp.mean((x * x), axis=-1"),
    ),
    "ReLU": _m(
        "relu",
        ("a < 0", "a < 1"),
        ("call.xp.zeros_like(a), a)", "call.xp.zeros_like(a), abs(a) + 0 * a)"),
        ("a < 0, call.xp.zeros_like(a), a", "a < 0, a, call.xp.zeros_like(a)"),
    ),
    "Repeat": _m(
        "repeat",
        ("axis=0)", "axis=-1)"),
        ("call.xp.repeat(a, call.params.repeat, axis=0)", "call.xp.concat([a] * call.params.repeat, axis=0)"),
        ("call.xp.repeat(a, call.params.repeat, axis=0)", "call.xp.repeat(a[::-1], call.params.repeat, axis=0)"),
    ),
    "RoPE": _m(
        "rope",
        ("x[..., : p.cols // 2], x[..., p.cols // 2 :]", "x[..., p.cols // 2 :], x[..., : p.cols // 2]"),
        ("-(second * sin)", "second * sin"),
        ("xp.reshape(x, (_angle_rows(p), -1, p.cols))", "xp.reshape(x, (_angle_rows(p), -1, p.cols))[:, ::-1]"),
    ),
    "Sample": _m(
        "sample",
        ("np.sort(logits)[-min(k, logits.size)]", "np.sort(logits)[-min(k + 1, logits.size)]"),
        ("astype(np.float32) / temperature", "astype(np.float32) * temperature"),
        ("recorded[at] = drawn", "recorded[0] = drawn"),
    ),
    "SiLU": _m(
        "arithmetic.activation",
        ("return x / (1.0 + xp.exp(-x))", "return x / (1.0 + xp.exp(x))"),
        ("return x / (1.0 + xp.exp(-x))", "return 1.0 / (1.0 + xp.exp(-x))"),
        ("return x / (1.0 + xp.exp(-x))", "return x / (1.0 + xp.exp(-1.702 * x))"),
    ),
    "SiLUMul": _m(
        "silu_mul",
        ("call.xp.exp(-a)))) * b", "call.xp.exp(-a)))) * a"),
        ("call.round(a / (1.0", "(a / (1.0"),
        ("return silu(call.xp, a) * b", "return silu(call.xp, a * b)"),
    ),
    "Sigmoid": _m(
        "sigmoid",
        ("xp.exp(-a)", "xp.exp(a)"),
        ("return 1.0 / (1.0 +", "return 1.0 / (1.001 +"),
        ("return 1.0 / (1.0 + call.xp.exp(-a))", "return 0.5 + 0.5 * call.xp.tanh(a)"),
    ),
    "Softmax": _m(
        "softmax",
        ("grown / xp.sum(grown, axis=-1, keepdims=True)", "grown / xp.sum(grown, axis=0, keepdims=True)"),
        ("return min(int(size), int(p.cols))", "return min(int(size) + 1, int(p.cols))"),
        ("xp.exp(x - xp.max(x, axis=-1, keepdims=True))", "xp.exp(x)"),
    ),
    "StridedCopy": (
        *_m(
            "strided_copy",
            ("walks.append(moved(_walk(side, p), runtime))", "walks.append(_walk(side, p))"),
            ("copied(a, old, walks[0], walks[1], p.num_aie_channels)", "copied(a, old, walks[0], walks[1], 1)"),
        ),
        *_m("_walk", ("new = xp.asarray(old, copy=True)", "new = xp.zeros_like(old)")),
    ),
    "SwiGLUDecode": (
        *_m("swiglu_decode", ("gate.T, up.T, down.T, rounded=False", "up.T, gate.T, down.T, rounded=False")),
        *_m(
            "_swiglu",
            ("once(silu(xp, once(matmul(x, gate, _kept))))", "once(silu(xp, matmul(x, gate, _kept)))"),
            ("activated * once(matmul(x, up, _kept))", "activated + once(matmul(x, up, _kept))"),
        ),
    ),
    "SwiGLUFusedDecode": _m(
        "swiglu_fused_decode",
        ("for i in (0, 1))", "for i in (1, 0))"),
        ("once(once(silu(xp, gate)) * up)", "once(silu(xp, gate)) * up"),
        ("(p.num_aie_columns, p.embedding_dim, share)", "(p.num_aie_columns, share, p.embedding_dim)"),
    ),
    "SwiGLUPrefill": (
        *_m(
            "swiglu_prefill",
            ("(w.T for w in weights) if call.params.b_col_maj else weights", "weights"),
            ("chain(call, x, gate, up, down, rounded=rounded)", "chain(call, x, up, gate, down, rounded=rounded)"),
        ),
        *_m("_swiglu", ("once = call.round if rounded else _kept", "once = _kept")),
    ),
    "Tanh": _m(
        "tanh",
        ("call.xp.tanh(a)", "call.xp.tanh(2 * a)"),
        ("call.xp.tanh(a)", "call.xp.tanh(abs(a))"),
        ("call.xp.tanh(a)", "a / (1 + abs(a))"),
    ),
    "WeightedRMSNorm": _m(
        "rms_norm",
        ("return normed * weight[0]", "return normed + weight[0]"),
        ("return _weigh(call.round(x / call.xp.sqrt(", "return _weigh((x / call.xp.sqrt("),
        ("return _weigh(x / call.xp.sqrt(", "return _weigh(call.round(x) / call.xp.sqrt(1.0 + "),
    ),
    "Transpose": _m(
        "transpose",
        ("(p.num_batches, p.M, p.N)", "(p.num_batches, p.N, p.M)"),
        ("xp.matrix_transpose(", "("),
        ("xp.reshape(a, (p.num_batches, p.M, p.N))", "xp.reshape(a, (p.num_batches, p.M, p.N))[::-1]"),
    ),
}


def mistaken(op_type: str, mistake: Mistake) -> operators.OperatorSpec:
    """The operator's spec with the mistake in it; the package itself stays as it is."""
    home = next(f for f in _operator_files() if _module(f).SPEC.type == op_type)
    changed: dict[str, ModuleType] = {}
    try:
        for file in dict.fromkeys((mistake.file, home)):
            original = _module(file)
            source = Path(str(original.__file__)).read_text()
            if file == mistake.file:
                found = source.count(mistake.right)
                if found == 0:
                    raise LookupError(
                        f"{op_type}: {file} of refs no longer has {mistake.right!r}: choose another mistake"
                    )
                source = source.replace(mistake.right, mistake.wrong)
            changed[original.__name__] = original
            copy = sys.modules[original.__name__] = ModuleType(original.__name__)
            exec(compile(source, str(original.__file__), "exec"), vars(copy))  # our own source, changed above
        spec = sys.modules[f"{refs.__name__}.{home}"].SPEC
    finally:
        sys.modules.update(changed)
    assert isinstance(spec, operators.OperatorSpec)
    return spec


def tests_of(op_type: str) -> list[Path]:
    """The files that name the operator, its own first."""
    own = re.sub(r"\W|_", "", op_type).lower()
    files = [f for f in sorted(TESTS.glob("test_*.py")) if f'"{op_type}"' in f.read_text()]
    return sorted(files, key=lambda f: own not in f.stem.replace("_", ""))


def _operator_files() -> list[str]:
    return [p.stem for p in Path(refs.__path__[0]).glob("[a-z]*.py")]


def _module(file: str) -> ModuleType:
    return importlib.import_module(f"{refs.__name__}.{file}")


def main(op_type: str, number: int) -> int:
    import pytest
    from hypothesis import HealthCheck, Phase, settings

    refs.register(mistaken(op_type, MISTAKES[op_type][number]), replace=True)
    settings.register_profile(
        "mutants",
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,  # or a slow machine would seem to have caught the mistake
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("mutants")
    quick = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not long and not torch"]
    return int(pytest.main([*quick, *map(str, tests_of(op_type))]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
