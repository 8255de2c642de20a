"""The latency model finds back what layers cost, and says where it is off."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.graph import trace
from pipeline.latency.design import design
from pipeline.latency.layers import Anatomy, anatomy
from pipeline.latency.model import (
    NetTimes,
    errors,
    fit,
    held_out_errors,
    model_from_json,
    model_to_json,
    nonnegative_fit,
)
from pipeline.pruning import apply_decisions, find_groups


class Small(nn.Module):
    """Three convolutions in a row and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 32, 1)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.fc(x.mean((2, 3)))


def small() -> tuple[Anatomy, dict[str, tuple[int, ...]]]:
    gm = trace(Small().eval(), {"x": torch.zeros(2, 3, 8, 8)})
    choices = {"a": (4, 8, 12, 16), "b": (8, 16, 24), "c": (8, 16, 24, 32)}
    return anatomy(gm, find_groups(gm), choices), choices


def test_sizes_are_those_of_the_cut_graph() -> None:
    """Promise: the anatomy's weights at any widths are those of the net that surgery makes."""
    gm = trace(Small().eval(), {"x": torch.zeros(2, 3, 8, 8)})
    graph = find_groups(gm)
    found, _ = small()
    widths = {"a": 8, "b": 16, "c": 24}
    cut = apply_decisions(gm, graph.decide({g.name: np.arange(widths[g.name], g.size) for g in graph.groups}))
    for layer in found.layers:
        (shape,) = layer.shape(widths)
        assert shape == tuple(cut.get_parameter(f"{layer.module}.weight").shape)
    assert found.whole == {"a": 16, "b": 24, "c": 32}


def test_activations_are_counted_per_unit() -> None:
    """Promise: a unit's activation elements are those of every operator that it passes through."""
    found, _ = small()
    assert found.activations["a"] == 2 * 6 * 6  # convolution and relu
    assert found.activations["c"] == 2 * 4 * 4 + 1  # and the mean


def test_the_design_shows_every_width() -> None:
    """Promise: the whole and the narrowest net come first, and every group has each width about equally often."""
    choices = {"a": (8, 16), "b": (8, 16, 24, 32)}
    nets = design(choices, 14, seed=1)
    assert nets[0] == {"a": 16, "b": 32}
    assert nets[1] == {"a": 8, "b": 8}
    for name, widths in choices.items():
        counts = [sum(net[name] == width for net in nets[2:]) for width in widths]
        assert max(counts) - min(counts) <= 1
    assert nets == design(choices, 14, seed=1)
    assert len({net["a"] * 100 + net["b"] for net in nets[2:]}) >= 6


def test_steps_of_kernels_are_found() -> None:
    """Promise: layers that cost whole blocks of 16 channels are predicted at widths that were not measured."""
    found, choices = small()
    nets = design(choices, 24, seed=0)

    def truth(widths: dict[str, int]) -> NetTimes:
        layers = {layer.module: 1e-3 + 1e-5 * layer.features(widths, (16, 1))[1] for layer in found.layers}
        total = sum(layers.values()) + 0.05 + 1e-6 * found.elements(widths)
        return NetTimes(widths=widths, layers_ms=layers, total_ms=total)

    times = [truth(widths) for widths in nets]
    model = fit(found, times, {layer.module: layer.module for layer in found.layers})
    assert max(abs(error) for error in errors(model, times)) < 1e-6
    assert max(abs(error) for error in held_out_errors(found, times, {})) < 0.02
    unseen = truth({"a": 4, "b": 24, "c": 8})
    assert model.predict_ms(unseen.widths) == pytest.approx(unseen.total_ms, rel=0.02)
    again = model_from_json(json.loads(json.dumps(model_to_json(model))))
    assert again.predict_ms(unseen.widths) == model.predict_ms(unseen.widths)


def test_nonnegative_fit_is_the_best_there_is() -> None:
    """Promise: no coefficient is negative, and no other choice of them on a fine grid is better."""
    rng = np.random.default_rng(0)
    features, values = rng.random((20, 2)), rng.normal(size=20)
    weights = np.ones(20)
    found, error = nonnegative_fit(features, values, weights)
    assert (found >= 0).all()
    grid = [np.array([x, y]) for x in np.linspace(0, 2, 81) for y in np.linspace(0, 2, 81)]
    assert error <= min(float(np.sqrt(np.square(features @ point - values).mean())) for point in grid) + 1e-9
