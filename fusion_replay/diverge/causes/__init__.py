# SPDX-License-Identifier: Apache-2.0
"""What made the wrong elements of an output: hypotheses, executed, and graded by what they reproduce."""

from __future__ import annotations

from fusion_replay.diverge.causes.case import CONSISTENT, LOCATED, PROVED, Case, Cause, Hypothesis, Version
from fusion_replay.diverge.causes.search import find

NAMES = {
    "zeros": "elements are zero, of either sign",
    "never-written": "the output still holds what its buffer held before the step",
    "dropped-tile": "part of the output still holds what was there before",
    "stale-output": "the output holds an earlier version of its buffer",
    "shifted": "elements stand a constant distance from their place",
    "tiles-permuted": "tiles or rows stand in each other's place",
    "columns-swapped": "the parts of two AIE columns stand in each other's place",
    "batches-swapped": "batches stand in each other's place",
    "rows-swapped": "the parts of core rows stand in each other's place",
    "halves-swapped": "the halves have changed places",
    "batch-repeated": "every batch beyond the first repeats the first",
    "neighbour-data": "a part holds another part's data (by repetition: nondeterministic)",
    "transposed": "rows and columns have changed roles",
    "nan": "NaN where none is expected",
    "inf": "Inf where none is expected",
    "bit-flip": "one bit of a few elements is flipped",
    "sign-flipped": "the wrong elements have the other sign",
    "signs-lost": "signs are lost, of an operand before the operation or of the result",
    "scaled": "a constant factor",
    "row-scaled": "every row has a factor of its own",
    "offset": "a constant offset",
    "saturated": "values beyond a bound stand at it",
    "constant": "every wrong element has one value",
    "parameter": "a parameter of the operator is another",
    "truncated-scalar": "a scalar lost bits",
    "mask": "a mask is longer or shorter, or missing",
    "activation": "another activation, or none",
    "formula": "another formula",
    "operand-order": "operands are exchanged",
    "transposed-operand": "an operand is read transposed",
    "part-of-k": "part of a product's terms is left out",
    "k-tile-reused": "a tile of an operand is used in another's place",
    "head-mapping": "heads, batches or groups are matched otherwise",
    "int4-order": "nibbles are read in another order",
    "zero-point": "another zero point",
    "stale-input": "the right result for older contents of an input, or for zeros",
    "rounding": "another rounding mode",
    "bfp16": "the precision of block floating point, or not",
    "accumulation": "sums are rounded otherwise on the way",
    "nondeterministic": "other runs on the same inputs gave other outputs",
    "one-column": "nothing but the place: one column",
    "one-batch": "nothing but the place: one batch",
    "block-edges": "nothing but the place: the edges of tiles",
    "place": "nothing but the place",
}
"""Every name with its meaning."""

__all__ = ["CONSISTENT", "LOCATED", "NAMES", "PROVED", "Case", "Cause", "Hypothesis", "Version", "find"]
