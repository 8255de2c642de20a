"""What a machine is probed with: two small nets that every engine can read, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibration.session import Session
from pipeline.probing.nets import SAMPLES, convolutions, matrix_products, own_net, synthetic_nets
from targets.errors import InputError


def test_the_nets_are_the_same_every_time(tmp_path: Path) -> None:
    """Promise: two probes measure the same thing."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, second = synthetic_nets(tmp_path / "a"), synthetic_nets(tmp_path / "b")
    assert [net.model.read_bytes() for net in first] == [net.model.read_bytes() for net in second]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.inputs["x"], other.inputs["x"])


def test_the_nets_hold_what_they_are_to_show() -> None:
    """Promise: one is dense, depthwise and 1x1 convolutions with a sum, the other products with constant weights."""
    kinds = [node.op_type for node in convolutions().graph.node]
    groups = {
        attribute.i for node in convolutions().graph.node for attribute in node.attribute if attribute.name == "group"
    }
    assert {"Conv", "Add", "GlobalAveragePool", "Gemm"} <= set(kinds)
    assert {1, 64, 128} <= groups
    products = matrix_products().graph
    constants = {tensor.name for tensor in products.initializer}
    weights = [node.input[1] for node in products.node if node.op_type == "MatMul"]
    assert len(weights) == 5
    assert set(weights) <= constants


def test_outputs_are_of_ordinary_size(tmp_path: Path) -> None:
    """Promise: no layer dies or grows out of range, so that int8 has ranges worth the name."""
    for net in synthetic_nets(tmp_path):
        session = Session(net.model.read_bytes(), threads=1, optimize=False)
        (found,) = session.run(["y"], {"x": net.inputs["x"][:1]})
        assert 1e-3 < float(np.std(found)) < 1e3


def _model(shape: list[object], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["ids"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def test_own_models_get_samples_of_their_inputs(tmp_path: Path) -> None:
    """Promise: the shapes and types that the model declares; integers stay where any table has rows."""
    path = tmp_path / "mine.onnx"
    onnx.save(_model(["n", 7], TensorProto.INT64), path)
    net = own_net(path)
    assert net.name == "mine"
    assert net.inputs["ids"].shape == (SAMPLES, 7)
    assert net.inputs["ids"].dtype == np.int64
    assert set(np.unique(net.inputs["ids"])) <= {0, 1}


def test_own_models_without_fixed_sizes_are_refused(tmp_path: Path) -> None:
    """Promise: nothing is timed at a size that nobody chose."""
    path = tmp_path / "free.onnx"
    onnx.save(_model(["n", "length"]), path)
    with pytest.raises(InputError, match="length"):
        own_net(path)


def test_a_model_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a relative path is as good as a whole one, although engines are built in another folder."""
    onnx.save(convolutions(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    assert own_net(Path("net.onnx")).model == tmp_path / "net.onnx"
