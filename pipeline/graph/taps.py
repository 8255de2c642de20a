"""Taps: a graph that also gives what modules inside it compute, addressed by the user's module paths."""

from __future__ import annotations

import copy
import difflib
import operator
import re
import warnings
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from pipeline.graph.operators import declared_arguments
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INDEXED: Final = re.compile(r"^(?P<path>.*)\[(?P<call>\d+)\]$")
_LISTED: Final = 12


def with_taps(graph: fx.GraphModule, paths: Sequence[str]) -> fx.GraphModule:
    """The same graph with more outputs: the original ones in a flat row, then one tensor a path.

    It shares parameters and buffers with ``graph``, which stays as it is; each of the two is switched between training
    and evaluation on its own.

    A tap is the last tensor that a module hands on. Where a module is called several times, ``path[0]``, ``path[1]``,
    ... name the calls in order. Operators in place further on do not change what was tapped.

    Args:
        graph: An exported graph.
        paths: Module paths as in ``named_modules()``, such as ``layer2.0.conv1``.

    Raises:
        InputError: A path names no module that computes something (near ones are named), or one that is called several
            times without saying which call.
    """
    with warnings.catch_warnings():
        # torch copies its own tree descriptions through a class it has deprecated
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
        tapped = copy.deepcopy(graph.graph)
    calls = _calls(tapped)
    found = [_lasting(tapped, _handed_on(calls[_call(path, calls)])) for path in paths]
    output = tapped.output_node()
    outputs, _ = pytree.tree_flatten(output.args[0], is_leaf=lambda leaf: isinstance(leaf, fx.Node))
    output.args = ((*outputs, *found),)
    info = tapped._codegen.pytree_info  # type: ignore[attr-defined]  # noqa: SLF001 - torch.export makes no other
    flat = pytree.tree_structure((0,) * (len(outputs) + len(found)))
    tapped._codegen.pytree_info = info._replace(out_spec=flat)  # type: ignore[attr-defined]  # noqa: SLF001
    tapped.lint()
    return fx.GraphModule(graph, tapped)


def tap_paths(graph: fx.GraphModule) -> tuple[str, ...]:
    """All that `with_taps` takes for this graph, in the order in which they are first reached."""
    calls = _calls(graph.graph)
    several = {path for path, call in calls if call}
    return tuple(f"{path}[{call}]" if path in several else path for path, call in calls)


def _calls(graph: fx.Graph) -> dict[tuple[str, int], list[fx.Node]]:
    """For each call of a module, by path and number, its operators in order."""
    numbers: dict[str, dict[str, int]] = {}
    calls: dict[tuple[str, int], list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.meta.get("val", Tensor()), Tensor):
            continue
        for key, entry in node.meta.get("nn_module_stack", {}).items():
            path = str(entry[0])
            if path and not path.startswith("_"):
                seen = numbers.setdefault(path, {})
                calls.setdefault((path, seen.setdefault(key, len(seen))), []).append(node)
    return calls


def _call(path: str, calls: dict[tuple[str, int], list[fx.Node]]) -> tuple[str, int]:
    indexed = _INDEXED.match(path)
    name, number = (indexed["path"], int(indexed["call"])) if indexed else (path, 0)
    count = sum(known == name for known, _ in calls)
    if not count:
        raise _unknown(path, list(dict.fromkeys(known for known, _ in calls)))
    if (indexed is None and count > 1) or number >= count:
        last = "" if count == 1 else f" to {name}[{count - 1}]"
        raise InputError(
            f"module path {path!r} names no single output",
            f"the model calls {name!r} {count} time{'s' if count > 1 else ''} in one forward",
            f"write {name}[0]{last}, counted from 0 in the order of the calls",
        )
    return name, number


def _unknown(path: str, known: Sequence[str]) -> InputError:
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
    listed = [name for name in known if "." not in name][:_LISTED] or list(known)[:_LISTED]
    return InputError(
        f"there is no module {path!r} to tap",
        "no module of that path computes anything in this model",
        f"did you mean {' or '.join(repr(name) for name in near)}?" if near else f"known: {', '.join(listed)}, ...",
    )


def _handed_on(nodes: Sequence[fx.Node]) -> fx.Node:
    """The last of a call's tensors that someone outside uses; the last at all where nobody does."""
    inside = set(nodes)
    return next((node for node in reversed(nodes) if set(node.users) - inside), nodes[-1])


def _lasting(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The tensor itself, or a copy taken at once where an operator further on writes into its memory."""
    same = _same_memory(node)
    order = {other: index for index, other in enumerate(graph.nodes)}
    if not any(order[other] > order[node] and same & set(_written(other)) for other in graph.nodes):
        return node
    with graph.inserting_after(node):
        clone = graph.call_function(torch.ops.aten.clone.default, (node,))
    clone.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return clone


def _same_memory(node: fx.Node) -> set[fx.Node]:
    """The nodes whose values may lie in the same memory: what this one is a view of, and views of those."""
    same, todo = {node}, [node]
    while todo:
        current = todo.pop()
        near = [*_viewed(current), *(user for user in current.users if current in _viewed(user))]
        todo += [other for other in near if other not in same]
        same.update(near)
    return same


def _viewed(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node's result may share memory with: those of a view, and of an operator in place."""
    if node.target is operator.getitem:
        return node.all_input_nodes[:1]
    if not isinstance(node.target, OpOverload):
        return []
    shared = any(result.alias_info is not None for result in node.target._schema.returns)  # noqa: SLF001
    return list(_aliased(node, write_only=False)) if shared else []


def _written(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments that an operator writes into."""
    return _aliased(node, write_only=True)


def _aliased(node: fx.Node, *, write_only: bool) -> Iterator[fx.Node]:
    for position, argument in enumerate(declared_arguments(node)):
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        alias = argument.alias_info
        if isinstance(value, fx.Node) and alias is not None and (alias.is_write or not write_only):
            yield value
