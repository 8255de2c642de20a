"""The blocks of a graph that can be dropped: residual branches, gathered by the module whose forward adds them.

A branch belongs to the innermost module that holds both its addition and all it computes. Where that module takes one
tensor and gives one of the same shape, the module as a whole is the block, whatever normalisation or activation comes
after the addition: ``layer1.0`` of a ResNet, ``encoder.3`` of a transformer with its attention and its feed-forward
branch. Where it is no such module (a loop over layers in the forward of the whole encoder), each branch is a block.

A part that holds several others, and these most of its parameters, is no block but a row of them (a long skip around a
whole net); else it is the block and they are its parts (a global response normalisation inside a ConvNeXt block).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from torch import Tensor

from pipeline.depth.branches import Branch, find_branches
from pipeline.depth.regions import find_region
from pipeline.depth.skip import Skip, unread_after
from pipeline.graph.addresses import addresses, calls
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import fx

Unit: TypeAlias = Literal["block", "branch"]

_MOST_BRANCHES: Final = 4
"""Of one block: a decoder layer has three, a Conformer block four. A module with more is a row of blocks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """A part that can be dropped.

    Attributes:
        name: Call of the user's module that it is, or the one that holds all that the branch computes.
        skip: What is read in its place.
        nodes: What nobody needs without it.
        parameters: Elements of the parameters that go with it.
        reads: Elements of the parameters that it computes with, those included that others use too.
    """

    name: str
    skip: Skip
    nodes: frozenset[fx.Node]
    parameters: int
    reads: int


def find_blocks(gm: fx.GraphModule, unit: Unit = "block") -> tuple[Block, ...]:
    """The blocks that can be dropped, in graph order; no two of them share an operator.

    Args:
        gm: An exported graph.
        unit: ``block`` gathers branches by module, ``branch`` takes each by itself.
    """
    branches = find_branches(gm)
    made = [*_modules(gm, branches)] if unit == "block" else []
    gathered = [block.nodes for block in made]
    made += [
        _block(gm, _body(branch), branch.entry, branch.addition)
        for branch in branches
        if not any(branch.addition in nodes for nodes in gathered)
    ]
    kept = _apart([block for block in made if block.reads])
    order = {node: index for index, node in enumerate(gm.graph.nodes)}
    return _named(sorted(kept, key=lambda block: min(order[node] for node in block.nodes)))


def _home(branch: Branch) -> str:
    """The innermost call that holds all that has parameters in a branch."""
    return _shared([calls(node) for node in branch.inside if _has_parameters(node)])


def _body(branch: Branch) -> str:
    """The same but for normalisations, by which a branch is known: ``blocks.0.attn`` for ``x + attn(norm(x))``."""
    return _shared([calls(node) for node in branch.inside if _has_weights(node)]) or _home(branch)


def _modules(gm: fx.GraphModule, branches: Iterable[Branch]) -> Iterable[Block]:
    """One block for each module that is one."""
    by_module: dict[str, list[Branch]] = {}
    for branch in branches:
        inside = [calls(node) for node in branch.inside if _has_parameters(node)]
        if inside:
            by_module.setdefault(_shared([calls(branch.addition), *inside]), []).append(branch)
    for module, own in by_module.items():
        loop = len(own) > 1 and all(_home(branch) != module for branch in own)
        region = find_region(gm, module) if module and not loop and len(own) <= _MOST_BRANCHES else None
        if region is not None and region.entry is not None and region.leaving is not None:
            yield _block(gm, module, region.entry, region.leaving)


def _block(gm: fx.GraphModule, name: str, entry: fx.Node, leaving: fx.Node) -> Block:
    known = addresses(gm)
    gone = unread_after(gm, entry, leaving)
    read = {source for node in gone for source in node.all_input_nodes if source.op == "get_attr"}
    return Block(
        name=name,
        skip=Skip(block=name, entry=known[entry], exit=known[leaving]),
        nodes=frozenset(node for node in gone if node.op != "get_attr"),
        parameters=_elements(gm, read & gone),
        reads=_elements(gm, read),
    )


def _elements(gm: fx.GraphModule, nodes: Iterable[fx.Node]) -> int:
    parameters = dict(gm.named_parameters(remove_duplicate=False))
    read = [parameters[name] for node in nodes if (name := str(node.target)) in parameters]
    return sum({id(parameter): parameter.numel() for parameter in read}.values())


def _apart(blocks: list[Block]) -> list[Block]:
    """Of blocks within blocks either the outer one or the inner ones, see the module's first lines."""
    kept: list[Block] = []
    for block in sorted(blocks, key=lambda item: len(item.nodes)):
        inner = [other for other in kept if other.nodes <= block.nodes]
        if any(other.nodes & block.nodes for other in kept if other not in inner):
            continue  # they share in part: the smaller one is there
        if len(inner) > 1 and 2 * sum(other.reads for other in inner) > block.reads:
            continue
        kept = [other for other in kept if other not in inner] + [block]
    return kept


def _named(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The blocks under names of their own: ``mixer``, ``mixer#2``."""
    seen: Counter[str] = Counter()
    named = []
    for block in blocks:
        seen[block.name] += 1
        name = block.name or "(top)"
        name = name if seen[block.name] == 1 else f"{name}#{seen[block.name]}"
        skip = Skip(block=name, entry=block.skip.entry, exit=block.skip.exit)
        named.append(replace(block, name=name, skip=skip))
    return tuple(named)


def _shared(places: list[list[str]]) -> str:
    """The innermost call that all places are in."""
    if not places:
        return ""
    levels: list[tuple[str, ...]] = list(zip(*places, strict=False))
    return list(takewhile(lambda level: len(set(level)) == 1, levels))[-1][0]


def _has_parameters(node: fx.Node) -> bool:
    return any(source.op == "get_attr" for source in node.all_input_nodes)


def _has_weights(node: fx.Node) -> bool:
    """Whether an operator has a parameter of two axes or more; those of normalisations and scales have one."""
    return any(
        source.op == "get_attr" and isinstance(value := source.meta.get("val"), Tensor) and value.ndim > 1
        for source in node.all_input_nodes
    )


def none_found(unit: Unit) -> InputError:
    """The error for a net without a block that can be dropped."""
    return InputError(
        f"the model has no residual {unit} that can be dropped",
        "no part of it adds something to a tensor of the same shape",
        "remove [depth], or name parts that keep the shape under surgery.remove",
    )
