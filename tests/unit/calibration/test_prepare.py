"""Promises of the prepare step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.prepare import constant, prepare, serialize
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def run(data: bytes, feed: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return Session(data, threads=1, optimize=False).run(None, feed)[0]


def ops(path: Path) -> list[str]:
    return [node.op_type for node in prepare(open_onnx(path)).graph]


def norm_net(save: Callable[..., Path], **options: object) -> Path:
    rng = np.random.default_rng(5)
    constants = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "g": rng.standard_normal(8).astype(np.float32),
        "b": rng.standard_normal(8).astype(np.float32),
        "m": rng.standard_normal(8).astype(np.float32),
        "v": rng.random(8).astype(np.float32) + 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], epsilon=1e-3),
        helper.make_node("Identity", ["n"], ["n2"]),
        helper.make_node("ReduceMean", ["n2", "axes"], ["y"], keepdims=0),
    ]
    return save(nodes, constants | {"axes": np.array([-1, -2], np.int64)}, outputs={"y": ["batch", 8]}, **options)


def test_values_do_not_change(save: Callable[..., Path], images: NDArray[np.float32]) -> None:
    """Folding batch norm, removing Identity and pooling instead of a mean leave the output as it was."""
    path = norm_net(save)
    assert ops(path) == ["Conv", "GlobalAveragePool", "Flatten"]
    before = run(path.read_bytes(), {"x": images})
    after = run(serialize(prepare(open_onnx(path))), {"x": images})
    assert after == pytest.approx(before, abs=2e-5)


def test_same_model_same_bytes(residual: Path) -> None:
    """Preparing twice gives the same bytes, and no note, position or producer of the file survives."""
    model = open_onnx(residual)
    model.graph.node[0].doc_string = "somewhere/in/a/home/net.py"
    model.graph.node[0].metadata_props.add(key="stack", value="secret.py")
    model.metadata_props.add(key="where", value="secret.py")
    one, two = (serialize(prepare(model)) for _ in range(2))
    assert one == two
    assert b"secret" not in one
    assert b"net.py" not in one


@pytest.mark.parametrize("axes", [[2], [1, 2], [0, 2, 3]])
def test_other_means_stay(save: Callable[..., Path], axes: list[int]) -> None:
    """A mean over anything but exactly height and width is left alone."""
    rank = 4 - len(axes)
    path = save(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        {"axes": np.array(axes, np.int64)},
        outputs={"y": [f"d{i}" for i in range(rank)]},
    )
    assert ops(path) == ["ReduceMean"]


def test_shared_convolution_output_keeps_its_norm(save: Callable[..., Path]) -> None:
    """BatchNormalization stays when the convolution feeds something else as well."""
    ones = np.ones(8, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "g", "g", "g"], ["n"]),
        helper.make_node("Add", ["c", "n"], ["y"]),
    ]
    constants = {"w": np.ones((8, 3, 3, 3), np.float32), "g": ones}
    assert ops(save(nodes, constants, outputs={"y": ["batch", 8, 6, 6]})) == ["Conv", "BatchNormalization", "Add"]


def test_constants_become_initializers_and_nodes_get_names(save: Callable[..., Path]) -> None:
    """A Constant node's tensor is an initializer afterwards; unnamed and equally named nodes get names of their own."""
    value = numpy_helper.from_array(np.float32([2.0]), "two")
    nodes = [
        helper.make_node("Constant", [], ["two"], value=value),
        helper.make_node("Mul", ["x", "two"], ["a"], name="same"),
        helper.make_node("Mul", ["a", "two"], ["y"], name="same"),
    ]
    graph = prepare(open_onnx(save(nodes, {}, outputs={"y": ["batch", 3, 8, 8]}))).graph
    assert [node.op_type for node in graph] == ["Mul", "Mul"]
    assert len({node.name for node in graph}) == 2
    assert graph.initializers["two"].const_value.numpy().tolist() == [2.0]


def test_old_opset_is_converted(save: Callable[..., Path], images: NDArray[np.float32]) -> None:
    """A model of opset 11 is brought to 13, which per-channel weights need, with the same output."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    path = save(nodes, {"w": np.ones((4, 3, 3, 3), np.float32)}, outputs={"y": ["batch", 4, 6, 6]}, opset=11)
    model = prepare(open_onnx(path))
    assert model.graph.opset_imports[""] == 13
    assert np.array_equal(run(serialize(model), {"x": images}), run(path.read_bytes(), {"x": images}))


def test_quantised_model_is_refused(save: Callable[..., Path]) -> None:
    """A model that holds Q/DQ already is an error that names the node."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "first_q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    path = save(nodes, {"s": np.float32(0.1)}, outputs={"y": ["batch", 3, 8, 8]})
    with pytest.raises(InputError, match="'first_q' is a QuantizeLinear"):
        prepare(onnx.load(path))


def test_literal_constants_become_initializers(save: Callable[..., Path]) -> None:
    """Constants written as plain numbers become initializers of the right type, too."""
    nodes = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Constant", [], ["shape"], value_ints=[-1, 192]),
        helper.make_node("Reshape", ["a", "shape"], ["y"]),
    ]
    graph = prepare(open_onnx(save(nodes, {}, outputs={"y": ["batch", 192]}))).graph
    found = {name: np.asarray(constant(value)) for name, value in graph.initializers.items()}
    assert (found["two"].dtype, found["two"].shape, float(found["two"])) == (np.float32, (), 2.0)
    assert (found["shape"].dtype, found["shape"].tolist()) == (np.int64, [-1, 192])


def test_mean_of_integers_stays(save: Callable[..., Path]) -> None:
    """A mean of integers has no pooling form."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=6),
        helper.make_node("ReduceMean", ["i", "axes"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=1),
    ]
    path = save(nodes, {"axes": np.array([2, 3])}, outputs={"y": ["batch", 3, 1, 1]})
    assert [node.op_type for node in prepare(open_onnx(path)).graph] == ["Cast", "ReduceMean", "Cast"]


@pytest.mark.parametrize("fault", ["missing tensor", "written twice", "no weight"])
def test_broken_graphs_are_refused(residual: Path, fault: str) -> None:
    """A graph that is no valid ONNX is an input error, whatever reads it next."""
    model = onnx.load(residual)
    if fault == "missing tensor":
        model.graph.node[0].input[1] = "nowhere"
    elif fault == "written twice":
        model.graph.node.append(helper.make_node("Relu", ["y"], ["y"]))
    else:
        del model.graph.node[0].input[1:]
    with pytest.raises(InputError, match="no valid ONNX graph"):
        prepare(model)
