"""Which nets to measure: whole nets in which every group has another width, so that few show many pairs of widths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def design(choices: Mapping[str, Sequence[int]], nets: int, seed: int) -> tuple[dict[str, int], ...]:
    """Widths of the nets to measure: the whole net, the narrowest one, and a Latin hypercube of all others.

    In the hypercube each group takes its widths equally often, in an order of its own (McKay et al., Technometrics 21,
    1979): what a layer costs at a pair of widths is then seen apart from what its neighbours cost.

    Args:
        choices: Widths that each group may have, ascending.
        nets: How many nets, at least 3.
        seed: Of the orders.
    """
    draw = np.random.default_rng(seed)
    rows = nets - 2
    columns = {
        name: [widths[int(i)] for i in draw.permutation(np.arange(rows) * len(widths) // rows)]
        for name, widths in choices.items()
    }
    return (
        {name: widths[-1] for name, widths in choices.items()},
        {name: widths[0] for name, widths in choices.items()},
        *({name: column[row] for name, column in columns.items()} for row in range(rows)),
    )
