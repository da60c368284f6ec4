"""Whether rows of a pass keep their bits in other company: tried on made-up rows, where the pass will run.

A matrix product of one shape computes every row in the same order of sums on the processors and libraries that
were tried, whatever the other rows hold and wherever the row stands; nothing documents that. So before a shape
is used, the same rows go through it at other places and beside others. Where a bit differs, that shape isn't
shared: its records pass one by one. The answer depends on the machine, the libraries, the threads and the
shape, never on records.

Six arrangements can't prove the property for all. They do move every row to other places of the pass, other
threads' parts included, and what they try, the tests try with records (`tests/unit/test_train.py`).

Models that route tokens to experts aren't tried: how many tokens an expert gets, and so the shape of its product,
follows from what the other rows hold. Nor are 8-bit weights with outliers (Dettmers et al., arXiv 2208.07339): a column
in which any row has a large value is computed otherwise for all rows. Made-up rows may keep their bits where records
don't.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
SHIFTS = (1, 2, 3)
EXPERTS = frozenset({"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"})
"""What configurations of transformers call the number of experts that tokens are routed to."""


def keeps_bits(run: Callable[[list[int]], Rows], rows: int) -> bool:
    """Whether each row comes out with the same bits at another place and beside other rows.

    Args:
        run: Passes made-up rows through the model: the number at place i names the row that stands there, and
            -1 a dummy. Returns the bytes that come out of each place, uint8 [rows, bytes].
        rows: Rows in a pass.
    """
    order = list(range(rows))
    expected = run(order)
    arrangements = [order[::-1], *(order[k:] + order[:k] for k in SHIFTS if k < rows)]
    arrangements += [[i if i % 2 == 0 else -1 for i in order], [-1] * (rows - 1) + [0]]
    for arrangement in arrangements:
        found = run(arrangement)
        if any(i >= 0 and not np.array_equal(found[at], expected[i]) for at, i in enumerate(arrangement)):
            return False
    return True


def bytes_of(rows: NDArray[np.generic]) -> Rows:
    """An array [rows, ...] as bytes, uint8 [rows, bytes]."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)


def computes_by_content(config: Any) -> bool:
    """Whether what a row holds decides how the others are computed, by a model's configuration of transformers.

    So it is where tokens are routed to experts, in nested parts too, and under 8-bit weights with outliers.
    """
    facts = config.to_dict()
    return _several_experts(facts) or _takes_outliers_out(facts.get("quantization_config") or {})


def _takes_outliers_out(quantization: Any) -> bool:
    facts = quantization if isinstance(quantization, dict) else quantization.to_dict()
    return bool(facts.get("load_in_8bit")) and facts.get("llm_int8_threshold", 6.0) > 0


def _several_experts(facts: dict[str, Any]) -> bool:
    for name, value in facts.items():
        if isinstance(value, dict) and _several_experts(value):
            return True
        counts = value if isinstance(value, list | tuple) else [value]  # one for each layer in some families
        if name in EXPERTS and any(isinstance(count, int) and count > 1 for count in counts):
            return True
    return False
