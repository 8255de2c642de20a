"""Rules of operators that take tensors apart and put them together: slices, splits, padding, concatenation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import fx

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, Layout, Length, ids_of, is_labelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.pruning.propagate import Propagation, Rule, Value


def slice_(p: Propagation, node: fx.Node) -> Value:
    """Takes a range of an axis; its ends move with what is kept before them."""
    a = arguments(node)
    x = p.layout(node.args[0])
    axis = a["dim"] % len(x)
    if not is_labelled(x[axis]):
        return _replaced(x, axis, (p.shape(node)[axis],))
    if a["step"] != 1 or not _numbers(a["start"], a["end"]):
        p.whole(node, [x[axis]], "takes every n-th of its indices, or a range that depends on the batch")
        return _replaced(x, axis, (p.shape(node)[axis],))
    ids = ids_of(x[axis])
    start, stop, _ = slice(a["start"], a["end"]).indices(len(ids))
    p.rewrite(node, {"start": Length(ids=ids[:start]), "end": Length(ids=ids[:stop])})
    return _replaced(x, axis, (ids[start:stop],))


def narrow(p: Propagation, node: fx.Node) -> Value:
    """Takes ``length`` indices from ``start`` on."""
    a = arguments(node)
    x = p.layout(node.args[0])
    axis = a["dim"] % len(x)
    if not is_labelled(x[axis]):
        return _replaced(x, axis, (p.shape(node)[axis],))
    ids = ids_of(x[axis])
    start = a["start"] % len(ids)
    taken = ids[start : start + a["length"]]
    p.rewrite(node, {"start": Length(ids=ids[:start]), "length": Length(ids=taken)})
    return _replaced(x, axis, (taken,))


def select(p: Propagation, node: fx.Node) -> Value:
    """Takes one index of an axis, which therefore stays; its position moves with what is kept before it."""
    a = arguments(node)
    x = p.layout(node.args[0])
    axis = a["dim"] % len(x)
    if is_labelled(x[axis]):
        ids = ids_of(x[axis])
        if not isinstance(a["index"], int):
            p.whole(node, [x[axis]], "takes an index that is computed")
        else:
            index = a["index"] % len(ids)
            p.positions(node, [(ids[index : index + 1],)], "takes this index alone")
            p.rewrite(node, {"index": Length(ids=ids[:index])})
    return (*x[:axis], *x[axis + 1 :])


def split(p: Propagation, node: fx.Node) -> Value:
    """Split and chunk become split_with_sizes, because the parts need not stay equal."""
    a = arguments(node)
    x = p.layout(node.args[0])
    axis = a["dim"] % len(x)
    sizes = [p.shape(node, output)[axis] for output in range(len(node.meta["val"]))]
    if not is_labelled(x[axis]):
        return [_replaced(x, axis, (size,)) for size in sizes]
    parts = np.split(ids_of(x[axis]), np.cumsum(sizes)[:-1])
    p.rewrite(
        node,
        {"self": node.args[0], "split_sizes": [Length(ids=part) for part in parts], "dim": axis},
        target=torch.ops.aten.split_with_sizes.default,
    )
    return [_replaced(x, axis, (part,)) for part in parts]


def unbind(p: Propagation, node: fx.Node) -> Value:
    """One output an index: the axis stays whole."""
    x = p.layout(node.args[0])
    axis = arguments(node)["dim"] % len(x)
    p.positions(node, [x[axis]], "gives each of its indices as a tensor")
    return [(*x[:axis], *x[axis + 1 :])] * len(node.meta["val"])


def getitem(p: Propagation, node: fx.Node) -> Value:
    """Picks one of several results."""
    source, index = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    value = p.layouts[source]
    return value[index] if isinstance(value, list) and isinstance(index, int) else None


def pad(p: Propagation, node: fx.Node) -> Value:
    """New indices at the ends of axes, given from the last axis backwards.

    A padded index gets a label of its own: where a later sum ties it to a channel, it goes with the channel and the
    padding shrinks. Padding is constant, so that only the number of kept indices on each side counts.
    """
    a = arguments(node)
    x, shape = p.layout(node.args[0]), p.shape(node)
    amounts = list(a["pad"])
    constant = a.get("mode", "constant") == "constant"
    out = list(x)
    for position in range(0, len(amounts), 2):
        axis = len(x) - 1 - position // 2
        before, after = amounts[position : position + 2]
        if before == 0 and after == 0:
            continue
        if not is_labelled(x[axis]) or not constant or before < 0 or after < 0:
            p.whole(node, [x[axis]], "is padded with its own content, or cropped")
            out[axis] = (shape[axis],)
            continue
        first, last = p.labels.fresh(before), p.labels.fresh(after)
        amounts[position : position + 2] = [Length(ids=first), Length(ids=last)]
        out[axis] = (np.concatenate([first, ids_of(x[axis]), last]),)
    if any(isinstance(amount, Length) for amount in amounts):
        p.rewrite(node, {"pad": amounts})
    return tuple(out)


def cat(p: Propagation, node: fx.Node) -> Value:
    """One after the other along an axis; index by index along the others."""
    tensors = [tensor for tensor in arguments(node)["tensors"] if p.shape(tensor) != (0,)]
    layouts = [p.layout(tensor) for tensor in tensors]
    axis = arguments(node)["dim"] % len(layouts[0])
    out = list(layouts[0])
    for layout in layouts[1:]:
        out = [dim if i == axis else p.merge(node, dim, layout[i]) for i, dim in enumerate(out)]
    joined = [layout[axis] for layout in layouts]
    if not any(is_labelled(dim) for dim in joined):
        out[axis] = (p.shape(node)[axis],)
    elif all(len(dim) == 1 and not isinstance(dim[0], torch.SymInt) for dim in joined):
        out[axis] = (np.concatenate([ids_of(dim) for dim in joined]),)
    else:
        p.whole(node, joined, "concatenates along the batch")
        out[axis] = (p.shape(node)[axis],)
    return tuple(out)


def stack(p: Propagation, node: fx.Node) -> Value:
    """Index by index; the new axis is plain."""
    tensors = arguments(node)["tensors"]
    out = p.layout(tensors[0])
    for tensor in tensors[1:]:
        out = tuple(p.merge(node, a, b) for a, b in zip(out, p.layout(tensor), strict=True))
    axis = arguments(node)["dim"] % (len(out) + 1)
    return (*out[:axis], (len(tensors),), *out[axis:])


def created(p: Propagation, node: fx.Node) -> Value:
    """A constant of a given shape: its indices may follow whatever they are joined with."""
    a = arguments(node)
    shape = p.shape(node)
    out: Layout = tuple(
        (size,) if not isinstance(size, int) or size == 1 else (p.labels.fresh(size),) for size in shape
    )
    p.rewrite(
        node,
        {
            "size": [
                Length(ids=ids_of(dim)) if is_labelled(dim) else old for dim, old in zip(out, a["size"], strict=True)
            ]
        },
    )
    return out


def _replaced(x: Layout, axis: int, dim: Dim) -> Layout:
    return (*x[:axis], dim, *x[axis + 1 :])


def _numbers(*values: object) -> bool:
    return all(value is None or isinstance(value, int) for value in values)


RULES: Final[Mapping[str, Rule]] = {
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split"), split),
    "unbind": unbind,
    "getitem": getitem,
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("cat", "concat", "concatenate"), cat),
    "stack": stack,
    **dict.fromkeys(("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"), created),
}
