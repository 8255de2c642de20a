"""Promises of the conversion to 16-bit floating point."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calibration.collect import collect
from calibration.half import HalfSettings, convert_half
from calibration.qdq import quantize_model, snr_db
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

BF16 = HalfSettings(dtype="bfloat16")


def run(path: Path, x: NDArray[np.generic]) -> NDArray[np.generic]:
    return Session(path, threads=1, optimize=True).run(None, {"x": x})[0]


def operators(path: Path) -> Counter[str]:
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return Counter(node.op_type for node in model.graph.node)


def attention(save: Callable[..., Path], **changes: NDArray[np.float32]) -> Path:
    """A norm, two projections, their product, softmax, a mask of moves and a sum around all."""
    rng = np.random.default_rng(0)
    constants: dict[str, object] = {
        "ln": np.ones(16, np.float32),
        "q": (rng.normal(size=(16, 16)) / 4).astype(np.float32),
        "k": (rng.normal(size=(16, 16)) / 4).astype(np.float32),
        "scale": np.float32(0.25),
        "epsilon": np.float32(1e-3),
        **changes,
    }
    nodes = [
        helper.make_node("LayerNormalization", ["x", "ln"], ["n"], "norm"),
        helper.make_node("MatMul", ["n", "q"], ["a"], "query"),
        helper.make_node("MatMul", ["n", "k"], ["b"], "key"),
        helper.make_node("Transpose", ["b"], ["c"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "c"], ["d"], "product"),
        helper.make_node("Mul", ["d", "scale"], ["e"], "scaled"),
        helper.make_node("Softmax", ["e"], ["f"], "softmax", axis=-1),
        helper.make_node("MatMul", ["f", "n"], ["g"], "mix"),
        helper.make_node("Add", ["g", "epsilon"], ["h"], "shift"),
        helper.make_node("Add", ["h", "x"], ["y"], "residual"),
    ]
    return save(nodes, constants, inputs={"x": ["batch", 4, 16]}, outputs={"y": ["batch", 4, 16]}, opset=20)


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(5, 4, 16)).astype(np.float32)


def test_float16_is_close(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """The outputs keep ten bits and the float32 type; weights take half the room; sensitive operators stay."""
    source, out = attention(save), tmp_path / "half.onnx"
    report = convert_half(source, out, samples=[{"x": x}])
    found = run(out, x)
    assert found.dtype == np.float32
    assert snr_db(run(source, x), found) > 55
    assert {"norm", "softmax"} <= set(report.left)
    assert {"query", "key", "product", "mix"} <= set(report.changed)
    assert report.after_bytes < report.before_bytes * 0.6
    assert report.snr_db["query"] > 60


def test_casts_are_minimal(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """At most one cast a tensor and direction: into the products, out to softmax, back, and out to the sum."""
    out = tmp_path / "half.onnx"
    convert_half(attention(save), out, samples=[{"x": x}])
    model = onnx.load(out)
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts)) == 4


def test_followers_between_float32_stay(save: Callable[..., Path], tmp_path: Path) -> None:
    """Moves between two protected operators are not cast down and up again."""
    constants = {"w": np.eye(8, dtype=np.float32), "shape": np.array([-1, 8], np.int64)}
    nodes = [
        helper.make_node("Softmax", ["x"], ["a"], "one"),
        helper.make_node("Reshape", ["a", "shape"], ["b"], "move"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("LogSoftmax", ["c"], ["d"], "two"),
        helper.make_node("MatMul", ["d", "w"], ["y"], "product"),
    ]
    path = save(nodes, constants, inputs={"x": ["n", 8]}, outputs={"y": ["n", 8]})
    report = convert_half(path, tmp_path / "o.onnx")
    assert set(report.changed) == {"product"}
    assert "fewer casts" in report.left["move"]
    assert operators(tmp_path / "o.onnx")["Cast"] == 2


def test_overflow_on_samples_keeps_float32(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """A product beyond 65,504 on the samples stays float32 with all that touches it; without samples it overflows."""
    rng = np.random.default_rng(0)
    source = attention(save, q=(rng.normal(size=(16, 16)) * 2e4).astype(np.float32))
    out = tmp_path / "half.onnx"
    report = convert_half(source, out, samples=[{"x": x}])
    assert "beyond float16" in report.left["query"]
    assert "beyond float16" in report.left["product"]
    assert "key" in report.changed
    found = run(out, x)
    assert np.isfinite(found).all()
    assert snr_db(run(source, x), found) > 40
    blind = convert_half(source, tmp_path / "blind.onnx")
    assert "query" in blind.changed
    with np.errstate(all="ignore"):
        wrong = ReferenceEvaluator(onnx.load(tmp_path / "blind.onnx")).run(None, {"x": x})[0]
    assert not np.isfinite(wrong).all()


@pytest.mark.parametrize(
    ("changes", "node", "why"),
    [
        ({"scale": np.float32(-3e38)}, "scaled", "goes beyond float16"),
        ({"epsilon": np.float32(1e-12)}, "shift", "too small for float16"),
    ],
)
def test_constants_that_float16_has_not(
    save: Callable[..., Path], tmp_path: Path, changes: dict[str, NDArray[np.float32]], node: str, why: str
) -> None:
    """A mask of -3e38 or an epsilon of 1e-12 keeps its node in float32; bfloat16 holds both."""
    source = attention(save, **changes)
    assert why in convert_half(source, tmp_path / "o.onnx").left[node]
    left = convert_half(source, tmp_path / "o.onnx", BF16).left
    assert why.split()[-2] not in left.get(node, "")


def test_bfloat16(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """bfloat16 is valid ONNX (opset 22), keeps seven bits by the reference evaluator, and rounds weights to it."""
    source, out = attention(save), tmp_path / "half.onnx"
    report = convert_half(source, out, BF16, samples=[{"x": x}])
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 22
    found = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert snr_db(run(source, x), np.asarray(found, np.float32)) > 35
    assert {"query", "key"} <= set(report.changed)


def test_convolutions_have_bfloat16(residual: Path, tmp_path: Path) -> None:
    """A convolutional net of an older opset is raised to the one that has bfloat16 convolutions."""
    report = convert_half(residual, tmp_path / "o.onnx", BF16)
    assert {"stem", "conv1", "conv2", "head"} <= set(report.changed)
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"), full_check=True)


def test_inputs_and_outputs_on_request(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """Asked for, inputs and outputs are 16-bit under their own names."""
    source, out = attention(save), tmp_path / "half.onnx"
    convert_half(source, out, HalfSettings(keep_io=False))
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    ports = [*model.graph.input, *model.graph.output]
    assert [(v.name, v.type.tensor_type.elem_type) for v in ports] == [("x", 10), ("y", 10)]
    found = run(out, x.astype(np.float16))
    assert found.dtype == np.float16
    assert snr_db(run(source, x), found.astype(np.float32)) > 50


def test_qdq_scales_become_float16(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """In a model with Q/DQ every scale and bias beside a 16-bit operator is 16-bit, and int8 stays int8."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=16), threads=1)
    quantize_model(residual, table, scheme("trt"), "minmax", tmp_path / "q.onnx")
    report = convert_half(tmp_path / "q.onnx", tmp_path / "half.onnx", samples=[{"x": images}])
    model = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(model, full_check=True)
    types = {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            assert types[node.input[1]] == TensorProto.FLOAT16
            assert types[node.input[2]] == TensorProto.INT8
    assert {"stem", "conv1", "conv2"} <= set(report.changed)
    assert snr_db(run(tmp_path / "q.onnx", images), run(tmp_path / "half.onnx", images)) > 35


def test_qdq_of_an_old_opset_is_refused(save: Callable[..., Path], images: NDArray[np.float32], tmp_path: Path) -> None:
    """Before opset 19 a scale is float32: the model is refused with what to do."""
    weight = np.random.default_rng(0).normal(size=(10, 192)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "head", transB=1),
    ]
    source = save(nodes, {"w": weight}, opset=17)
    table = collect(source, CalibrationSet({"x": images}, batch_size=16), threads=1)
    quantize_model(source, table, scheme("trt"), "minmax", tmp_path / "q.onnx")
    with pytest.raises(InputError, match="opset 17"):
        convert_half(tmp_path / "q.onnx", tmp_path / "o.onnx")


def test_bodies_get_float32(save: Callable[..., Path], tmp_path: Path) -> None:
    """What the body of an If reads from outside stays, or becomes again, float32."""
    rng = np.random.default_rng(0)
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Neg", ["a"], ["t"], "neg")], "then", [], [value])
    other = helper.make_graph([helper.make_node("Abs", ["a"], ["t"], "abs")], "else", [], [value])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("ReduceMax", ["x"], ["m"], "most", keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"], "positive"),
        helper.make_node("If", ["c"], ["b"], "choice", then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["b", "w"], ["y"], "again"),
    ]
    constants = {"w": rng.normal(size=(8, 8)).astype(np.float32), "zero": np.float32(0)}
    source = save(nodes, constants, inputs={"x": ["n", 8]}, outputs={"y": ["n", 8]})
    report = convert_half(source, tmp_path / "o.onnx")
    assert report.left["choice"] == "it has a body"
    assert {"product", "again"} <= set(report.changed)
    x = rng.normal(size=(3, 8)).astype(np.float32)
    assert snr_db(run(source, x), run(tmp_path / "o.onnx", x)) > 50


def test_nothing_to_convert_is_an_error(save: Callable[..., Path], tmp_path: Path) -> None:
    """A model of protected operators alone is refused, and so are NaN samples and impossible settings."""
    path = save([helper.make_node("Softmax", ["x"], ["y"], "s")], {}, inputs={"x": ["n", 8]}, outputs={"y": ["n", 8]})
    with pytest.raises(InputError, match="compute in float16"):
        convert_half(path, tmp_path / "o.onnx")
    with pytest.raises(InputError, match="headroom"):
        convert_half(path, tmp_path / "o.onnx", HalfSettings(headroom=0.5))
    with pytest.raises(InputError, match="NaN or Inf in batch 0"):
        convert_half(path, tmp_path / "o.onnx", samples=[{"x": np.full((1, 8), np.nan, np.float32)}])


def test_same_arguments_same_bytes(save: Callable[..., Path], x: NDArray[np.float32], tmp_path: Path) -> None:
    """Two conversions of one file are equal byte for byte."""
    source = attention(save)
    for name in "ab":
        convert_half(source, tmp_path / name, samples=[{"x": x}])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
