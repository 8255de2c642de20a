"""Promises of axes that get the size of the data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from calibration.axes import fix_axes, free_axes
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import io_of
from tests.unit.calibration.conftest import build


def _two_inputs() -> onnx.ModelProto:
    """Two inputs that share an axis; one of them has another, without a name, which the output has too."""
    nodes = [helper.make_node("MatMul", ["a", "b"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    inputs = {"a": ["batch", 4, "steps"], "b": ["batch", "steps", ""]}
    return build(nodes, {}, inputs=inputs, outputs={"y": ["batch", 4, ""]})


def test_every_axis_but_the_batch_gets_its_size() -> None:
    """Named or not, all free axes of inputs are fixed; the batch stays free, and answers are the same."""
    model = onnx.shape_inference.infer_shapes(_two_inputs())
    free = model.SerializeToString()
    sizes = free_axes(io_of(model), {"a": (4, 6), "b": (6, 5)})
    assert sizes == {"steps": 6, "b_2": 5}
    fix_axes(model, sizes)
    assert [spec["shape"] for spec in io_of(model)["inputs"]] == [["batch", 4, 6], ["batch", 6, 5]]
    rng = np.random.default_rng(0)
    feed = {
        "a": rng.standard_normal((3, 4, 6), dtype=np.float32),
        "b": rng.standard_normal((3, 6, 5), dtype=np.float32),
    }
    outputs = [
        Session(file, threads=1, optimize=False).run(None, feed)[0] for file in (free, model.SerializeToString())
    ]
    np.testing.assert_array_equal(*outputs)
    onnx.checker.check_model(model, full_check=True)


def test_nothing_is_free() -> None:
    """A model whose axes have sizes has nothing to fix."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = build(nodes, {}, outputs={"y": ["batch", 3, 8, 8]})
    assert free_axes(io_of(model), {"x": (3, 8, 8)}) == {}


def test_one_name_with_two_sizes() -> None:
    """An axis that two inputs share cannot have two sizes: both are told, in three lines."""
    with pytest.raises(InputError, match=r"'steps' of the model has size 6 in one input of the data and 7") as caught:
        free_axes(io_of(_two_inputs()), {"a": (4, 6), "b": (7, 5)})
    assert len(str(caught.value).splitlines()) == 3
