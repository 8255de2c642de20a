"""Every operator of the torch executor against ONNX Runtime, and its gradients against finite differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.session import Session
from calibration.torchexec import OPS, TorchGraph, unsupported
from targets.errors import InputError

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

RNG = np.random.default_rng(7)


def real(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


IMAGE = real(2, 4, 7, 6)
ROWS = real(3, 5)
SEQUENCE = real(5, 2, 3)
MASK = RNG.random((3, 5)) < 0.5


def recurrent(gates: int, directions: int, extra: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    return (
        SEQUENCE,
        real(directions, gates * 4, 3),
        real(directions, gates * 4, 4),
        real(directions, gates * 8),
        *extra,
    )


HIDDEN = (np.array([5, 3], np.int32), real(1, 2, 4))
BOTH = (None, real(2, 2, 4), real(2, 2, 4))

Case = tuple[str, tuple[Any, ...], dict[str, Any], int, int]


def case(op: str, *inputs: object, outputs: int = 1, opset: int = 20, **attributes: object) -> ParameterSet:
    marks = "-".join([op, *(f"{k}={v}" for k, v in attributes.items()), *([f"opset{opset}"] if opset != 20 else [])])
    return pytest.param(op, inputs, attributes, outputs, opset, id=f"{marks}-{len(inputs)}")


SMOOTH = [
    case("Add", ROWS, real(5)),
    case("Sub", ROWS, real(3, 1)),
    case("Mul", ROWS, real(5)),
    case("Div", ROWS, real(5, low=0.5)),
    case("Pow", np.abs(ROWS) + 0.5, np.float32(3.0)),
    case("Sqrt", np.abs(ROWS) + 0.1),
    case("Erf", ROWS),
    case("Sigmoid", ROWS),
    case("Tanh", ROWS),
    case("Exp", ROWS),
    case("Log", np.abs(ROWS) + 0.5),
    case("Neg", ROWS),
    case("Sin", ROWS),
    case("Cos", ROWS),
    case("Reciprocal", np.abs(ROWS) + 0.5),
    case("Softplus", ROWS),
    case("Mish", ROWS),
    case("Gelu", ROWS),
    case("Gelu", ROWS, approximate="tanh"),
    case("Softmax", ROWS),
    case("Softmax", real(2, 3, 4), opset=12, axis=1),
    case("LogSoftmax", ROWS, axis=0),
    case("Sum", ROWS, real(5), real(3, 1)),
    case("Mean", ROWS, real(5)),
    case("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    case("ReduceMean", IMAGE, axes=[1], opset=13),
    case("ReduceSum", IMAGE, ints(-1)),
    case("ReduceL2", IMAGE, ints(1)),
    case("ReduceSumSquare", IMAGE, ints(1)),
    case("ReduceLogSumExp", IMAGE, ints(1)),
    case("ReduceProd", ROWS, ints(0), keepdims=0),
    case("Conv", IMAGE, real(6, 4, 3, 3), real(6), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", IMAGE, real(4, 1, 3, 2), pads=[0, 1, 2, 0], group=4, dilations=[2, 1]),
    case("Conv", IMAGE, real(2, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, real(2, 4, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", real(2, 3, 8), real(4, 3, 3), real(4), pads=[2, 0]),
    case("Conv", real(1, 2, 4, 4, 4), real(3, 2, 2, 2, 2)),
    case("ConvTranspose", IMAGE, real(4, 3, 3, 3), real(3), strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]),
    case("ConvTranspose", IMAGE, real(4, 2, 2, 3), group=2, dilations=[1, 2]),
    case("ConvTranspose", IMAGE, real(4, 2, 3, 3), strides=[2, 2], output_shape=[14, 12], auto_pad="SAME_UPPER"),
    case("ConvTranspose", real(1, 2, 5), real(2, 3, 4), strides=[3]),
    case("Gemm", ROWS, real(4, 5), real(4), transB=1),
    case("Gemm", real(5, 3), real(5, 4), real(3, 4), transA=1, alpha=0.5, beta=2.0),
    case("MatMul", real(2, 1, 3, 5), real(4, 5, 2)),
    case("Einsum", real(2, 3, 4), real(2, 4, 5), equation="bij,bjk->bik"),
    case("GlobalAveragePool", IMAGE),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[4, 4], strides=[3, 3], ceil_mode=1),
    case("AveragePool", real(1, 2, 9), kernel_shape=[3], auto_pad="SAME_UPPER", strides=[2]),
    case("BatchNormalization", IMAGE, real(4), real(4), real(4), real(4, low=0.5)),
    case("InstanceNormalization", IMAGE, real(4), real(4)),
    case("LayerNormalization", IMAGE, real(6), real(6)),
    case("LayerNormalization", IMAGE, real(7, 6), axis=2, epsilon=1e-3),
    case("GroupNormalization", IMAGE, real(4), real(4), num_groups=2, opset=21),
    case("Reshape", ROWS, ints(5, -1)),
    case("Reshape", IMAGE, ints(0, -1)),
    case("Flatten", IMAGE, axis=2),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Transpose", IMAGE),
    case("Squeeze", real(1, 3, 1), ints(0)),
    case("Squeeze", real(1, 3, 1)),
    case("Unsqueeze", ROWS, ints(0, -1)),
    case("Unsqueeze", ROWS, axes=[1], opset=12),
    case("Slice", IMAGE, ints(1, 0), ints(2**60, -1), ints(2, -1), ints(2, 1)),
    case("Slice", IMAGE, ints(-1), ints(-(2**60)), ints(2), ints(-2)),
    case("Slice", IMAGE, ints(1, 1), ints(2, 3)),
    case("Split", IMAGE, ints(1, 3), axis=1, outputs=2),
    case("Split", real(7, 2), outputs=3, num_outputs=3),
    case("Concat", ROWS, real(3, 2), axis=-1),
    case("Pad", IMAGE, ints(0, 1, 0, 2, 1, 0, 0, 3), np.float32(1.5)),
    case("Pad", IMAGE, ints(1, -1), None, ints(3), mode="constant"),
    case("Pad", IMAGE, ints(2, 1, 1, 2), None, ints(2, 3), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 2, 1, 0, 0, 1, 2), mode="edge"),
    case("Gather", real(6, 3), np.array([[0, 5], [-1, 2]], np.int64)),
    case("Gather", IMAGE, np.int64(2), axis=1),
    case("Gather", real(6), np.int64(-2)),
    case("ScatterElements", ROWS, np.array([[0, -1]], np.int64), real(1, 2), axis=1),
    case("ScatterElements", ROWS, np.array([[0, 1, 0, 2, 2]], np.int64), real(1, 5), reduction="add"),
    case("ScatterND", IMAGE, np.array([[0, 1], [1, -1]], np.int64), real(2, 7, 6)),
    case("ScatterND", ROWS, np.array([[0], [0], [2]], np.int64), real(3, 5), reduction="add"),
    case("GatherElements", ROWS, np.array([[0, 1], [4, -1], [2, 2]], np.int64), axis=1),
    case("GatherND", IMAGE, np.array([[0, 1], [1, -1]], np.int64)),
    case("Expand", real(3, 1), ints(2, 1, 4)),
    case("Tile", ROWS, ints(2, 1)),
    case("Where", MASK, ROWS, real(5)),
    case("Identity", ROWS),
    case("Dropout", ROWS),
    case("CumSum", ROWS, np.int64(1), exclusive=1, reverse=1),
    case("Trilu", real(4, 4), np.int64(1), upper=0),
    case("DepthToSpace", IMAGE, blocksize=2),
    case("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
    case("SpaceToDepth", real(1, 2, 4, 6), blocksize=2),
    case("Resize", IMAGE, None, np.array([1, 1, 2, 1.5], np.float32), mode="linear"),
    case("Resize", IMAGE, None, None, ints(2, 4, 5, 11), mode="linear", coordinate_transformation_mode="align_corners"),
    case("Resize", IMAGE, None, None, ints(2, 4, 5, 11), mode="linear", coordinate_transformation_mode="asymmetric"),
    case("LSTM", *recurrent(4, 1, HIDDEN), hidden_size=4, outputs=3),
    case("LSTM", *recurrent(4, 2, BOTH), hidden_size=4, direction="bidirectional", outputs=3),
    case("GRU", *recurrent(3, 1, HIDDEN), hidden_size=4, linear_before_reset=1, outputs=2),
    case("GRU", *recurrent(3, 2), hidden_size=4, direction="bidirectional", outputs=2),
    case("RNN", *recurrent(1, 1), hidden_size=4, direction="reverse", outputs=2),
]

OTHERS = [
    case("ScatterElements", ROWS, np.array([[0, 1, 0, 2, 2]], np.int64), real(1, 5), reduction="max"),
    case("TopK", ROWS, np.array([2], np.int64), outputs=2),
    case("TopK", np.array([[1, 3, 3, 0, 1]], np.float32), np.array([4], np.int64), outputs=2),
    case("TopK", IMAGE, np.array([3], np.int64), outputs=2, axis=1, largest=0),
    case("Relu", ROWS),
    case("Abs", ROWS),
    case("LeakyRelu", ROWS, alpha=0.2),
    case("PRelu", ROWS, real(5)),
    case("Elu", ROWS, alpha=0.5),
    case("Celu", ROWS, alpha=0.5),
    case("Selu", ROWS),
    case("Softsign", ROWS),
    case("Clip", ROWS, np.float32(-0.5), np.float32(1.0)),
    case("Clip", ROWS, None, np.float32(0.3)),
    case("HardSigmoid", ROWS, alpha=0.3, beta=0.4),
    case("HardSwish", ROWS * 3),
    case("Min", ROWS, real(5), real(3, 1)),
    case("Max", ROWS, real(5)),
    case("ReduceMax", IMAGE, ints(1, 2), keepdims=0),
    case("ReduceMin", IMAGE, ints(1)),
    case("ReduceL1", IMAGE, ints(3)),
    case("GlobalMaxPool", IMAGE),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("ArgMax", ROWS, axis=1, keepdims=0),
    case("ArgMin", ROWS, axis=0),
    case("Floor", ROWS),
    case("Ceil", ROWS),
    case("Round", ROWS),
    case("Sign", ROWS),
    case("Mod", np.array([7, -7, 5], np.int64), np.array([3, 3, -3], np.int64)),
    case("Mod", ROWS, real(5, low=0.5), fmod=1),
    case("Div", np.array([7, -7], np.int64), np.array([2, 2], np.int64)),
    case("Equal", np.array([1, 2]), np.array([1, 3])),
    case("Less", ROWS, real(5)),
    case("LessOrEqual", ROWS, real(5)),
    case("Greater", ROWS, real(5)),
    case("GreaterOrEqual", ROWS, real(5)),
    case("And", MASK, ~MASK),
    case("Or", MASK, ~MASK),
    case("Xor", MASK, MASK[:1]),
    case("Not", MASK),
    case("IsNaN", np.array([1.0, np.nan], np.float32)),
    case("Cast", ROWS, to=TensorProto.INT64),
    case("Cast", MASK, to=TensorProto.FLOAT),
    case("CastLike", ROWS, np.array([1], np.int32)),
    case("Shape", IMAGE, start=1),
    case("Size", IMAGE),
    case("ConstantOfShape", ints(2, 3), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.5])),
    case("Range", np.int64(2), np.int64(9), np.int64(3)),
    case("Resize", IMAGE, None, np.array([1, 1, 2, 2], np.float32), mode="nearest"),
    case("Resize", IMAGE, None, None, ints(2, 4, 3, 11), mode="nearest", nearest_mode="floor"),
    case("QuantizeLinear", ROWS, np.float32(0.01), np.uint8(120)),
    case("QuantizeLinear", ROWS, np.array([0.01, 0.02, 0.03], np.float32), np.zeros(3, np.int8), axis=0),
    case("DequantizeLinear", np.array([[1, -7], [9, 127]], np.int8), np.array([0.1, 0.3], np.float32), axis=0),
]


def model_of(op: str, inputs: tuple[Any, ...], attributes: dict[str, Any], outputs: int, opset: int) -> onnx.ModelProto:
    """One node; what is no size or index is a graph input."""
    names = ["" if array is None else f"i{index}" for index, array in enumerate(inputs)]
    given = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True) if name}
    node = helper.make_node(op, names, [f"o{i}" for i in range(outputs)], "node", **attributes)
    kind = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kind[name], given[name].shape) for name in list(given)[:1]],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(given[name], name) for name in list(given)[1:]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize(("op", "inputs", "attributes", "outputs", "opset"), [*SMOOTH, *OTHERS])
def test_operator_agrees_with_onnx_runtime(
    op: str, inputs: tuple[Any, ...], attributes: dict[str, Any], outputs: int, opset: int
) -> None:
    """Promise: each operator gives what ONNX Runtime gives, in shape, type (but for integers of Q) and value."""
    model = model_of(op, inputs, attributes, outputs, opset)
    feed = {"i0": np.asarray(inputs[0])}
    wanted = Session(model.SerializeToString(), threads=1, optimize=False).run(None, feed)
    found = TorchGraph(model)({name: torch.from_numpy(np.array(array)) for name, array in feed.items()})
    for exact, mine in zip(wanted, found.values(), strict=True):
        assert mine.shape == exact.shape
        if op != "QuantizeLinear":
            assert mine.numpy().dtype == exact.dtype
        np.testing.assert_allclose(mine.numpy(), exact, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("op", "inputs", "attributes", "outputs", "opset"), SMOOTH)
def test_gradients_agree_with_finite_differences(
    op: str, inputs: tuple[Any, ...], attributes: dict[str, Any], outputs: int, opset: int
) -> None:
    """Promise: every smooth operator is differentiable in its first input and in its float constants."""
    graph = TorchGraph(model_of(op, inputs, attributes, outputs, opset)).double()
    names = [f"i{i}" for i, a in enumerate(inputs) if a is not None and np.asarray(a).dtype == np.float32]
    names = [name for name in names if not (op in {"Resize", "Pad"} and name != "i0")]
    values = [torch.from_numpy(np.asarray(inputs[int(name[1:])], np.float64)).requires_grad_() for name in names]
    fixed = {"i0": torch.from_numpy(np.array(inputs[0]))} if "i0" not in names else {}

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(graph(fixed, given=dict(zip(names, tensors, strict=True))).values())

    assert torch.autograd.gradcheck(run, tuple(values), fast_mode=True)


def test_every_operator_has_a_case() -> None:
    """Promise: no operator is offered that no test compares."""
    tested = {str(parameters.values[0]) for parameters in [*SMOOTH, *OTHERS]}
    assert set(OPS) - tested == {"Constant", "RMSNormalization"}


def test_a_constant_node_gives_its_value() -> None:
    """Promise: Constant works in each of its numeric forms."""
    forms = {"value_float": 1.5, "value_ints": [1, 2], "value": numpy_helper.from_array(real(2, 2))}
    for name, value in forms.items():
        node = helper.make_node("Constant", [], ["o0"], **{name: value})
        graph = helper.make_graph([node], "one", [], [onnx.ValueInfoProto(name="o0")])
        model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
        wanted = Session(model.SerializeToString(), threads=1, optimize=False).run(None, {})[0]
        np.testing.assert_array_equal(TorchGraph(model)({})["o0"].numpy(), wanted)


def test_rms_normalisation_follows_its_definition() -> None:
    """Promise: RMSNormalization divides by the root mean square over the last axes."""
    scale = real(5)
    node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], axis=-1, epsilon=1e-5)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ROWS.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ROWS.shape)],
        [numpy_helper.from_array(scale, "scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    wanted = ROWS / np.sqrt((ROWS**2).mean(axis=1, keepdims=True) + 1e-5) * scale
    np.testing.assert_allclose(TorchGraph(model)({"x": torch.from_numpy(ROWS)})["y"].numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "attributes", "what"),
    [
        ("NonZero", {}, "NonZero"),
        ("ScatterND", {"reduction": "max"}, "ScatterND (reduction max)"),
        ("MaxPool", {"kernel_shape": [2, 2]}, "MaxPool (more than its first output)"),
        ("Resize", {"mode": "cubic"}, "Resize (mode cubic)"),
        ("Cast", {"to": TensorProto.STRING}, "Cast (a cast to element type 8)"),
        ("LSTM", {"layout": 1}, "LSTM (the batch-first layout)"),
        ("GRU", {"activations": ["Relu", "Tanh"]}, "GRU (activations other than the default)"),
        ("QuantizeLinear", {"block_size": 2}, "QuantizeLinear (blocks of weights)"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(op: str, attributes: dict[str, Any], what: str) -> None:
    """Promise: a node without an implementation is named with what of it is missing, and the graph is refused."""
    node = helper.make_node(op, ["x"], ["y", "z"] if op == "MaxPool" else ["y"], "odd", **attributes)
    graph = helper.make_graph([node], "one", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    assert unsupported(model) == [("odd", what)]
    with pytest.raises(InputError, match="odd"):
        TorchGraph(model)


def test_a_foreign_operator_is_named_with_its_domain() -> None:
    """Promise: operators of other domains are not taken for ours."""
    node = helper.make_node("Gelu", ["x"], ["y"], "odd", domain="com.microsoft")
    graph = helper.make_graph([node], "one", [onnx.ValueInfoProto(name="x")], [onnx.ValueInfoProto(name="y")])
    assert unsupported(helper.make_model(graph)) == [("odd", "com.microsoft.Gelu")]
