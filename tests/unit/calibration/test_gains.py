"""Which models a format beside static int8 is worth trying on, judged by what they are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import gains
from calibration.child_formats import convert_in_child
from calibration.gains import makeup, nothing_to_gain
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def save(
    path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], rank: int, **weights: tuple[int, ...]
) -> Path:
    random = np.random.default_rng(0)
    arrays = [
        numpy_helper.from_array(random.normal(0, 0.1, size).astype(np.float32), name) for name, size in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        arrays,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def transformer(path: Path, *, embedding: int = 8) -> Path:
    """One head of attention between two linear layers; the second weight is stored transposed."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["q"], name="first"),
        helper.make_node("Transpose", ["q"], ["k"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], name="attention"),
        helper.make_node("MatMul", ["scores", "q"], ["mixed"], name="mix"),
        helper.make_node("Transpose", ["w2"], ["w2t"], name="turn_weight", perm=[1, 0]),
        helper.make_node("MatMul", ["mixed", "w2t"], ["z"], name="second"),
        helper.make_node("ReduceMean", ["e"], ["mean"], name="mean", keepdims=0),
        helper.make_node("Add", ["z", "mean"], ["y"], name="add"),
    ]
    return save(path, nodes, ["n", 6, 160], 3, w1=(160, 160), w2=(160, 160), e=(embedding, 160))


def linear(path: Path, size: int, inner: int) -> Path:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)]
    return save(path, nodes, ["n", inner], 2, w=(size, inner))


def lstm(path: Path, hidden: int) -> Path:
    nodes = [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=hidden)]
    return save(path, nodes, [5, "n", 32], 4, w=(1, 4 * hidden, 32), r=(1, 4 * hidden, hidden))


def convolution(path: Path) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[3, 3])]
    return save(path, nodes, ["n", 64, 8, 8], 4, w=(256, 64, 3, 3))


def test_a_convolutional_net_gains_from_none_of_them(tmp_path: Path) -> None:
    """Static int8 is the obvious choice there, and the reason says so."""
    model = convolution(tmp_path / "c.onnx")
    assert "static int8 is faster" in nothing_to_gain(model, "int8-dynamic")
    assert "0 of 147,456 weights" in nothing_to_gain(model, "int8-weights")


def test_limits_are_those_of_the_conversions() -> None:
    """What is offered is what would be converted."""
    from calibration import dynamic, weightonly

    assert (gains.DYNAMIC_ELEMENTS, gains.BLOCK_ELEMENTS) == (dynamic.MIN_ELEMENTS, weightonly.MIN_ELEMENTS)


def test_recurrent_nets_gain_from_dynamic_int8(tmp_path: Path) -> None:
    """An LSTM of some size; a tiny one costs more to quantise than it takes."""
    assert nothing_to_gain(lstm(tmp_path / "l.onnx", 64), "int8-dynamic") == ""
    assert nothing_to_gain(lstm(tmp_path / "s.onnx", 8), "int8-dynamic") != ""


def test_transformers_gain_from_dynamic_int8(tmp_path: Path) -> None:
    """Attention and linear layers that hold most weights; not where the weights are elsewhere."""
    model = transformer(tmp_path / "t.onnx")
    found = makeup(onnx.load(model))
    assert (found.products, found.attention, found.lstm) == ((25_600, 25_600), 2, 0)
    assert nothing_to_gain(model, "int8-dynamic") == ""
    assert nothing_to_gain(transformer(tmp_path / "e.onnx", embedding=900), "int8-dynamic") != ""


def test_a_perceptron_is_left_to_static_int8(tmp_path: Path) -> None:
    """Large products alone make no transformer."""
    assert nothing_to_gain(linear(tmp_path / "m.onnx", 1024, 1024), "int8-dynamic") != ""


@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights"])
def test_large_linear_layers_gain_from_weight_only(precision: str, tmp_path: Path) -> None:
    """From a million weights on, where they are at least half of all."""
    assert nothing_to_gain(linear(tmp_path / "big.onnx", 1024, 1024), precision) == ""
    reason = nothing_to_gain(linear(tmp_path / "small.onnx", 256, 512), precision)
    assert "131,072 of 131,072 weights" in reason
    assert "from 1,000,000" in reason


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_are_a_matter_of_the_hardware(precision: str, tmp_path: Path) -> None:
    """The model has no say: what the profile names is tried and measured."""
    assert nothing_to_gain(tmp_path / "not-even-there.onnx", precision) == ""


def request(model: Path, out: Path, precision: str) -> dict[str, object]:
    out.mkdir()
    return {
        "model": str(model), "precision": precision, "weight_bits": 8, "samples": str(out.parent / "samples.npz"),
        "threads": 1, "out_folder": str(out),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "operator"),
    [("int8-dynamic", "MatMulInteger"), ("fp16", "Cast"), ("bf16", "Cast")],
)
def test_each_format_is_what_it_is_called(precision: str, operator: str, tmp_path: Path) -> None:
    """The file holds the operators of that format, and keeps the names of inputs and outputs."""
    model = transformer(tmp_path / "t.onnx")
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(1).normal(0, 1, (10, 6, 160)).astype(np.float32))
    answer = convert_in_child(request(model, tmp_path / "out", precision))
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert operator in {node.op_type for node in made.graph.node}
    assert [item.name for item in made.graph.output] == ["y"]
    assert int(str(answer["changed"])) > 0
    assert int(str(answer["after_bytes"])) < int(str(answer["before_bytes"]))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "io.json", "format.json"}


def test_a_model_without_the_operators_is_an_error(tmp_path: Path) -> None:
    """What cannot be converted is said, with the reason."""
    with pytest.raises(InputError, match="no node of the model"):
        convert_in_child(request(convolution(tmp_path / "c.onnx"), tmp_path / "out", "int4-weights"))
