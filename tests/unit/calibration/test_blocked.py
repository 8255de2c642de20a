"""Promises of values read in the runtime's own layout."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from calibration import blocked
from calibration.blocked import Unordered
from calibration.collect import collect
from calibration.exposure import exposed
from calibration.modelfile import serialize
from calibration.samples import CalibrationSet
from calibration.session import Session
from tests.unit.calibration.conftest import build

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from calibration.session import Array

INNER = ["a", "b", "c", "d", "s", "y"]


def _net(first: int, second: int, activation: str) -> onnx.ModelProto:
    """Two convolutions with a bias, an activation and a sum: what the runtime computes in blocks of channels."""
    rng = np.random.default_rng(first + second)
    nodes = [
        helper.make_node("Conv", ["x", "v", "vb"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w", "wb"], ["c"]),
        helper.make_node("Conv", ["b", "w2"], ["d"]),
        helper.make_node("Add", ["c", "d"], ["s"]),
        helper.make_node("MaxPool", ["s"], ["y"], kernel_shape=[2, 2]),
    ]
    constants = {
        "v": rng.standard_normal((first, 3, 3, 3)),
        "vb": rng.standard_normal(first),
        "w": rng.standard_normal((second, first, 1, 1)),
        "wb": rng.standard_normal(second),
        "w2": rng.standard_normal((second, first, 1, 1)),
    }
    floats = {name: value.astype(np.float32) for name, value in constants.items()}
    return build(nodes, floats, outputs={"y": ["batch", second, 7, 7]})


def _both(model: onnx.ModelProto, feed: dict[str, Array]) -> tuple[list[Array], list[Array], Unordered]:
    graph = ir.from_proto(model)
    watching = Unordered(graph, INNER, threads=1)
    with exposed(graph.graph, INNER):
        ordered = Session(serialize(graph), threads=1, optimize=True)
    return watching.run(feed), ordered.run(INNER, feed), watching


@settings(deadline=None, max_examples=20)
@given(
    first=st.sampled_from([4, 8, 16, 24, 48]),
    second=st.sampled_from([8, 16, 20, 32]),
    activation=st.sampled_from(["Relu", "Sigmoid", "Tanh"]),
    batch=st.integers(1, 3),
)
def test_each_sample_has_its_values_and_no_others(first: int, second: int, activation: str, batch: int) -> None:
    """Whatever the channels, padded to whole blocks or not: a sample's values are those of the ordered outputs."""
    images = np.random.default_rng(0).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    unordered, ordered, _ = _both(_net(first, second, activation), {"x": images})
    for loose, expected in zip(unordered, ordered, strict=True):
        assert loose.shape[0] == expected.shape[0] == batch
        np.testing.assert_array_equal(
            np.sort(loose.reshape(batch, -1), axis=1), np.sort(expected.reshape(batch, -1), axis=1)
        )


def test_whole_blocks_are_not_turned_back() -> None:
    """Where the runtime has blocks, the order differs: nothing was turned back (otherwise this room is of no use)."""
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    unordered, ordered, watching = _both(_net(16, 32, "Relu"), {"x": images})
    if watching.names == INNER:
        pytest.skip("the runtime computes this net in the model's own layout on this CPU")
    assert any(not np.array_equal(loose, expected) for loose, expected in zip(unordered, ordered, strict=True))


def test_without_room_for_the_optimised_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the graph cannot be written, values come in order: a layout is no reason to fail."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    images = np.zeros((2, 3, 8, 8), np.float32)
    _, _, watching = _both(_net(16, 32, "Relu"), {"x": images})
    assert watching.names == INNER


def test_blocks_larger_than_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block is larger than this project knows of, padding is noticed and no value of it is read."""
    monkeypatch.setattr(blocked, "_BLOCK", 1)
    images = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    unordered, ordered, _ = _both(_net(20, 20, "Sigmoid"), {"x": images})
    for loose, expected in zip(unordered, ordered, strict=True):
        np.testing.assert_array_equal(loose, expected)


def test_the_table_knows_no_layout(
    residual: Path, images: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every value counted, the table is the same to the last digit whether values come in blocks or in order."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    in_blocks = collect(residual, samples, threads=1, every="all")
    monkeypatch.setattr(blocked, "_convolves", lambda model: False)
    assert collect(residual, samples, threads=1, every="all") == in_blocks
