"""Promises of sums and means over quantised series, which OpenVINO computes right in four dimensions only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calibration.child import finish_for_cpus
from calibration.series import lift_series
from calibration.session import Session
from targets.engines import engine
from targets.ondevice.openvino_module import import_openvino
from targets.scheme import SCHEMES, scheme

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (64, 20, 32)
VALUES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def read(before: Sequence[onnx.NodeProto], last: onnx.NodeProto, *, opset: int = 18, rank: int = 3) -> onnx.ModelProto:
    """x, rounded to integers and read back as d; some nodes; and one that makes y. Constant ``axis`` and ``all``."""
    constants = {"s": np.float32(0.02), "z": np.uint8(128), "axis": np.array([-2]), "shape": np.array([0, 20, -1])}
    around = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    shape = ["batch", 20, 32][:rank] if rank < 4 else ["batch", 20, 8, 4]
    graph = helper.make_graph(
        [*around, *before, last],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def mean(op: str = "ReduceMean", source: str = "d", *more: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401
    return helper.make_node(op, [source, *more], ["y"], "mean", **attributes)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return Session(model.SerializeToString(), threads=1, optimize=False).run(None, {"x": x})[0]


TURNED = [helper.make_node("Transpose", ["d"], ["t"], perm=[0, 2, 1])]
CUT = [helper.make_node("Reshape", ["d", "shape"], ["t"])]
LIFTED = {
    "axis as input": read([], mean("ReduceMean", "d", "axis", keepdims=0)),
    "axis kept": read([], mean("ReduceSum", "d", "axis")),
    "axis as attribute": read([], mean(axes=[-1], keepdims=0), opset=13),
    "two axes": read([], mean(axes=[1, -1], keepdims=0), opset=17),
    "all axes": read([], mean(keepdims=1)),
    "all axes, attributes": read([], mean(keepdims=0), opset=13),
    "pool": read([], mean("GlobalAveragePool")),
    "behind a transposition": read(TURNED, mean("ReduceMean", "t", "axis")),
    "behind a reshape": read(CUT, mean("ReduceMean", "t", "axis", keepdims=0), rank=4),
}


@pytest.mark.parametrize("name", LIFTED)
def test_values_and_shapes_stay(name: str) -> None:
    """The same numbers of the same shape under the same name, in four dimensions; doing it again changes nothing."""
    model = onnx.ModelProto.FromString(LIFTED[name].SerializeToString())
    x = VALUES.reshape(64, 20, 8, 4) if name == "behind a reshape" else VALUES
    before = run(model, x)
    assert lift_series(model) == ["mean"]
    onnx.checker.check_model(model, full_check=True)
    after = run(model, x)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert next(node.output[0] for node in model.graph.node if node.name == "mean") == "y"
    assert lift_series(model) == []


def test_what_reads_no_integers_or_other_dimensions_stays() -> None:
    """Means of floats, as in a normalisation, of two and of four dimensions, and largest values."""
    for model in (
        read([helper.make_node("Sigmoid", ["d"], ["f"])], mean("ReduceMean", "f", "axis")),
        read([], mean(axes=[1]), opset=13, rank=2),
        read([], mean("GlobalAveragePool"), rank=4),
        read([], mean("ReduceMax", "d", "axis")),
    ):
        before = model.SerializeToString()
        assert lift_series(model) == []
        assert model.SerializeToString() == before


def test_only_the_dialect_that_needs_it_has_it(tmp_path: Path) -> None:
    """Files of OpenVINO alone get the fourth dimension."""
    path = tmp_path / "model.onnx"
    found = set()
    for name in SCHEMES:
        onnx.save(LIFTED["pool"], path)
        finish_for_cpus(path, scheme(name))
        if any(node.op_type == "Unsqueeze" for node in onnx.load(path).graph.node):
            found.add(name)
    assert found == {"openvino"}


@pytest.mark.parametrize("name", LIFTED)
@pytest.mark.parametrize("count", [8, 64])
@pytest.mark.parametrize("fixed", [True, False])
def test_openvino_gives_what_onnx_runtime_gives(name: str, count: int, *, fixed: bool, tmp_path: Path) -> None:
    """In batches large enough for its kernel of three dimensions to go wrong, compiled for that size or for any."""
    if not engine("openvino").available().ok:
        pytest.skip("OpenVINO is not installed")
    path = tmp_path / "model.onnx"
    onnx.save(LIFTED[name], path)
    finish_for_cpus(path, scheme("openvino"))
    x = (VALUES.reshape(64, 20, 8, 4) if name == "behind a reshape" else VALUES)[:count]
    core = import_openvino().Core()
    model = core.read_model(path)
    if fixed:
        model.reshape({"x": [*x.shape]})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(x)[0], run(onnx.load(path), x), rtol=1e-3, atol=1e-3)
