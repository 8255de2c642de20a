"""Skips parts of a graph: what stands behind a part reads what stood before it, and what nobody reads any more goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from pipeline.graph.addresses import Address, addresses, locate
from pipeline.graph.copying import share_graph
from pipeline.graph.operators import declared_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A part of a graph that one tensor enters and one of the same shape leaves.

    Attributes:
        block: What people call it.
        entry: What gives the tensor that enters.
        exit: What gives the tensor that leaves.
    """

    block: str
    entry: Address
    exit: Address


def skipped(gm: fx.GraphModule, skips: Sequence[Skip]) -> fx.GraphModule:
    """A graph without those parts; its parameters are those of ``gm``, which stays as it is.

    Parameters and buffers that only the parts used are not in it.

    Raises:
        InputError: A part is not there.
        ValueError: What enters a part and what leaves it are not of one shape.
    """
    new = share_graph(gm)
    known = addresses(new)
    pairs = [(locate(known, skip.entry), locate(known, skip.exit), skip.block) for skip in skips]
    became: dict[fx.Node, fx.Node] = {}
    for entry, leaving, block in pairs:
        if shape_of(entry) != shape_of(leaving):
            raise ValueError(f"{block}: {shape_of(entry)} enters, {shape_of(leaving)} leaves")
        while entry in became:
            entry = became[entry]  # noqa: PLW2901 - the part before it was skipped too
        became[leaving] = _join(new, entry, leaving)
    _erase_unread(new, set(became))
    new.graph.lint()
    new.recompile()
    _forget_tensors(gm, new)
    return new


def shape_of(node: fx.Node) -> str:
    """Shape and dtype of what a node gives, symbolic sizes by name; empty where it is no tensor."""
    value = node.meta.get("val")
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else ""


def unread_after(gm: fx.GraphModule, entry: fx.Node, leaving: fx.Node) -> set[fx.Node]:
    """The nodes of ``gm`` that nobody needs any more once readers of ``leaving`` read ``entry``; changes nothing."""
    return _alive(gm, {}, set()) - _alive(gm, {leaving: entry}, {leaving})


def _join(gm: fx.GraphModule, entry: fx.Node, leaving: fx.Node) -> fx.Node:
    """Let the readers of ``leaving`` read ``entry``: a copy where its layout differs or a reader writes into it."""
    replacement = entry
    writes = any(_writes_into(user, leaving) for user in leaving.users)
    if writes or entry.meta["val"].stride() != leaving.meta["val"].stride():
        with gm.graph.inserting_after(leaving):
            replacement = gm.graph.call_function(
                torch.ops.aten.clone.default, (entry,), {"memory_format": torch.contiguous_format}
            )
        replacement.meta = dict(leaving.meta)
    leaving.replace_all_uses_with(replacement)
    return replacement


def _writes_into(user: fx.Node, value: fx.Node) -> bool:
    return any(
        argument.alias_info is not None and argument.alias_info.is_write and given is value
        for argument, given in zip(declared_arguments(user), user.args, strict=False)
    )


def _erase_unread(gm: fx.GraphModule, left: set[fx.Node]) -> None:
    """Erase what is not needed, in-place operators too."""
    alive = _alive(gm, {}, left)
    for node in reversed(list(gm.graph.nodes)):
        if node not in alive:
            gm.graph.erase_node(node)


def _alive(gm: fx.GraphModule, instead: dict[fx.Node, fx.Node], left: set[fx.Node]) -> set[fx.Node]:
    """What the outputs need, and the operators that nobody reads (checks, say) whose operands are all among that.

    Args:
        gm: The graph.
        instead: What is read in place of a node.
        left: The last nodes of skipped parts: nobody reads them, and they were there for nothing else.
    """
    alive: set[fx.Node] = set()
    _reach([node for node in gm.graph.nodes if node.op == "output"], instead, alive)
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            alive.add(node)
        elif node.op == "call_function" and not node.users and node not in alive and node not in left:
            operands = [source for source in node.all_input_nodes if source.op != "get_attr"]
            if all(source in alive for source in operands):
                _reach([node], instead, alive)
    return alive


def _reach(pending: list[fx.Node], instead: dict[fx.Node, fx.Node], alive: set[fx.Node]) -> None:
    while pending:
        node = pending.pop()
        node = instead.get(node, node)
        if node not in alive:
            alive.add(node)
            pending += node.all_input_nodes


def _forget_tensors(before: fx.GraphModule, after: fx.GraphModule) -> None:
    """Take out of ``after`` each tensor it reads no more; with the last of a module, what else that module held."""
    left = {id(_tensor(after, node)) for node in after.graph.nodes if node.op == "get_attr"}
    gone = {
        str(node.target)
        for node in before.graph.nodes
        if node.op == "get_attr" and id(_tensor(before, node)) not in left
    }
    dead = {id(_attribute(before, name)) for name in gone}
    owners = {name.rpartition(".")[0] for name in gone} - {
        str(node.target).rpartition(".")[0] for node in after.graph.nodes if node.op == "get_attr"
    }
    for path, module in list(after.named_modules()):
        for table in (module._parameters, module._buffers, vars(module)):  # noqa: SLF001 - torch keeps them there
            for leaf, value in list(table.items()):
                if isinstance(value, Tensor) and (id(value) in dead or (path in owners and id(value) not in left)):
                    del table[leaf]
    _forget_modules(after)


def _forget_modules(gm: fx.GraphModule) -> None:
    """Submodules that hold nothing any more."""
    for path, module in sorted(gm.named_modules(), key=lambda item: -item[0].count(".")):
        if path and not module.state_dict() and not any(isinstance(value, Tensor) for value in vars(module).values()):
            parent, _, leaf = path.rpartition(".")
            if not any(True for _ in module.children()):
                delattr(gm.get_submodule(parent), leaf)


def _tensor(gm: fx.GraphModule, node: fx.Node) -> object:
    return _attribute(gm, str(node.target))


def _attribute(gm: fx.GraphModule, path: str) -> object:
    value: object = gm
    for part in path.split("."):
        value = getattr(value, part)
    return value
