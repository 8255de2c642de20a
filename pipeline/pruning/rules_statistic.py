"""Rules of operators that take statistics: normalisations, reductions, softmax, pooling and resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch
from torch import fx

from pipeline.graph.operators import arguments, operator_name
from pipeline.pruning.dims import Length, ids_of, is_concrete, is_labelled
from pipeline.pruning.rules_elementwise import broadcast, elementwise
from pipeline.pruning.statistics import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipeline.pruning.dims import Layout, Size
    from pipeline.pruning.propagate import Propagation, Rule, Value


def channel_norm(p: Propagation, node: fx.Node) -> Value:
    """Batch and instance norm: each channel (axis 1) for itself; parameters and running statistics go with it."""
    a = arguments(node)
    x = p.layout(a["input"])
    channels = x[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(a[name], fx.Node):
            channels = p.merge(node, channels, p.layout(a[name])[0])
    return (x[0], channels, *x[2:])


def layer_norm(p: Propagation, node: fx.Node) -> Value:
    """A statistic over the last axes (layer norm and RMS norm)."""
    a = arguments(node)
    x = p.layout(a["input"])
    first = len(x) - len(a["normalized_shape"])
    for name in ("weight", "bias"):
        if isinstance(a.get(name), fx.Node):
            for dim, own in zip(x[first:], p.layout(a[name]), strict=True):
                p.merge(node, dim, own)
    if _left_out(p, node, a["input"], range(first, len(x))):
        sizes = [Length(ids=ids_of(dim)) if is_labelled(dim) else dim[0] for dim in x[first:]]
        p.rewrite(node, {"normalized_shape": sizes})
    return x


def group_norm(p: Propagation, node: fx.Node) -> Value:
    """A statistic over each group of channels: whole groups can go, and channels of them where they are left out."""
    a = arguments(node)
    x, groups = p.layout(a["input"]), int(a["num_groups"])
    p.whole(node, x[2:], "takes a statistic over it")
    channels = x[1]
    for name in ("weight", "bias"):
        if isinstance(a.get(name), fx.Node):
            channels = p.merge(node, channels, p.layout(a[name])[0])
    if not is_labelled(channels):
        return x
    ids = ids_of(channels)
    grid = ids.reshape(groups, -1)
    if p.statistics == "leave_out":
        rows, columns = p.split(ids, (groups, grid.shape[1]))
        if isinstance(columns, np.ndarray):
            p.read(node, a["input"], {1: channels}, statistic=True)
        if isinstance(rows, np.ndarray):
            p.rewrite(node, {"num_groups": Length(ids=rows)})
    else:
        p.unite(grid, grid[:, :1])
        p.rewrite(node, {"num_groups": Length(ids=grid[:, 0])})
    return (x[0], channels, *x[2:])


def along(p: Propagation, node: fx.Node) -> Value:
    """Softmax, cumulative sums: a statistic along one axis, same shape."""
    x = p.layout(node.args[0])
    _left_out(p, node, node.args[0], [arguments(node)["dim"] % len(x)])
    return x


def reduction(p: Propagation, node: fx.Node) -> Value:
    """Mean, sum, maximum over axes, which vanish (or shrink to 1); the others pass.

    A sum, or a norm, of what a consumer does not see is that of the rest: its axis can be pruned like that of a matrix
    product. Mean and maximum are statistics.
    """
    a = arguments(node)
    if "other" in a:  # the maximum of two tensors has the same name
        return elementwise(p, node)
    x = p.layout(node.args[0])
    axes = _axes(a.get("dim"), len(x))
    labelled_axes = {axis: x[axis] for axis in sorted(axes) if is_labelled(x[axis])}
    if operator_name(node) in _SUMS and all(len(dim) == 1 for dim in labelled_axes.values()):
        p.read(node, node.args[0], labelled_axes)
    else:
        _left_out(p, node, node.args[0], sorted(axes))
    keep = bool(a.get("keepdim", False))
    out: Layout = tuple((1,) if axis in axes else dim for axis, dim in enumerate(x) if keep or axis not in axes)
    value = node.meta["val"]
    return out if isinstance(value, torch.Tensor) else [out for _ in value]


def cosine_similarity(p: Propagation, node: fx.Node) -> Value:
    """Sums of products over one axis: what is zero in both vectors does not count."""
    a = arguments(node)
    first, second = p.layout(a["x1"]), p.layout(a["x2"])
    axis = a["dim"]
    if len(first) != len(second) or len(first[axis]) != 1:
        p.whole(node, p.input_dims(node), "compares tensors of unlike shape", always=True)
        return tuple((size,) for size in p.shape(node))
    dim = p.merge(node, first[axis], second[axis])
    for name, layout in (("x1", first), ("x2", second)):
        p.read(node, a[name], {axis % len(layout): dim})
    shapes = [(layout, p.shape(a[name])) for name, layout in (("x1", first), ("x2", second))]
    rest = [(_without(layout, axis), _without(sizes, axis)) for layout, sizes in shapes]
    return broadcast(p, node, rest, p.shape(node))


def spatial(axes: int) -> Callable[[Propagation, fx.Node], Value]:
    """Pooling and resampling over the last ``axes`` axes; batch and channels pass."""

    def rule(p: Propagation, node: fx.Node) -> Value:
        x = p.layout(node.args[0])
        p.positions(node, x[len(x) - axes :], "slides over it")
        value = node.meta["val"]
        if isinstance(value, torch.Tensor):
            return _with_spatial(x, axes, p.shape(node))
        return [_with_spatial(x, axes, p.shape(node, output)) for output in range(len(value))]

    return rule


def _with_spatial(x: Layout, axes: int, shape: tuple[Size, ...]) -> Layout:
    return (*x[: len(x) - axes], *((size,) for size in shape[len(x) - axes :]))


def _axes(dim: int | Sequence[int] | None, rank: int) -> set[int]:
    if dim is None or (not isinstance(dim, int) and not dim):
        return set(range(rank))
    return {axis % rank for axis in ([dim] if isinstance(dim, int) else dim)} if rank else set()


def _left_out(p: Propagation, node: fx.Node, source: object, axes: Iterable[int]) -> bool:
    """Whether the operator may leave units of these axes out of its statistic; else they stay whole."""
    x = p.layout(source)
    dims = {axis: x[axis] for axis in axes if is_labelled(x[axis])}
    able = operator_name(node) in LEFT_OUT and all(len(x[axis]) == 1 and is_concrete(x[axis][0]) for axis in axes)
    if p.statistics == "leave_out" and able:
        p.read(node, source, dims, statistic=True)
        return True
    p.whole(node, list(dims.values()), "takes a statistic over it")
    return False


def _without(items: Sequence[_T], axis: int) -> tuple[_T, ...]:
    return tuple(item for i, item in enumerate(items) if i != axis % len(items))


_T = TypeVar("_T")
_SUMS: Final = frozenset({"sum", "linalg_vector_norm", "norm"})
_POOLS: Final = (
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "lp_pool",
    "reflection_pad",
    "replication_pad",
)
_UPSAMPLES: Final = {
    "upsample_nearest1d": 1, "upsample_linear1d": 1, "_upsample_nearest_exact1d": 1,
    "upsample_nearest2d": 2, "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "_upsample_nearest_exact2d": 2,
    "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
    "upsample_nearest3d": 3, "upsample_trilinear3d": 3, "_upsample_nearest_exact3d": 3,
}  # fmt: skip

RULES: Final[Mapping[str, Rule]] = {
    **{f"{pool}{n}d": spatial(n) for pool in _POOLS for n in (1, 2, 3)},
    **{f"{pool}{n}d_with_indices": spatial(n) for pool in ("max_pool", "adaptive_max_pool") for n in (1, 2, 3)},
    **{name: spatial(n) for name, n in _UPSAMPLES.items()},
    **dict.fromkeys(("softmax", "log_softmax", "_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp"), along),
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max",
            "min",
            "std",
            "var",
            "prod",
            "logsumexp",
            "argmax",
            "argmin",
            "any",
            "all",
            "linalg_vector_norm",
            "norm",
        ),
        reduction,
    ),
    "cosine_similarity": cosine_similarity,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
}
