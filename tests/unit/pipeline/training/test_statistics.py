"""Batch-norm statistics, estimated anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.data import Split
from pipeline.training import reestimate_batch_norm


def test_statistics_are_those_of_the_samples(world: Any) -> None:  # noqa: ANN401
    """Promise: mean over batches of each batch's mean and unbiased variance, as torch computes them; nothing else."""
    graph = world.graph(dropout=0.5)
    graph.get_buffer("bn.running_mean").fill_(7.0)
    graph.get_buffer("bn.running_var").fill_(9.0)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    assert reestimate_batch_norm(graph, world.split, batches=3, batch_size=8, seed=5, threads=1) == 1
    order = np.random.default_rng(5).permutation(26)
    weight, bias = before["conv.weight"], before["conv.bias"]
    found = [
        functional.conv2d(torch.from_numpy(world.split.inputs["x"][order[i * 8 : i * 8 + 8]]), weight, bias, padding=1)
        for i in range(3)
    ]
    mean = torch.stack([x.mean((0, 2, 3)) for x in found]).mean(0)
    var = torch.stack([x.var((0, 2, 3), unbiased=True) for x in found]).mean(0)
    torch.testing.assert_close(graph.get_buffer("bn.running_mean"), mean)
    torch.testing.assert_close(graph.get_buffer("bn.running_var"), var)
    moved = {name for name, tensor in graph.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}
    x = torch.from_numpy(world.split.inputs["x"][:2])
    one, two = (graph(x) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)  # evaluation mode


def test_a_split_smaller_than_a_batch_is_used_whole(world: Any) -> None:  # noqa: ANN401
    """No batch is larger than the split, and all are its samples."""
    small = Split(inputs={"x": world.split.inputs["x"][:5]}, labels=world.split.labels[:5])
    graph = world.graph()
    reestimate_batch_norm(graph, small, batches=2, batch_size=64, seed=0, threads=1)
    x = functional.conv2d(
        torch.from_numpy(small.inputs["x"]), graph.get_parameter("conv.weight"), graph.get_parameter("conv.bias"),
        padding=1,
    )  # fmt: skip
    torch.testing.assert_close(graph.get_buffer("bn.running_mean"), x.mean((0, 2, 3)))


def test_without_normalisation_nothing_is_done(world: Any) -> None:  # noqa: ANN401
    """Promise: zero is told, and no weight moves."""
    graph: nn.Module = world.graph(norm=False)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    assert reestimate_batch_norm(graph, world.split, batches=3, batch_size=8, seed=5, threads=1) == 0  # type: ignore[arg-type]
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
