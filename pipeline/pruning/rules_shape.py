"""Rules of operators that rearrange: views, permutations, broadcasts of shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import fx

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, Layout, Length, ScaledSize, Size, ids_of, is_labelled, kept_size, labelled
from pipeline.pruning.regroup import regroup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.propagate import Propagation, Rule, Value


def view(p: Propagation, node: fx.Node) -> Value:
    """View, reshape: the sizes asked for follow the labels."""
    shape = p.shape(node)
    out = regroup(p, node, p.layout(node.args[0]), shape)
    a = arguments(node)
    name = "size" if "size" in a else "shape"
    return _resized(p, node, name, a[name], out)


def flatten(p: Propagation, node: fx.Node) -> Value:
    """Flatten names axes, not sizes."""
    return regroup(p, node, p.layout(node.args[0]), p.shape(node))


def unflatten(p: Propagation, node: fx.Node) -> Value:
    """Only the sizes of the axis that is split are arguments."""
    x = p.layout(node.args[0])
    out = regroup(p, node, x, p.shape(node))
    a = arguments(node)
    axis = a["dim"] % len(x)
    count = len(a["sizes"])
    _resized(p, node, "sizes", a["sizes"], out[axis : axis + count])
    return out


def permute(p: Propagation, node: fx.Node) -> Value:
    """Axes in another order."""
    x = p.layout(node.args[0])
    return tuple(x[axis] for axis in arguments(node)["dims"])


def transpose(p: Propagation, node: fx.Node) -> Value:
    """Two axes change places."""
    a = arguments(node)
    x = list(p.layout(node.args[0]))
    first, second = (a["dim0"], a["dim1"]) if "dim0" in a else (0, 1)
    if len(x) > 1:
        x[first], x[second] = x[second], x[first]
    return tuple(x)


def reversed_axes(p: Propagation, node: fx.Node) -> Value:
    """All axes the other way round."""
    return p.layout(node.args[0])[::-1]


def last_two(p: Propagation, node: fx.Node) -> Value:
    """The last two axes change places."""
    *batch, rows, columns = p.layout(node.args[0])
    return (*batch, columns, rows)


def movedim(p: Propagation, node: fx.Node) -> Value:
    """Axes move, the others keep their order."""
    x = p.layout(node.args[0])
    a = arguments(node)
    pairs = zip(_listed(a["source"]), _listed(a["destination"]), strict=True)
    moves = {destination % len(x): source % len(x) for source, destination in pairs}
    rest = iter(axis for axis in range(len(x)) if axis not in moves.values())
    return tuple(x[moves[axis] if axis in moves else next(rest)] for axis in range(len(x)))


def squeeze(p: Propagation, node: fx.Node) -> Value:
    """Drops axes of size 1, and only these: an axis pruned down to 1 must not vanish."""
    x, shape = p.layout(node.args[0]), p.shape(node.args[0])
    a = arguments(node)
    asked = range(len(x)) if a.get("dim") is None else [axis % len(x) for axis in _listed(a["dim"])]
    dropped = [axis for axis in asked if isinstance(shape[axis], int) and shape[axis] == 1]
    if any(is_labelled(x[axis]) for axis in asked if axis not in dropped):
        p.rewrite(node, {"self": node.args[0], "dim": dropped}, target=torch.ops.aten.squeeze.dims)
    p.whole(node, [x[axis] for axis in dropped], "drops the axis")
    return tuple(dim for axis, dim in enumerate(x) if axis not in dropped)


def unsqueeze(p: Propagation, node: fx.Node) -> Value:
    """A new axis of size 1."""
    x = p.layout(node.args[0])
    axis = arguments(node)["dim"] % (len(x) + 1)
    return (*x[:axis], (1,), *x[axis:])


def expand(p: Propagation, node: fx.Node) -> Value:
    """Axes of size 1 are stretched, new ones come first, the others keep their labels."""
    x, before, after = p.layout(node.args[0]), p.shape(node.args[0]), p.shape(node)
    new = len(after) - len(before)
    out: list[Dim] = [(size,) for size in after[:new]]
    for dim, old, size in zip(x, before, after[new:], strict=True):
        if isinstance(old, int) and old == 1 and not (isinstance(size, int) and size == 1):
            p.whole(node, [dim], "is stretched")
            out.append((size,))
        else:
            out.append(dim)
    a = arguments(node)
    return _resized(p, node, "size", a["size"], tuple(out)) if "size" in a else tuple(out)


def expand_as(p: Propagation, node: fx.Node) -> Value:
    """Stretched to the other's sizes, whatever they become."""
    a = arguments(node)
    x, other = p.layout(node.args[0]), p.layout(a["other"])
    before, after = p.shape(node.args[0]), p.shape(node)
    new = len(after) - len(before)
    pairs = zip(x, before, after[new:], other[new:], strict=True)
    return (
        *other[:new],
        *(
            stretched if _is_one(old) and not _is_one(size) else p.merge(node, dim, stretched)
            for dim, old, size, stretched in pairs
        ),
    )


def repeat(p: Propagation, node: fx.Node) -> Value:
    """Tiles axes; new ones come first."""
    x = p.layout(node.args[0])
    times = arguments(node)["repeats" if "repeats" in arguments(node) else "dims"]
    x = (((1,),) * (len(times) - len(x))) + x
    times = [1] * (len(x) - len(times)) + list(times)
    return tuple(_tiled(p, node, dim, count, size) for dim, count, size in zip(x, times, p.shape(node), strict=True))


def flip(p: Propagation, node: fx.Node) -> Value:
    """Reverses axes; what is kept keeps its reversed order."""
    x = list(p.layout(node.args[0]))
    for axis in arguments(node)["dims"]:
        if is_labelled(x[axis]):
            x[axis] = (ids_of(x[axis])[::-1],)
    return tuple(x)


def pixel_shuffle(p: Propagation, node: fx.Node) -> Value:
    """(N, C r r, H, W) to (N, C, H r, W r): unit c is all its r r channels."""
    x, shape = p.layout(node.args[0]), p.shape(node)
    if not is_labelled(x[-3]):
        return (*x[:-3], *((size,) for size in shape[-3:]))
    grid = ids_of(x[-3]).reshape(shape[-3], -1)
    p.unite(grid, grid[:, :1])
    return (*x[:-3], (grid[:, 0],), *((size,) for size in shape[-2:]))


def pixel_unshuffle(p: Propagation, node: fx.Node) -> Value:
    """(N, C, H r, W r) to (N, C r r, H, W)."""
    x, shape = p.layout(node.args[0]), p.shape(node)
    return (*x[:-3], p.join(node, (*x[-3], shape[-3] // p.shape(node.args[0])[-3])), *((size,) for size in shape[-2:]))


def channel_shuffle(p: Propagation, node: fx.Node) -> Value:
    """View (g, C / g), transpose, flatten; unit j is channel j of every group."""
    x = p.layout(node.args[0])
    if not is_labelled(x[1]):
        return x
    grid = ids_of(x[1]).reshape(arguments(node)["groups"], -1)
    p.unite(grid, grid[:1])
    return (x[0], (grid.T.ravel(),), *x[2:])


def _resized(p: Propagation, node: fx.Node, name: str, sizes: Sequence[Any], out: Layout) -> Layout:
    """Write `Length`s into a list of sizes; an axis with batch and labels in one becomes -1, which only one can be."""
    new, open_axes = list(sizes), [axis for axis, size in enumerate(sizes) if isinstance(size, int) and size == -1]
    for axis, dim in enumerate(out):
        length = kept_size(dim)
        if not is_labelled(dim) or axis in open_axes:
            continue
        if isinstance(length, Length):
            new[axis] = length
        elif not open_axes:
            open_axes, new[axis] = [axis], -1
        elif isinstance(sizes[axis], fx.Node) and len(labelled(dim)) == 1 and _only_scaled(dim):
            new[axis] = ScaledSize(node=sizes[axis], ids=labelled(dim)[0])
        else:
            p.whole(node, [dim], "its size is computed together with the batch size")
    if any(new_size is not old for new_size, old in zip(new, sizes, strict=True)):
        p.rewrite(node, {name: new})
    return out


def _only_scaled(dim: Dim) -> bool:
    return sum(isinstance(factor, torch.SymInt) for factor in dim) + len(labelled(dim)) == len(dim)


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def _tiled(p: Propagation, node: fx.Node, dim: Dim, count: Size, size: Size) -> Dim:
    if isinstance(count, int) and count == 1:
        return dim
    if not is_labelled(dim):
        return (size,)
    if isinstance(count, int) and len(dim) == 1:
        return (np.tile(ids_of(dim), count),)
    p.whole(node, [dim], "repeats it as often as the batch says")
    return (size,)


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), view),
    "flatten": flatten,
    "unflatten": unflatten,
    "permute": permute,
    **dict.fromkeys(("transpose", "t", "swapaxes", "swapdims"), transpose),
    "numpy_T": reversed_axes,
    "mT": last_two,
    "movedim": movedim,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    **dict.fromkeys(("expand", "broadcast_to"), expand),
    "expand_as": expand_as,
    **dict.fromkeys(("repeat", "tile"), repeat),
    "flip": flip,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "channel_shuffle": channel_shuffle,
}
