"""Removes units from a graph: filters every parameter by its labels and sets every size argument to what is kept."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument, map_aggregate

from pipeline.graph.copying import copy_graph
from pipeline.graph.metadata import renew_metadata
from pipeline.graph.operators import set_arguments
from pipeline.pruning.dims import Dim, Layout, Length, ScaledSize, labelled
from pipeline.pruning.labels import WHOLE, Flags, Ids
from pipeline.pruning.rules import propagate
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.propagate import Propagation, Rewrite


def apply_decisions(gm: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """The small graph: a copy of ``gm`` without what the decisions leave out; ``gm`` stays as it is.

    Raises:
        InputError: The decisions do not fit the graph: unknown parameter, other sizes, or units cut in part.
    """
    small = copy_graph(gm)
    p = propagate(small, statistics=decisions.statistics)
    gone = removed_labels(p, decisions)
    _cut_parameters(small, p, gone)
    _renumber(small, p, gone)
    for edit in p.rewrites:
        rewrite(edit, gone)
    small.graph.lint()
    small.recompile()
    renew_metadata(small)
    _check_shapes(small, p, gone)
    return small


def removed_labels(p: Propagation, decisions: Decisions) -> Flags:
    """Which labels go, composite ones with either of their parts; a flag a label.

    Raises:
        InputError: The decisions do not fit the graph.
    """
    removed: Flags = np.zeros(len(p.labels), dtype=bool)
    masks: dict[tuple[str, int], Flags] = {}
    for name, axes in decisions.parameters.items():
        if name not in p.parameters:
            raise _misfit(f"the model has no parameter {name!r}, {nearest(name, p.parameters)}")
        for axis, kept in axes.items():
            ids = _axis_ids(p, name, axis)
            if len(ids) != kept.size:
                raise _misfit(f"axis {axis} of {name!r} has {len(ids)} indices here, and {kept.size} in the decisions")
            mask = np.ones(kept.size, dtype=bool)
            mask[list(kept.kept)] = False
            masks[name, axis] = mask
            if p.labels.stays(ids[mask]).any():
                raise _misfit(f"they remove channels of axis {axis} of {name!r} that have to stay in this model")
            removed[_parts_gone(p.labels.parts(ids), mask)] = True
    gone = _gone_with(p, removed)
    _check_consistent(p, masks, gone)
    return gone


def _parts_gone(parts: Ids, mask: Flags) -> Ids:
    """Simple roots that go with the indices of a mask: of a product, those that have no index left."""
    single = (parts != WHOLE).sum(axis=1) == 1
    alone, left = parts[mask & single], parts[~mask]
    return np.concatenate([alone[alone != WHOLE], np.setdiff1d(parts[mask & ~single], [*left.ravel(), WHOLE])])


def _gone_with(p: Propagation, removed: Flags) -> Flags:
    return np.asarray(removed[p.labels.parts(np.arange(len(p.labels), dtype=np.int64))].any(axis=1))


def _axis_ids(p: Propagation, name: str, axis: int) -> Ids:
    dims = p.parameters[name]
    found = labelled(dims[axis]) if axis < len(dims) else []
    return found[0] if found else np.zeros(1, dtype=np.int64)


def _check_consistent(p: Propagation, masks: dict[tuple[str, int], Flags], gone: Flags) -> None:
    for name, dims in p.parameters.items():
        for axis, dim in enumerate(dims):
            for ids in labelled(dim):
                mask = gone[ids]
                if not np.array_equal(mask, masks.get((name, axis), np.zeros(len(ids), dtype=bool))):
                    raise _misfit(
                        f"axis {axis} of {name!r} has to lose {int(mask.sum())} indices with the others, and does not"
                    )
                if mask.all():
                    raise _misfit(f"nothing would be left of axis {axis} of {name!r}")


def _misfit(why: str) -> InputError:
    return InputError(
        "the pruning decisions do not fit the model",
        why,
        "use the decisions that were written for this model, or prune it again",
    )


def _cut_parameters(gm: fx.GraphModule, p: Propagation, gone: Flags) -> None:
    """Replace every parameter and buffer that loses indices, under all of its names, so that ties stay."""
    cut: dict[int, Tensor] = {}
    for name, value in named_tensors(gm):
        if id(value) not in cut and name in p.parameters:
            cut[id(value)] = _cut(value, p.parameters[name], gone)
    for name, value in named_tensors(gm):
        if cut.get(id(value), value) is not value:
            path, _, leaf = name.rpartition(".")
            setattr(gm.get_submodule(path), leaf, cut[id(value)])


def named_tensors(gm: fx.GraphModule) -> list[tuple[str, Tensor]]:
    """Every parameter, buffer and constant under every name it has."""
    return [*gm.named_parameters(remove_duplicate=False), *gm.named_buffers(remove_duplicate=False), *_constants(gm)]


def _constants(gm: fx.GraphModule) -> list[tuple[str, Tensor]]:
    return [
        (name, value)
        for path, module in gm.named_modules()
        for leaf, value in vars(module).items()
        if isinstance(value, Tensor) and (name := f"{path}.{leaf}".removeprefix("."))
    ]


def _cut(value: Tensor, layout: Layout, gone: Flags) -> Tensor:
    new = value.detach()
    for axis, dim in enumerate(layout):
        for ids in labelled(dim):
            mask = ~gone[ids]
            if not mask.all():
                new = new.index_select(axis, torch.from_numpy(np.flatnonzero(mask)).to(new.device))
    if new.shape == value.shape:
        return value
    return nn.Parameter(new, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else new


def _renumber(gm: fx.GraphModule, p: Propagation, gone: Flags) -> None:
    """Give constants that hold positions the positions among what is kept."""
    for name, value in named_tensors(gm):
        if name in p.renumbered:
            ids = p.renumbered[name].ids
            position = np.cumsum(~gone[ids]) - 1
            with torch.no_grad():
                value.copy_(torch.from_numpy(position)[value.cpu() % len(ids)])


def rewrite(edit: Rewrite, gone: Flags) -> None:
    """Write the new sizes into an operator."""

    def evaluate(leaf: Argument) -> Argument:
        size: object = leaf
        if isinstance(size, Length):
            return size.kept(gone)
        return _scaled(size, edit.node, gone) if isinstance(size, ScaledSize) else leaf

    values = {name: map_aggregate(value, evaluate) for name, value in edit.arguments.items()}
    if edit.target is not None:
        edit.node.target, edit.node.args, edit.node.kwargs = edit.target, tuple(values.values()), {}
        return
    set_arguments(edit.node, values)


def _scaled(size: ScaledSize, node: fx.Node, gone: Flags) -> fx.Node:
    """The size that some arithmetic on the batch gave, with the number of channels in it replaced."""
    kept = int(np.count_nonzero(~gone[size.ids]))
    if kept == len(size.ids):
        return size.node
    with node.graph.inserting_before(node):
        batch = node.graph.call_function(operator.floordiv, (size.node, len(size.ids)))
        return node.graph.call_function(operator.mul, (batch, kept))


def _check_shapes(gm: fx.GraphModule, p: Propagation, gone: Flags) -> None:
    """What the labels foretold is what the operators now give; anything else is a wrong rule."""
    for node in gm.graph.nodes:
        layout = p.layouts.get(node)
        if isinstance(layout, tuple) and isinstance(node.meta.get("val"), Tensor):
            shape = node.meta["val"].shape
            for axis, dim in enumerate(layout):
                size = _kept_size(dim, gone)
                assert size is None or size == shape[axis], f"{node.name}: axis {axis} is {shape[axis]}, not {size}"


def _kept_size(dim: Dim, gone: Flags) -> int | None:
    if len(dim) != 1 or isinstance(dim[0], torch.SymInt):
        return None
    return int(np.count_nonzero(~gone[dim[0]])) if isinstance(dim[0], np.ndarray) else dim[0]
