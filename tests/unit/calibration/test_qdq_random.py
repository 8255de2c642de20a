"""Random small graphs: whatever is put together, the emitted file runs and its rules hold."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from calibration.placement import place
from calibration.prepare import prepare
from calibration.qdq import quantize_model, snr_db
from calibration.session import Session
from targets.engines.lint_onnxruntime import lint_onnxruntime
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.onnxfile import open_onnx
from targets.scheme import scheme


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load("qdq_zoo")
_CHANNELS = 4
_UNARY = ("Relu", "Sigmoid", "LeakyRelu", "HardSwish", "Tanh", "Neg", "MaxPool", "AveragePool", "ConvT", "Clip")
_SHAPED = ("Shuffle", "Split", "Gather", "Expand", "Slice", "PadSlice", "ReduceMax")
_BINARY = ("Add", "Mul", "Sub", "Max", "Concat")
_steps = st.lists(
    st.tuples(
        st.sampled_from(("Conv", "Depthwise", "Dead", *_UNARY, *_SHAPED, *_BINARY)),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=2,
    max_size=9,
)


def _grow(net: Any, kind: str, a: str, b: str) -> str:  # noqa: ANN401, C901, PLR0911, PLR0912 - one line an operator
    """One more operator on tensors of shape (1, 4, 8, 8)."""
    if kind in _BINARY[:4]:
        return str(net.op(kind, a, b))
    match kind:
        case "Conv":
            return str(net.conv(a, _CHANNELS, _CHANNELS))
        case "Depthwise":
            return str(net.conv(a, _CHANNELS, _CHANNELS, group=_CHANNELS))
        case "Dead":
            return str(net.op("Conv", a, net.const(np.zeros((_CHANNELS, _CHANNELS, 1, 1), np.float32))))
        case "ConvT":
            return str(net.op("ConvTranspose", a, net.weight(_CHANNELS, _CHANNELS, 3, 3), pads=[1] * 4))
        case "Concat":
            return str(net.conv(net.op("Concat", a, b, axis=1), _CHANNELS, 2 * _CHANNELS, 1))
        case "Clip":
            return str(net.op("Clip", a, net.const(np.float32(0)), net.const(np.float32(1))))
        case "MaxPool" | "AveragePool":
            return str(net.op(kind, a, kernel_shape=[3, 3], pads=[1] * 4))
        case "HardSwish":
            return str(net.op("Mul", a, net.op("HardSigmoid", a)))
        case "Shuffle":
            return str(net.op("Transpose", a, perm=[0, 1, 3, 2]))
        case "Split":
            left, right = net.op("Split", a, net.const(np.array([1, 3])), outputs=2, axis=1)
            return str(net.op("Concat", right, left, axis=1))
        case "Gather":
            return str(net.op("Gather", a, net.const(np.array([3, 0, 1, 1])), axis=1))
        case "Expand":
            row = net.op("Slice", a, net.const(np.array([0])), net.const(np.array([1])), net.const(np.array([2])))
            return str(net.op("Expand", row, net.const(np.array([1, _CHANNELS, 8, 8]))))
        case "Slice":
            return str(net.op("Slice", a, *(net.const(np.array([v])) for v in (-1, -9, 3, -1))))
        case "PadSlice":
            wide = net.op("Pad", a, net.const(np.array([0, 0, 1, 0, 0, 0, 0, 0])))
            return str(net.op("Slice", wide, *(net.const(np.array([v])) for v in (0, 8, 2))))
        case "ReduceMax":
            return str(net.op("Add", a, net.op("ReduceMax", a, axes=[2])))
    return str(net.op(kind, a))


def _check(model: onnx.ModelProto, folder: Path, feed: Any, dialect: str) -> None:  # noqa: ANN401
    path, out = folder / "float.onnx", folder / "int8.onnx"
    path.write_bytes(model.SerializeToString())
    layers = quantize_model(path, zoo.table_of(path, feed), scheme(dialect), "minmax", out)
    assert all((layer.precision == "float") == bool(layer.reason) for layer in layers)
    proto = open_onnx(out)
    onnx.checker.check_model(proto, full_check=True)
    assert (lint_tensorrt if dialect == "trt" else lint_onnxruntime)(proto) == []
    stored = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert all(np.all(array > 0) for name, array in stored.items() if name.endswith("__scale"))
    roots = place(prepare(open_onnx(path)).graph, scheme(dialect)).roots
    used = {n.input[0]: n.input[1] for n in proto.graph.node if n.op_type == "QuantizeLinear"}
    for name, root in roots.items():
        if name in used:
            assert used[name] == f"{root}__scale"
    exact = Session(path.read_bytes(), threads=1, optimize=False).run(None, feed)[0]
    plain = Session(out.read_bytes(), threads=1, optimize=False).run(None, feed)[0]
    fused = Session(out.read_bytes(), threads=1, optimize=True).run(None, feed)[0]
    if np.abs(exact).max() > 1e-3:
        assert snr_db(exact, plain) > 12.0
        assert snr_db(plain, fused) > 25.0


@given(steps=_steps, seed=st.integers(0, 99), dialect=st.sampled_from(["ort-x86", "trt", "ort-x86-avx2", "qnn-a16"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_graphs(steps: list[tuple[str, int, int]], seed: int, dialect: str) -> None:
    """The file runs, is valid, lints clean, has positive shared scales and a reason for every float node."""
    net = zoo.Net(seed, opset=17)
    made = [net.conv("x", _CHANNELS, 3)]
    for kind, first, second in steps:
        made.append(_grow(net, kind, made[first % len(made)], made[second % len(made)]))
    last = net.conv(made[-1], 2, _CHANNELS, 1)
    model = net.model(last, {"x": (1, 3, 8, 8)}, {})
    with tempfile.TemporaryDirectory() as folder:
        _check(model, Path(folder), {"x": zoo.images(1, 3, 8, 8, seed=seed)}, dialect)
