"""Promises of the rules: what moves on integers, what stays float and why, and TensorRT's placement."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from calibration.placement import Placement, place
from calibration.prepare import prepare
from calibration.qdq import quantize_model, snr_db
from calibration.session import Session
from calibration.table import CalibrationTable
from targets.errors import InputError
from targets.files import sha256_file
from targets.onnxfile import open_onnx
from targets.scheme import QuantScheme, scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

X86, TRT = scheme("ort-x86"), scheme("trt")


def placed(path: Path, dialect: QuantScheme = X86) -> Placement:
    return place(prepare(open_onnx(path)).graph, dialect)


def kernel(out: int, inner: int, size: int = 3, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal((out, inner, size, size)) * 0.3).astype(np.float32)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    """A node from space-separated tensor names; ``-`` is an input left out."""
    given = ["" if part == "-" else part for part in inputs.split()]
    return helper.make_node(op, given, outputs.split(), name or op.lower(), **attributes)


def fused(path: Path, folder: Path) -> Counter[str]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "fused.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(folder / "fused.onnx").graph.node)


def wide_table(path: Path) -> CalibrationTable:
    """The same range for every tensor."""
    names = {v.name for n in prepare(open_onnx(path)).graph for v in (*n.inputs, *n.outputs) if v is not None}
    ranges = {str(name): {"minmax": (-4.0, 4.0)} for name in names}
    return CalibrationTable(tensors=ranges, samples=1, model_sha256=sha256_file(path), data_sha256="", versions={})


MOVES: dict[str, tuple[dict[str, Any], list[onnx.NodeProto]]] = {
    "Split": (
        {"parts": np.array([3, 5])},
        [node("Split", "c parts", "a b", axis=1), node("Concat", "b a", "m", axis=1)],
    ),
    "Gather": ({"ids": np.array([0, 2, 2, 7])}, [node("Gather", "c ids", "m", axis=1)]),
    "Expand": ({"to": np.array([2, 1, 8, 8, 8])}, [node("Expand", "c to", "m")]),
    "Tile": ({"times": np.array([1, 2, 1, 1])}, [node("Tile", "c times", "m")]),
    "Resize": (
        {"scales": np.array([1, 1, 2, 2], np.float32)},
        [node("Resize", "c - scales", "m", mode="nearest", coordinate_transformation_mode="asymmetric")],
    ),
    "DepthToSpace": ({}, [node("DepthToSpace", "c", "m", blocksize=2)]),
    "SpaceToDepth": ({}, [node("SpaceToDepth", "c", "m", blocksize=2)]),
    "ReduceMax": ({"axes": np.array([1])}, [node("ReduceMax", "c axes", "m")]),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_run_on_the_integers(
    save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path, name: str
) -> None:
    """Between quantised tensors these operators keep the scale, and the runtime has no Q or DQ beside them."""
    constants, nodes = MOVES[name]
    nodes = [node("Conv", "x w", "c", pads=[1] * 4), *nodes]
    rank = 5 if name == "Expand" else 4
    path = save(nodes, constants | {"w": kernel(8, 3)}, outputs={"m": [None] * rank})
    out = tmp_path / "int8.onnx"
    layers = quantize_model(path, wide_table(path), X86, "minmax", out)
    assert {layer.precision for layer in layers} == {"int8"}
    operators = fused(out, tmp_path)
    assert operators["QuantizeLinear"] == 1
    assert operators["DequantizeLinear"] == 1
    placement = placed(path)
    assert len({placement.roots[tensor] for n in nodes[1:] for tensor in n.output} | {placement.roots["c"]}) == 1
    exact, found = (Session(p.read_bytes(), threads=1, optimize=True).run(None, {"x": images})[0] for p in (path, out))
    assert snr_db(exact, found) > 25.0


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"mode": "linear"}, "nearest"),
        ({"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize"}, "nearest"),
    ],
)
def test_resize_that_computes_stays_float(save: Callable[..., Path], attributes: dict[str, str], said: str) -> None:
    """Only picking the nearest value moves integers; interpolating and filling compute."""
    nodes = [node("Conv", "x w", "c"), node("Resize", "c roi scales", "y", "resize", **attributes)]
    constants = {"w": kernel(8, 3), "roi": np.zeros(8, np.float32), "scales": np.ones(4, np.float32)}
    assert said in placed(save(nodes, constants, outputs={"y": [None] * 4})).reasons["resize"]


@pytest.mark.parametrize("op", ["HardSwish", "AveragePool", "ConvTranspose", "Softmax", "Sub", "ReduceMean"])
def test_operators_without_gain_say_why(save: Callable[..., Path], op: str) -> None:
    """What the runtime has no integer operator for, or none that pays, is float with that reason."""
    more = {"AveragePool": {"kernel_shape": [2, 2]}}.get(op, {})
    inputs = {"ConvTranspose": "c v", "Sub": "c c", "ReduceMean": "c axes"}.get(op, "c")
    constants = {"w": kernel(8, 3), "v": kernel(8, 4), "axes": np.array([1])}
    path = save([node("Conv", "x w", "c"), node(op, inputs, "y", "it", **more)], constants, outputs={"y": [None] * 4})
    assert placed(path).reasons["it"].startswith(("the runtime has no integer", "an integer", "probabilities"))


def product_net(save: Callable[..., Path]) -> Path:
    nodes = [node("MatMul", "x w", "a", "one"), node("MatMul", "x v", "b", "two"), node("MatMul", "a b", "y", "both")]
    weights = {name: np.random.default_rng(i).standard_normal((6, 6)).astype(np.float32) for i, name in enumerate("wv")}
    return save(nodes, weights, inputs={"x": [2, 6, 6]}, outputs={"y": [2, 6, 6]})


def test_products_of_activations(save: Callable[..., Path], tmp_path: Path) -> None:
    """MatMul of two activations is float by measurement; a dialect that asks for it gets one integer operator."""
    path = product_net(save)
    assert "two activations" in placed(path).reasons["both"]
    dialect = replace(X86, activation_products=True)
    assert placed(path, dialect).reasons == {}
    out = tmp_path / "int8.onnx"
    quantize_model(path, wide_table(path), dialect, "minmax", out)
    assert fused(out, tmp_path)["QLinearMatMul"] == 3
    assert "two activations" in placed(path, TRT).reasons["both"]


@pytest.mark.parametrize("dialect", [X86, TRT])
def test_a_constant_on_the_left_is_no_missing_constant(save: Callable[..., Path], dialect: QuantScheme) -> None:
    """The reason says where the constant stands, not that there is none."""
    nodes = [node("MatMul", "left x", "a", "mixing"), node("MatMul", "a right", "y", "last")]
    weights = {"left": np.ones((6, 6), np.float32), "right": np.ones((8, 4), np.float32)}
    path = save(nodes, weights, inputs={"x": ["batch", 6, 8]}, outputs={"y": ["batch", 6, 4]})
    found = placed(path, dialect)
    assert "left operand" in found.reasons["mixing"]
    assert "last" in found.weights


def test_sums_that_only_float_nodes_read_stay_float(save: Callable[..., Path]) -> None:
    """A residual stream that normalisations read is not rounded; one that a convolution reads is."""
    nodes = [
        node("Conv", "x w", "c", "conv", pads=[1] * 4),
        node("Add", "c c", "idle", "idle"),
        node("Transpose", "idle", "moved", "moved", perm=[0, 1, 3, 2]),
        node("Erf", "moved", "e", "erf"),
        node("Add", "c c", "busy", "busy"),
        node("Conv", "busy v", "d", "last", pads=[1] * 4),
        node("Add", "d e", "y", "end"),
    ]
    path = save(nodes, {"w": kernel(4, 3), "v": kernel(4, 4)}, outputs={"y": [None] * 4})
    placement = placed(path)
    assert "nothing that reads it" in placement.reasons["idle"]
    assert "moved" in placement.reasons
    assert {"conv", "busy", "last"} == placement.int8


def test_means_of_normalisations_stay(save: Callable[..., Path]) -> None:
    """A mean over positions that is subtracted again is no pool."""
    nodes = [
        node("Conv", "x w", "c"),
        node("ReduceMean", "c axes", "m", "mean"),
        node("Sub", "c m", "y"),
    ]
    path = save(nodes, {"w": kernel(4, 3), "axes": np.array([2, 3])}, outputs={"y": [None] * 4})
    assert [n.op_type for n in prepare(open_onnx(path)).graph] == ["Conv", "ReduceMean", "Sub"]


def residual_net(save: Callable[..., Path], shortcut: list[onnx.NodeProto], constants: dict[str, Any]) -> Path:
    nodes = [
        node("Conv", "x w", "a", "stem", pads=[1] * 4),
        node("Relu", "a", "b"),
        *shortcut,
        node("Conv", "b v", "c", "main", pads=[1] * 4),
        node("Add", "s c", "d", "add"),
        node("Relu", "d", "e", "relu_out"),
        node("GlobalAveragePool", "e", "y", "pool"),
    ]
    return save(nodes, {"w": kernel(4, 3), "v": kernel(4, 4), **constants}, outputs={"y": [None] * 4})


def test_tensorrt_quantises_the_skip_branch_alone(save: Callable[..., Path], tmp_path: Path) -> None:
    """Conv + Add + Relu join when the main branch is float: only the other input of the Add goes through Q/DQ."""
    path = residual_net(save, [node("MaxPool", "b", "s", "short", kernel_shape=[3, 3], pads=[1] * 4)], {})
    placement = placed(path, TRT)
    assert placement.reads == {("stem", 0), ("main", 0), ("add", 0), ("pool", 0)}
    assert set(placement.roots) == {"x", "b", "s", "e"}
    assert placement.int8 == {"stem", "main", "add", "pool"}
    out = tmp_path / "trt.onnx"
    quantize_model(path, wide_table(path), TRT, "minmax", out)
    by_name = {n.name: n for n in onnx.load(out).graph.node}
    assert list(by_name["add"].input) == ["s__dequantized", "c"]
    assert by_name["relu_out"].input[0] == "d"
    assert by_name["short"].input[0] == "b"
    assert by_name["pool"].output[0] == "y"


def test_tensorrt_joins_the_later_of_two_convolutions(save: Callable[..., Path]) -> None:
    """With a convolution in the shortcut, the one computed last takes the sum into its own layer."""
    short = [node("Conv", "b u", "s", "short", pads=[1] * 4)]
    placement = placed(residual_net(save, short, {"u": kernel(4, 4, seed=2)}), TRT)
    assert ("add", 0) in placement.reads
    assert "c" not in placement.roots


@pytest.mark.parametrize("case", ["constant", "broadcast", "no convolution"])
def test_tensorrt_sums_that_do_not_join(save: Callable[..., Path], case: str) -> None:
    """A constant, a broadcast branch or a sum of two activations keeps the Add float, with a reason."""
    add = {"constant": "c k", "broadcast": "c p", "no convolution": "r x4"}[case]
    nodes = [
        node("Conv", "x w", "c", pads=[1] * 4),
        node("Relu", "c", "r"),
        node("GlobalMaxPool", "r", "p"),
        node("Sigmoid", "r", "x4"),
        node("Add", add, "y", "add"),
    ]
    if case != "no convolution":
        nodes[1] = node("Relu", "x", "r")
        nodes[2] = node("Conv", "r u", "q", "other", pads=[1] * 4)
        nodes[3] = node("GlobalMaxPool", "q", "p")
    constants = {"w": kernel(4, 3), "u": kernel(4, 3), "k": np.ones((1, 4, 1, 1), np.float32)}
    placement = placed(save(nodes, constants, outputs={"y": [None] * 4}), TRT)
    said = {"constant": "constant", "broadcast": "one shape", "no convolution": "straight from a convolution"}
    assert said[case] in placement.reasons["add"]


def test_tensorrt_concat_has_one_scale(save: Callable[..., Path]) -> None:
    """Quantised tensors that meet in a Concat, directly or through another Concat, share one scale."""
    nodes = [
        node("Conv", "x w", "a", "one", pads=[1] * 4),
        node("Conv", "a v", "b", "two", pads=[1] * 4),
        node("Concat", "a b", "j", axis=1),
        node("Conv", "j u", "d", "three", pads=[1] * 4),
        node("Concat", "j d", "k", "concat2", axis=1),
        node("Conv", "k t", "y", "four"),
    ]
    weights = {"w": kernel(4, 3), "v": kernel(4, 4), "u": kernel(4, 8), "t": kernel(4, 12)}
    roots = placed(save(nodes, weights, outputs={"y": [None] * 4}), TRT).roots
    assert set(roots) == {"x", "a", "j", "k"}
    assert roots["a"] == roots["j"] == roots["k"] != roots["x"]


def test_tensorrt_weight_axes(save: Callable[..., Path], tmp_path: Path) -> None:
    """Scales run along axis 1 of a ConvTranspose and of a Gemm without transB, along axis 0 of the others."""
    nodes = [
        node("Conv", "x w", "a", "conv", pads=[1] * 4),
        node("ConvTranspose", "a v", "b", "up", strides=[2, 2]),
        node("GlobalAveragePool", "b", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f g", "h", "plain"),
        node("Gemm", "h k", "y", "turned", transB=1),
    ]
    weights = {
        "w": kernel(4, 3),
        "v": kernel(4, 6, 2),
        "g": np.ones((6, 7), np.float32),
        "k": np.ones((10, 7), np.float32),
    }
    path = save(nodes, weights)
    assert placed(path, TRT).weights == {"conv": ("w", 0), "up": ("v", 1), "plain": ("g", 1), "turned": ("k", 0)}
    out = tmp_path / "trt.onnx"
    quantize_model(path, wide_table(path), TRT, "minmax", out)
    model = onnx.load(out)
    assert {t.name: list(t.dims) for t in model.graph.initializer if t.name.endswith("up__scale")} == {
        "v__up__scale": [6]
    }
    assert not any(t.data_type == onnx.TensorProto.INT32 for t in model.graph.initializer)


def test_nothing_to_quantise_is_an_error(save: Callable[..., Path], tmp_path: Path) -> None:
    """A model without a node that can run in int8 is refused in every dialect, with the reasons; nothing is written."""
    path = save([node("Tanh", "x", "y")], {}, outputs={"y": [None] * 4})
    for dialect in (X86, TRT):
        with pytest.raises(InputError, match=r"no node of built\.onnx can run in int8"):
            quantize_model(path, wide_table(path), dialect, "minmax", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
