"""Switches an exported graph between training and evaluation by rewriting the operators' own arguments.

An exported graph ignores ``Module.train()``: whether batch normalisation uses batch statistics, and whether dropout
drops, stands in the declared arguments ``training``, ``train`` and ``use_input_stats`` of each operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import fx

from pipeline.graph.operators import arguments, module_path, operator_name, set_arguments
from targets.errors import InputError

_MODE_ARGUMENTS: Final = ("training", "train", "use_input_stats")
_STATISTICS: Final = ("batch_norm", "instance_norm")
_ALWAYS: Final = "always_training"
_COUNTER: Final = "counts_batches"


def mark_always_training(gm: fx.GraphModule) -> None:
    """Remember, in a graph traced in evaluation mode, which operators train even so (dropout forced on, say)."""
    for node in gm.graph.nodes:
        name = _mode_argument(node)
        if name and arguments(node)[name] is True:
            node.meta[_ALWAYS] = True


def set_training(
    gm: fx.GraphModule,
    training: bool,  # noqa: FBT001  (reads like Module.train(mode))
    *,
    spare: Callable[[fx.Node], bool] = lambda _: False,
) -> None:
    """Put an exported graph into training or evaluation mode, in place; saying it twice changes nothing more.

    Operators that were in training mode although the model was traced in evaluation mode stay so. In training mode,
    ``num_batches_tracked`` counts as in eager mode.

    Args:
        gm: The graph.
        training: Which of the two.
        spare: Operators that stay in evaluation mode even so.

    Raises:
        InputError: A normalisation averages its statistics cumulatively (``momentum=None``), which a graph cannot.
    """
    for node in list(gm.graph.nodes):
        if training and not spare(node):
            _refuse_cumulative_average(node)
        if node.meta.get(_COUNTER):  # the count stands before what it counts; newly made below where it is wanted
            _forget(gm, node)
    for node in list(gm.graph.nodes):
        name = _mode_argument(node)
        if name is None or node.meta.get(_ALWAYS):
            continue
        learns = training and not spare(node)
        set_arguments(node, {name: learns})
        if learns and operator_name(node) == "batch_norm":
            _count_batches(gm, node)
    gm.graph.lint()
    gm.recompile()
    gm.training = training


def _mode_argument(node: fx.Node) -> str | None:
    declared = arguments(node) if node.op == "call_function" else {}
    return next((name for name in _MODE_ARGUMENTS if name in declared), None)


def _refuse_cumulative_average(node: fx.Node) -> None:
    if operator_name(node) not in _STATISTICS or node.meta.get(_ALWAYS):
        return
    if arguments(node)["momentum"] == 0.0:
        raise InputError(
            f"the normalisation {module_path(node) or node.name!r} cannot be trained",
            "it has momentum=None (a cumulative average) or 0, and its running statistics would never change",
            "give it a momentum, for example 0.1",
        )


def _count_batches(gm: fx.GraphModule, node: fx.Node) -> None:
    """Let ``num_batches_tracked`` beside the running mean count, as the eager module does."""
    mean = arguments(node)["running_mean"]
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        return
    counter = f"{str(mean.target).rpartition('.')[0]}.num_batches_tracked".removeprefix(".")
    if counter not in dict(gm.named_buffers(remove_duplicate=False)):
        return
    with gm.graph.inserting_before(node):
        value = gm.graph.get_attr(counter)
        add = gm.graph.call_function(torch.ops.aten.add_.Tensor, (value, 1))
    add.meta[_COUNTER] = True


def _forget(gm: fx.GraphModule, counter: fx.Node) -> None:
    (value,) = counter.all_input_nodes
    gm.graph.erase_node(counter)
    if not value.users:
        gm.graph.erase_node(value)
