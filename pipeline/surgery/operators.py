"""Puts other operators in the place of those at named modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from pipeline.graph import copy_graph
from pipeline.graph.addresses import Address, addresses, calls, locate
from pipeline.graph.metadata import renew_metadata
from pipeline.graph.operators import arguments, declared_arguments, operator_name
from pipeline.graph.patterns import covers
from pipeline.surgery.kinds import ACTIVATIONS, family, gate_of, kind_of
from targets.errors import Fault, nearest

if TYPE_CHECKING:
    from pipeline.recipe.surgery import Replacement

_IMAGE_RANK = 2  # without an axis between batch and channels there is nothing to move


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """One operator that another takes the place of.

    Attributes:
        at: Where it stands.
        operator: What it is.
        by: What comes there.
    """

    at: Address
    operator: str
    by: str


def find_swaps(gm: fx.GraphModule, wanted: Sequence[Replacement]) -> tuple[list[Swap], list[Fault]]:
    """The operators that replacements stand for, and what is wrong with them; the first that names one has it."""
    known = addresses(gm)
    found: dict[fx.Node, Swap] = {}
    faults: list[Fault] = []
    for index, one in enumerate(wanted):
        where = f"surgery.replace.{index}"
        if fault := _unfit(one):
            faults.append(Fault(where=where, what=fault[0], fix=fault[1]))
            continue
        there = [node for node in known if kind_of(node) == one.operator]
        for pattern in one.modules:
            named = [node for node in there if covers(pattern, _place(node))]
            if not named:
                faults.append(_nowhere(where, pattern, one.operator, known))
            for node in named:
                why = why_not(node, one.by)
                if why:
                    what = f"the {one.operator} in {_place(node)!r} cannot become {one.by}: {why}"
                    faults.append(Fault(where=where, what=what, fix="name the modules where it can"))
                found.setdefault(node, Swap(at=known[node], operator=one.operator, by=one.by))
    return [found[node] for node in known if node in found], faults


def swapped(gm: fx.GraphModule, swaps: Sequence[Swap]) -> fx.GraphModule:
    """A copy of ``gm`` with the operators replaced.

    Raises:
        InputError: An operator is not there.
        ValueError: What is there is another one, or cannot be replaced so.
    """
    new = copy_graph(gm)
    known = addresses(new)
    for node, swap in [(locate(known, swap.at), swap) for swap in swaps]:
        if kind_of(node) != swap.operator or why_not(node, swap.by):
            found = kind_of(node) or operator_name(node)
            raise ValueError(f"{swap.at} is {found}, and no {swap.operator} that can become {swap.by}")
        _PUT[family(swap.by)](new, node, swap.by)
    new.graph.lint()
    new.recompile()
    renew_metadata(new)
    return new


def why_not(node: fx.Node, by: str) -> str:
    """Why an operator cannot become another of its family; empty when it can."""
    given = arguments(node)
    if family(by) == "pooling" and by == "avg_pool" and any(size != 1 for size in _listed(given["dilation"])):
        return "it is dilated"
    if family(by) == "pooling" and by == "max_pool" and given.get("divisor_override") is not None:
        return "it divides by a number of its own"
    if by != "batch_norm":
        return ""
    if not isinstance(given.get("weight"), fx.Node) or given["weight"].op != "get_attr":
        return "it has no weight of its own"
    if operator_name(node) == "layer_norm" and len(given["normalized_shape"]) != 1:
        return "it normalises over more than the last axis"
    return ""


def _unfit(one: Replacement) -> tuple[str, str] | None:
    if one.operator == one.by:
        return f"{one.operator} is replaced by itself", "write another operator after `by`"
    if family(one.operator) != family(one.by):
        return (
            f"{one.operator} cannot become {one.by}: one is {_article(one.operator)}, the other {_article(one.by)}",
            "replace it by one of its own kind",
        )
    if family(one.by) == "normalisation" and one.by != "batch_norm":
        return (
            f"{one.operator} cannot become {one.by}",
            'write by = "batch_norm": only that has statistics which can be measured and folded away',
        )
    return None


def _article(kind: str) -> str:
    return {"activation": "an activation", "pooling": "pooling", "normalisation": "a normalisation"}[family(kind)]


def _nowhere(where: str, pattern: str, operator: str, known: Mapping[fx.Node, Address]) -> Fault:
    places = sorted({_place(node) for node in known if kind_of(node) == operator} - {""})
    if not places:
        kinds = sorted({kind_of(node) for node in known} - {""})
        what = f"the model has no {operator}"
        return Fault(where=where, what=what, fix=f"it has: {', '.join(kinds) or 'none of the operators known here'}")
    return Fault(where=where, what=f"there is no {operator} in {pattern!r}", fix=nearest(pattern, places))


def _place(node: fx.Node) -> str:
    return calls(node)[-1].partition("@")[0]


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _activation(gm: fx.GraphModule, node: fx.Node, by: str) -> None:
    new = ACTIVATIONS[by]
    if operator_name(node) == "mul":
        _, x = gate_of(node)
        gate = next(source for source in node.all_input_nodes if source is not x)
        node.target, node.args, node.kwargs = new.plain, (x, *new.arguments), {}
        if not gate.users:
            gm.graph.erase_node(gate)
        return
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in declared_arguments(node)[:1])
    node.target = new.inplace if writes else new.plain
    node.args, node.kwargs = (node.args[0], *new.arguments), {}


def _pool(_gm: fx.GraphModule, node: fx.Node, by: str) -> None:
    """A window without its padding is averaged, as its maximum is taken."""
    given = arguments(node)
    axes = operator_name(node)[-2]
    window = (given["self"], given["kernel_size"], given["stride"], given["padding"])
    rest: tuple[Any, ...] = (1, given["ceil_mode"]) if by == "max_pool" else (given["ceil_mode"], False)
    node.target = getattr(torch.ops.aten, f"{by}{axes}d").default
    node.args, node.kwargs = (*window, *rest), {}


def _norm(gm: fx.GraphModule, node: fx.Node, _by: str) -> None:
    """Batch normalisation over the same channels, with the same scale and shift; statistics are measured afterwards."""
    given = arguments(node)
    weight = gm.get_parameter(str(given["weight"].target))
    x = given["input"]
    moved = operator_name(node) == "layer_norm" and x.meta["val"].ndim > _IMAGE_RANK
    module = str(given["weight"].target).rpartition(".")[0]
    owner = gm.get_submodule(module)
    for name, value in (("running_mean", torch.zeros_like(weight)), ("running_var", torch.ones_like(weight))):
        if name not in dict(owner.named_buffers(recurse=False)):
            owner.register_buffer(name, value.detach().clone())
    with gm.graph.inserting_before(node):
        before = _moved(gm, x, node) if moved else x
        names = [f"{module}.{name}".removeprefix(".") for name in ("running_mean", "running_var")]
        mean, var = (gm.graph.get_attr(name) for name in names)
        args = (before, given["weight"], given["bias"], mean, var, False, 0.1, given["eps"], False)
        norm = gm.graph.call_function(torch.ops.aten.batch_norm.default, args)
        norm.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
        after = _moved(gm, norm, node) if moved else norm
    node.replace_all_uses_with(after)
    gm.graph.erase_node(node)


def _moved(gm: fx.GraphModule, x: fx.Node, like: fx.Node) -> fx.Node:
    """The last axis where the channels of a batch norm are, and back."""
    node = gm.graph.call_function(torch.ops.aten.transpose.int, (x, 1, -1))
    node.meta["nn_module_stack"] = like.meta.get("nn_module_stack", {})
    return node


_PUT = {"activation": _activation, "pooling": _pool, "normalisation": _norm}
