"""Rules of operators that take statistics: normalisations, reductions, softmax, pooling and resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import fx

from pipeline.graph.operators import arguments
from pipeline.pruning.rules_elementwise import elementwise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    """A statistic over the last axes, which stay whole (layer norm and RMS norm)."""
    a = arguments(node)
    x = p.layout(a["input"])
    normalised = len(a["normalized_shape"])
    _whole_with_parameters(p, node, x[len(x) - normalised :], a)
    return x


def group_norm(p: Propagation, node: fx.Node) -> Value:
    """A statistic over groups of channels, which stay whole."""
    a = arguments(node)
    x = p.layout(a["input"])
    _whole_with_parameters(p, node, x[1:], a)
    return x


def along(p: Propagation, node: fx.Node) -> Value:
    """Softmax, cumulative sums: a statistic along one axis, same shape."""
    x = p.layout(node.args[0])
    axis = arguments(node)["dim"]
    p.whole(node, [x[axis]], "takes a statistic over it")
    return x


def reduction(p: Propagation, node: fx.Node) -> Value:
    """Mean, sum, maximum over axes: these stay whole and vanish (or shrink to 1), the others pass."""
    a = arguments(node)
    if "other" in a:  # the maximum of two tensors has the same name
        return elementwise(p, node)
    x = p.layout(node.args[0])
    axes = _axes(a.get("dim"), len(x))
    p.whole(node, [x[axis] for axis in sorted(axes)], "takes a statistic over it")
    keep = bool(a.get("keepdim", False))
    out: Layout = tuple((1,) if axis in axes else dim for axis, dim in enumerate(x) if keep or axis not in axes)
    value = node.meta["val"]
    return out if isinstance(value, torch.Tensor) else [out for _ in value]


def spatial(axes: int) -> Callable[[Propagation, fx.Node], Value]:
    """Pooling and resampling over the last ``axes`` axes; batch and channels pass."""

    def rule(p: Propagation, node: fx.Node) -> Value:
        x = p.layout(node.args[0])
        p.whole(node, x[len(x) - axes :], "slides over it")
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


def _whole_with_parameters(p: Propagation, node: fx.Node, dims: Layout, a: Mapping[str, Any]) -> None:
    p.whole(node, dims, "takes a statistic over it")
    for name in ("weight", "bias"):
        if isinstance(a.get(name), fx.Node):
            for dim in p.layout(a[name]):
                p.fix(dim)


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
        ),
        reduction,
    ),
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "layer_norm": layer_norm,
    "rms_norm": layer_norm,
    "group_norm": group_norm,
}
