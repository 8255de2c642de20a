"""Removes units from a graph: filters every parameter by its labels and sets every size argument to what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import Argument, map_aggregate
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from pipeline.graph.copying import copy_graph
from pipeline.graph.operators import set_arguments
from pipeline.pruning.dims import Dim, Layout, Length, labelled
from pipeline.pruning.labels import WHOLE, Ids
from pipeline.pruning.rules import propagate
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.propagate import Propagation, Rewrite

Flags = NDArray[np.bool_]


def apply_decisions(gm: fx.GraphModule, decisions: Decisions) -> fx.GraphModule:
    """The small graph: a copy of ``gm`` without what the decisions leave out; ``gm`` stays as it is.

    Raises:
        InputError: The decisions do not fit the graph: unknown parameter, other sizes, or units cut in part.
    """
    small = copy_graph(gm)
    p = propagate(small)
    removed, roots = removed_labels(p, decisions)
    _cut_parameters(small, p, lambda ids: ~removed[roots[ids]])
    for edit in p.rewrites:
        _rewrite(edit, removed, roots)
    small.graph.lint()
    small.recompile()
    _renew_metadata(small)
    _check_shapes(small, p, removed, roots)
    return small


def removed_labels(p: Propagation, decisions: Decisions) -> tuple[Flags, Ids]:
    """Which roots go, and the root of every label.

    Raises:
        InputError: The decisions do not fit the graph.
    """
    roots = p.labels.find(np.arange(len(p.labels), dtype=np.int64))
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
            removed[roots[ids[mask]]] = True
    if removed[WHOLE]:
        raise _misfit("they remove channels that have to stay in this model")
    _check_consistent(p, masks, removed, roots)
    return removed, roots


def _axis_ids(p: Propagation, name: str, axis: int) -> Ids:
    dims = p.parameters[name]
    found = labelled(dims[axis]) if axis < len(dims) else []
    return found[0] if found else np.zeros(1, dtype=np.int64)


def _check_consistent(p: Propagation, masks: dict[tuple[str, int], Flags], removed: Flags, roots: Ids) -> None:
    for name, dims in p.parameters.items():
        for axis, dim in enumerate(dims):
            for ids in labelled(dim):
                mask = removed[roots[ids]]
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


def _cut_parameters(gm: fx.GraphModule, p: Propagation, kept: Callable[[Ids], Flags]) -> None:
    """Replace every parameter and buffer that loses indices, under all of its names, so that ties stay."""
    cut: dict[int, Tensor] = {}
    for name, value in _named_tensors(gm):
        if id(value) not in cut and name in p.parameters:
            cut[id(value)] = _cut(value, p.parameters[name], kept)
    for name, value in _named_tensors(gm):
        if cut.get(id(value), value) is not value:
            path, _, leaf = name.rpartition(".")
            setattr(gm.get_submodule(path), leaf, cut[id(value)])


def _named_tensors(gm: fx.GraphModule) -> list[tuple[str, Tensor]]:
    """Every parameter, buffer and constant under every name it has."""
    return [*gm.named_parameters(remove_duplicate=False), *gm.named_buffers(remove_duplicate=False), *_constants(gm)]


def _constants(gm: fx.GraphModule) -> list[tuple[str, Tensor]]:
    return [
        (name, value)
        for path, module in gm.named_modules()
        for leaf, value in vars(module).items()
        if isinstance(value, Tensor) and (name := f"{path}.{leaf}".removeprefix("."))
    ]


def _cut(value: Tensor, layout: Layout, kept: Callable[[Ids], Flags]) -> Tensor:
    new = value.detach()
    for axis, dim in enumerate(layout):
        for ids in labelled(dim):
            mask = kept(ids)
            if not mask.all():
                new = new.index_select(axis, torch.from_numpy(np.flatnonzero(mask)).to(new.device))
    if new.shape == value.shape:
        return value
    return nn.Parameter(new, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else new


def _rewrite(edit: Rewrite, removed: Flags, roots: Ids) -> None:
    def evaluate(leaf: Argument) -> Argument:
        return leaf.kept(removed, roots) if isinstance(leaf, Length) else leaf

    values = {name: map_aggregate(value, evaluate) for name, value in edit.arguments.items()}
    if edit.target is not None:
        edit.node.target, edit.node.args, edit.node.kwargs = edit.target, tuple(values.values()), {}
        return
    set_arguments(edit.node, values)


def _renew_metadata(gm: fx.GraphModule) -> None:
    """Run the graph on shapes, with the batch as symbolic as it was traced.

    The environment of symbolic sizes is shared with the graph this one was copied from: without suppressed guards, a
    comparison in some operator would fix the batch size of both.
    """
    inputs = [node.meta["val"] for node in gm.graph.nodes if node.op == "placeholder"]
    mode = next(value.fake_mode for value in inputs if isinstance(value, FakeTensor))
    assert mode.shape_env is not None
    with torch.no_grad(), mode.shape_env.suppress_guards():
        FakeTensorProp(gm, mode=mode).propagate_dont_convert_inputs(*inputs)


def _check_shapes(gm: fx.GraphModule, p: Propagation, removed: Flags, roots: Ids) -> None:
    """What the labels foretold is what the operators now give; anything else is a wrong rule."""
    for node in gm.graph.nodes:
        layout = p.layouts.get(node)
        if isinstance(layout, tuple) and isinstance(node.meta.get("val"), Tensor):
            shape = node.meta["val"].shape
            for axis, dim in enumerate(layout):
                size = _kept_size(dim, removed, roots)
                assert size is None or size == shape[axis], f"{node.name}: axis {axis} is {shape[axis]}, not {size}"


def _kept_size(dim: Dim, removed: Flags, roots: Ids) -> int | None:
    if len(dim) != 1 or isinstance(dim[0], torch.SymInt):
        return None
    return int(np.count_nonzero(~removed[roots[dim[0]]])) if isinstance(dim[0], np.ndarray) else dim[0]
