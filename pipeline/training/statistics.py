"""Batch-norm statistics estimated anew, for weights that are no longer those they were gathered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import fx

from pipeline.graph import set_training
from pipeline.graph.operators import arguments, operator_name, set_arguments
from pipeline.training.batches import tensors
from pipeline.training.predicting import torch_threads

if TYPE_CHECKING:
    from pipeline.data import Split

_NORMALISATION: Final = "batch_norm"


def reestimate_batch_norm(
    graph: fx.GraphModule, split: Split, *, batches: int, batch_size: int, seed: int, threads: int
) -> int:
    """Replaces every running mean and variance by their average over random batches; no weight changes.

    What pruning removes shifts the statistics of all later layers; estimating them again recovers much of the accuracy
    before any training (Li et al., EagleEye, arXiv 2007.02491, section 3.3).

    Args:
        graph: An exported graph; left in evaluation mode.
        split: Samples; labels are not used.
        batches: How many.
        batch_size: Samples each; batches overlap only where the split is smaller than all of them.
        seed: Of their choice.
        threads: torch threads.

    Returns:
        How many normalisations were estimated; 0 where there are none.
    """
    found = [node for node in graph.graph.nodes if _running(node)]
    if not found:
        return 0
    momenta = {node: arguments(node)["momentum"] for node in found}
    names = {name for node in found for name in _running(node)}
    sums = {name: torch.zeros_like(graph.get_buffer(name), dtype=torch.float64) for name in names}
    order = np.random.default_rng(seed).permutation(len(split))
    size = min(batch_size, len(split))
    chosen = [np.take(order, range(i * size, (i + 1) * size), mode="wrap") for i in range(batches)]
    set_training(graph, training=True, spare=lambda node: operator_name(node) != _NORMALISATION)
    try:
        for node in found:
            set_arguments(node, {"momentum": 1.0})
        graph.recompile()
        with torch_threads(threads), torch.no_grad():
            for rows in chosen:
                graph(*tensors(split.take(rows).inputs, torch.device("cpu")).values())
                for name in names:
                    sums[name] += graph.get_buffer(name)
    finally:
        for node, momentum in momenta.items():
            set_arguments(node, {"momentum": momentum})
        set_training(graph, training=False)
    for name, total in sums.items():
        graph.get_buffer(name).copy_(total / batches)
    return len(found)


def _running(node: fx.Node) -> tuple[str, ...]:
    """Names of the running mean and variance of a batch-norm that gathers them; empty for any other operator."""
    if node.op != "call_function" or operator_name(node) != _NORMALISATION:
        return ()
    values = [arguments(node)[name] for name in ("running_mean", "running_var")]
    return tuple(str(value.target) for value in values if isinstance(value, fx.Node) and value.op == "get_attr")
