# SPDX-License-Identifier: Apache-2.0
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial: which step broke it?
#
# A block of three operators runs three times on the software NPU (its numbers come from no hardware), and somebody
# broke one step. We record the run, find the step, look at its arrays, and judge an operator of our own.

# %%
import numpy as np

import fusion_replay as fr
from fusion_replay.simulator.operators import ElementwiseAdd, ElementwiseMul, ReLU

runlist = [
    (ElementwiseAdd(size=1024), "a", "b", "h"),
    (ElementwiseMul(size=1024), "h", "a", "m"),
    (ReLU(size=1024), "m", "out"),
]
block = fr.simulate(runlist, "npu2", ["1:1:shift"], input_args=["a", "b"], output_args=["out"])
rng = np.random.default_rng(0)
with fr.record("tutorial.h5", block, if_exists="replace"):
    for _ in range(3):
        for name in ("a", "b"):
            block.get_buffer(name)[:] = rng.standard_normal(1024).astype("bfloat16")
        block()

# %% [markdown]
# The recording is a file. Replaying it needs neither the program nor the device; the verdict stands first.

# %%
report = fr.replay("tutorial.h5")
report

# %% [markdown]
# All figures, a row per step:

# %%
table = report.to_dataframe()
table[["op", "ok", "rel_l2", "pcc", "sqnr", "ulp_max"]]

# %%
report.plot().figure

# %% [markdown]
# The step that is to blame: what it read and wrote, and why it is wrong.

# %%
wrong = report.first_mismatch
snapshot = fr.open("tutorial.h5")
step = snapshot[wrong.address]
step

# %%
print(fr.explain(step, snapshot))
(expected,) = fr.reference(step.op.type, step.op.params, step.inputs)
actual = np.asarray(step.outputs[0])
print(fr.compare(actual[128:], expected.reshape(-1)[:-128], "auto", tolerance=fr.bf16_ulps(1)))

# %% [markdown]
# A figure of our own stands beside the others from now on.


# %%
@fr.metric("p99")
def p99(actual, expected):
    return float(np.quantile(np.abs(actual - expected), 0.99))


fr.replay("tutorial.h5").to_dataframe()["p99"]

# %% [markdown]
# An operator of our own: its reference in float64, its recording from arrays.


# %%
@fr.operator("Scale", tolerance=fr.bf16_ulps(1))
def scale(A, *, factor):
    return A * factor


x = np.linspace(-4, 4, 64).astype("bfloat16")
with (
    fr.record("scale.h5", if_exists="replace") as rec,
    rec.step("Scale", inputs={"A": x}, params={"factor": 3}) as mine,
):
    mine.outputs["C"] = x * np.asarray(3, "bfloat16")
fr.replay("scale.h5")
