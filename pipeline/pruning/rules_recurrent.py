"""Rules of recurrent layers and cells: a unit is one position of the hidden state, in every gate and direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, ids_of, is_concrete

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import fx

    from pipeline.pruning.labels import Ids
    from pipeline.pruning.propagate import Propagation, Rule, Value


def recurrent(p: Propagation, node: fx.Node) -> Value:
    """GRU, LSTM and RNN over time: ``(output, h_n)`` or ``(output, h_n, c_n)``.

    Weights of a layer and direction: ih (G H, I), hh (G H, H), biases (G H) where there are any, and for an LSTM with
    projection hr (P, H); G gates stacked. The states of all layers lie in one tensor: all layers lose the same units.
    """
    a = arguments(node)
    if "batch_sizes" in a:
        return _without_rule(p, node)
    x, params, directions = p.layout(a["input"]), list(a["params"]), 2 if a["bidirectional"] else 1
    states = [a["hx"]] if not isinstance(a["hx"], (list, tuple)) else list(a["hx"])
    cells = int(a["num_layers"]) * directions
    projected = len(params) // cells > (4 if a["has_biases"] else 2)
    given = x[-1]
    hidden: list[Ids] = []
    outputs: list[Ids] = []
    for layer in range(int(a["num_layers"])):
        found = []
        for direction in range(directions):
            own = params[(layer * directions + direction) * len(params) // cells :][: len(params) // cells]
            found.append(_cell(p, given, own, projected=projected))
        hidden += [h for h, _ in found]
        outputs += [o for _, o in found]
        given = (np.concatenate([o for _, o in found]),)
    for state, kinds in zip(states, [outputs, hidden], strict=False):
        for ids in kinds:
            p.unite(ids, ids_of(p.layout(state)[-1]))
    p.whole(node, x[:-1], "runs along it")
    if projected:  # torch tells a projection by the sizes of the two states, so they must never become equal
        p.whole(node, [(ids,) for ids in hidden], "needs more hidden units than projected ones")
    state_layouts = [p.layout(state) for state in states]
    return [
        (*x[:-1], given),
        *((*s[:-1], (kinds[0],)) for s, kinds in zip(state_layouts, [outputs, hidden], strict=False)),
    ]


def cell(p: Propagation, node: fx.Node) -> Value:
    """One step: weights as above, the state is (N, H)."""
    a = arguments(node)
    x = p.layout(a["input"])
    states = [a["hx"]] if not isinstance(a["hx"], (list, tuple)) else list(a["hx"])
    params = [a[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if a.get(name) is not None]
    hidden, _ = _cell(p, x[-1], params, projected=False)
    for state in states:
        p.unite(hidden, ids_of(p.layout(state)[-1]))
    out = (*x[:-1], (hidden,))
    return out if len(states) == 1 else [out, out]


def _cell(p: Propagation, given: Dim, params: Sequence[Any], *, projected: bool) -> tuple[Ids, Ids]:
    """Ties the weights of one layer and direction; the labels of its hidden state and of what it gives."""
    weights = [p.layout(param) for param in params]
    input_weight, hidden_weight = weights[:2]
    *_, projection = weights
    gates = ids_of(input_weight[0])
    size = len(ids_of((projection if projected else hidden_weight)[1]))
    hidden = gates[:size]
    p.unite(gates.reshape(-1, size), hidden)
    for stacked in [hidden_weight, *(weights[2:-1] if projected else weights[2:])]:
        p.unite(ids_of(stacked[0]), gates)
    _consume(p, given, input_weight[1])
    out = hidden
    if projected:
        p.consume((hidden,), projection[1])
        p.produce(projection[0])
        p.call("hidden", projection[0])
        out = ids_of(projection[0])
    p.consume((out,), hidden_weight[1])
    p.produce(input_weight[0])
    p.produce(hidden_weight[0])
    p.call("hidden", (hidden,))
    return hidden, out


def _consume(p: Propagation, given: Dim, weight: Dim) -> None:
    if len(given) == 1 and is_concrete(given[0]):
        p.consume(given, weight)
    else:
        p.fix(given)
        p.fix(weight)


def _without_rule(p: Propagation, node: fx.Node) -> Value:
    p.whole(node, p.input_dims(node), "has no rule for packed sequences", always=True)
    return [tuple((size,) for size in value.shape) for value in node.meta["val"]]


_NAMES: Final = ("gru", "lstm", "rnn_tanh", "rnn_relu")

RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_NAMES, recurrent),
    **{f"{name}_cell": cell for name in _NAMES},
}
