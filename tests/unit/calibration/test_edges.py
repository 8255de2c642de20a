"""Promises of `edge_layers`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import helper

from calibration.edges import edge_layers
from calibration.modelfile import open_float
from calibration.prepare import prepare


def test_the_ends_of_a_residual_net(residual: Path) -> None:
    """The stem has no layer before it, the head none behind; a shortcut around a layer does not make it an end."""
    graph = prepare(open_float(residual)).graph
    assert edge_layers(graph, {"stem", "conv1", "conv2", "head"}) == {"stem", "head"}
    assert edge_layers(graph, {"conv1", "conv2"}) == {"conv1", "conv2"}


def test_branches_have_ends_of_their_own(save: Callable[..., Path]) -> None:
    """Two layers that read the input are both first; two that end in outputs are both last; the one between is none."""
    weight = np.eye(4, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "left"),
        helper.make_node("MatMul", ["x", "w"], ["b"], "right"),
        helper.make_node("Add", ["a", "b"], ["c"], "sum"),
        helper.make_node("MatMul", ["c", "w"], ["d"], "middle"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "one"),
        helper.make_node("MatMul", ["d", "w"], ["z"], "two"),
    ]
    shapes = {"y": ["batch", 4], "z": ["batch", 4]}
    path = save(nodes, {"w": weight}, inputs={"x": ["batch", 4]}, outputs=shapes)
    layers = {"left", "right", "middle", "one", "two"}
    assert edge_layers(prepare(open_float(path)).graph, layers) == layers - {"middle"}


def test_no_layers_no_edges(residual: Path) -> None:
    """A graph without layers has no edges."""
    assert edge_layers(prepare(open_float(residual)).graph, ()) == frozenset()
