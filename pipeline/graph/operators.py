"""Operators of an exported graph by name: what is called, from which module, with which arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch._ops import OpOverload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import fx
    from torch._C import Argument


def operator_name(node: fx.Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``, ``relu`` for its in-place form ``aten.relu_.default`` too."""
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.removeprefix("aten::").removesuffix("_")  # noqa: SLF001  (torch names it so)
    return str(getattr(node.target, "__name__", node.op))


def module_path(node: fx.Node) -> str:
    """Path of the user's module that called the operator; empty at the top."""
    stack = [str(entry[0]) for entry in node.meta.get("nn_module_stack", {}).values()]
    return stack[-1] if stack and not stack[-1].startswith("_") else ""


def declared_arguments(node: fx.Node) -> list[Argument]:
    """The arguments an aten operator declares, in order; none for anything else."""
    if not isinstance(node.target, OpOverload):
        return []
    return list(node.target._schema.arguments)  # noqa: SLF001  (torch names it so)


def arguments(node: fx.Node) -> dict[str, Any]:
    """Every argument of an aten operator by its declared name, defaults filled in."""
    declared = declared_arguments(node)
    given = {argument.name: value for argument, value in zip(declared, node.args, strict=False)} | dict(node.kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in declared}


def set_arguments(node: fx.Node, values: Mapping[str, Any]) -> None:
    """Set arguments of an aten operator by their declared names."""
    names = [argument.name for argument in declared_arguments(node)]
    for name, value in values.items():
        position = names.index(name)
        if position < len(node.args):
            node.update_arg(position, value)
        else:
            node.update_kwarg(name, value)
