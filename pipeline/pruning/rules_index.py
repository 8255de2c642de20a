"""Rules of operators that pick indices by number: index_select, advanced indexing, repeats, rolls, sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor, fx

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, Layout, ids_of, is_labelled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.propagate import Propagation, Rule, Value


def index_select(p: Propagation, node: fx.Node) -> Value:
    """Picks indices of one axis; where a constant says which, the labels follow, and the constant is renumbered."""
    a = arguments(node)
    x = p.layout(node.args[0])
    axis = a["dim"] % len(x)
    return (*x[:axis], _picked(p, node, x[axis], a["index"])[0], *x[axis + 1 :])


def index(p: Propagation, node: fx.Node) -> Value:
    """Advanced indexing: axes without an index pass, one with a constant index is followed, others stay whole."""
    a = arguments(node)
    x, indices = p.layout(node.args[0]), list(a["indices"])
    indices += [None] * (len(x) - len(indices))
    used = [axis for axis, tensor in enumerate(indices) if tensor is not None]
    if len(used) == 1:
        (axis,) = used
        return (*x[:axis], *_picked(p, node, x[axis], indices[axis]), *x[axis + 1 :])
    shape = p.shape(node)
    p.whole(node, [x[axis] for axis in used], "is indexed together with another axis")
    rest = [dim for axis, dim in enumerate(x) if axis not in used]
    first = used[0] if used and used == list(range(used[0], used[-1] + 1)) else 0
    count = len(shape) - len(rest)
    return (*rest[:first], *((size,) for size in shape[first : first + count]), *rest[first:])


def repeat_interleave(p: Propagation, node: fx.Node) -> Value:
    """Each index of an axis several times in a row."""
    a = arguments(node)
    x, shape = p.layout(node.args[0]), p.shape(node)
    if a["dim"] is None or not isinstance(a["repeats"], int):
        p.whole(node, x, "is repeated as often as a tensor says")
        return tuple((size,) for size in shape)
    axis = a["dim"] % len(x)
    dim: Dim = (shape[axis],)
    if is_labelled(x[axis]) and len(x[axis]) == 1:
        dim = (np.repeat(ids_of(x[axis]), a["repeats"]),)
    else:
        p.whole(node, [x[axis]], "is repeated together with the batch")
    return (*x[:axis], dim, *x[axis + 1 :])


def roll(p: Propagation, node: fx.Node) -> Value:
    """Shifts axes round: these stay whole."""
    x, axes = p.layout(node.args[0]), list(arguments(node)["dims"])
    p.whole(node, [x[axis] for axis in axes] if axes else x, "is shifted round")
    return x


def ordering(p: Propagation, node: fx.Node) -> Value:
    """Sorting, the largest few: the axis stays whole."""
    x = p.layout(node.args[0])
    axis = arguments(node)["dim"] % len(x)
    p.whole(node, [x[axis]], "is sorted")
    return [(*x[:axis], (p.shape(node, output)[axis],), *x[axis + 1 :]) for output in range(len(node.meta["val"]))]


def triangle(p: Propagation, node: fx.Node) -> Value:
    """The upper or lower triangle of the last two axes."""
    x = p.layout(node.args[0])
    p.whole(node, x[-2:], "is cut along its diagonal")
    return x


def _picked(p: Propagation, node: fx.Node, dim: Dim, index_node: object) -> Layout:
    """The axes that come of indexing one with a tensor of numbers."""
    assert isinstance(index_node, fx.Node)
    sizes: Sequence[object] = p.shape(index_node)
    plain = tuple((size,) for size in p.shape(index_node))
    if not is_labelled(dim):
        for own in p.layout(index_node):
            p.fix(own)
        return plain
    constant = p.constant(index_node)
    if constant is None or len(sizes) != 1 or constant.value.dtype.is_floating_point or len(dim) != 1:
        p.whole(node, [dim], "is indexed by numbers that are computed")
        return plain
    ids = ids_of(dim)
    picked = ids[_numbers(constant.value) % len(ids)]
    if not p.renumber(constant.name, ids):
        p.whole(node, [dim], "is indexed by numbers that index something else too")
        return plain
    p.unite(picked, ids_of(p.layout(index_node)[0]))
    return ((picked,),)


def _numbers(value: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return value.detach().cpu().numpy().astype(np.int64)


RULES: Final[Mapping[str, Rule]] = {
    "index_select": index_select,
    "index": index,
    "repeat_interleave": repeat_interleave,
    "roll": roll,
    **dict.fromkeys(("sort", "topk"), ordering),
    **dict.fromkeys(("tril", "triu"), triangle),
}
