"""The reference for pruned statistics: operators that leave the removed units out of what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from pipeline.graph.operators import arguments, operator_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import fx

Axes: TypeAlias = "int | list[int]"


def leave_out(gm: fx.GraphModule, node: fx.Node, keep: Mapping[int, Tensor], number: int) -> None:
    """Replace an operator by one that takes its statistic over what is kept alone.

    Args:
        gm: The graph.
        node: The operator.
        keep: A flag for each index of the axes over which it takes its statistic. By axis, (size,) bool.
        number: Distinguishes the names of the constants that are put into the graph.
    """
    a = arguments(node)
    source = a.get("input", a.get("self"))
    assert source is not None
    value = source.meta["val"]
    shape = [1] * value.dim()
    flags = torch.ones(shape, dtype=torch.bool)
    for axis, kept in keep.items():
        flags = flags & kept.reshape([len(kept) if i == axis else 1 for i in range(value.dim())])
    name = f"_kept_{number}"
    gm.register_buffer(name, flags.to(value.device), persistent=False)
    reference = LEFT_OUT[operator_name(node)]
    given = {key: value for key, value in a.items() if key in _TAKEN[reference]}
    if given.get("dim", 0) is None:
        given["dim"] = []
    with gm.graph.inserting_before(node):
        new = gm.graph.call_function(reference, (source, gm.graph.get_attr(name)), given)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)


def layer_norm(
    x: Tensor, keep: Tensor, *, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Layer norm whose mean and variance are those of the kept features."""
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    y = _normalised(x, keep, axes, eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(
    x: Tensor, keep: Tensor, *, normalized_shape: Sequence[int], weight: Tensor | None, eps: float | None
) -> Tensor:
    """RMS norm over the kept features."""
    axes = list(range(x.dim() - len(normalized_shape), x.dim()))
    squares = _mean(x * x, keep, axes)
    y = x * torch.rsqrt(squares + (torch.finfo(x.dtype).eps if eps is None else eps))
    return y if weight is None else y * weight


def group_norm(
    x: Tensor, keep: Tensor, *, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Group norm over the kept channels of each group."""
    parts = (num_groups, x.shape[1] // num_groups)
    grouped = x.reshape(x.shape[0], *parts, *x.shape[2:])
    kept = keep.reshape(1, *parts, *keep.shape[2:])
    axes = list(range(2, grouped.dim()))
    y = _normalised(grouped, kept & kept.any(dim=1, keepdim=True), axes, eps).reshape(x.shape)
    channels = [1, -1, *([1] * (x.dim() - 2))]
    y = y if weight is None else y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


def softmax(x: Tensor, keep: Tensor, *, dim: int) -> Tensor:
    """Softmax over the kept indices; 0 for the others."""
    return torch.softmax(x.masked_fill(~keep, -torch.inf), dim)


def log_softmax(x: Tensor, keep: Tensor, *, dim: int) -> Tensor:
    """Log-softmax over the kept indices; 0 for the others, which nobody reads."""
    return torch.log_softmax(x.masked_fill(~keep, -torch.inf), dim).masked_fill(~keep, 0)


def mean(x: Tensor, keep: Tensor, *, dim: Axes, keepdim: bool) -> Tensor:
    """Mean of what is kept."""
    axes = ([dim] if isinstance(dim, int) else list(dim)) or list(range(x.dim()))
    found = _mean(x, keep, axes)
    return found if keepdim else found.squeeze(axes)


def largest(x: Tensor, keep: Tensor, *, dim: Axes, keepdim: bool) -> Tensor:
    """Maximum of what is kept."""
    return x.masked_fill(~keep, -torch.inf).amax(dim, keepdim)


def smallest(x: Tensor, keep: Tensor, *, dim: Axes, keepdim: bool) -> Tensor:
    """Minimum of what is kept."""
    return x.masked_fill(~keep, torch.inf).amin(dim, keepdim)


def _normalised(x: Tensor, keep: Tensor, axes: list[int], eps: float) -> Tensor:
    centred = x - _mean(x, keep, axes)
    return centred * torch.rsqrt(_mean(centred * centred, keep, axes) + eps)


def _mean(x: Tensor, keep: Tensor, axes: list[int]) -> Tensor:
    """Mean over axes of what is kept; 0 where nothing is. The axes stay, of size 1."""
    kept = keep.to(x.dtype).expand(x.shape)
    return (x * kept).sum(axes, keepdim=True) / kept.sum(axes, keepdim=True).clamp(min=1)


LEFT_OUT: Final[Mapping[str, Callable[..., Tensor]]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "mean": mean,
    "amax": largest,
    "amin": smallest,
}
"""The reference of each operator that can leave units out, by operator name; others keep their dimension whole."""

_TAKEN: Final = {
    function: {name for name in function.__annotations__ if name not in {"x", "keep", "return"}}
    for function in LEFT_OUT.values()
}
