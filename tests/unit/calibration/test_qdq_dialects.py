"""Every net of the zoo in every dialect: it runs, it is close, and each number in it is what quantisation says."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration.prepare import constant, prepare
from calibration.qdq import LayerPrecision, quantize_model, snr_db
from calibration.session import Session
from targets.engines.lint_onnxruntime import lint_onnxruntime
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load("qdq_zoo")
DIALECTS = ("ort-x86", "ort-x86-avx2", "trt", "qnn-a16")
CASES = [(net, dialect) for net in zoo.ZOO for dialect in DIALECTS]
_FLOOR_DB = {"ort-x86": 30.0, "ort-x86-avx2": 22.0, "trt": 30.0, "qnn-a16": 30.0}


@cache
def _float_net(net: str, folder: Path) -> tuple[Path, Any, Any]:
    model, feed = zoo.ZOO[net]()
    path = folder / f"{net}.onnx"
    path.write_bytes(model.SerializeToString())
    return path, feed, zoo.table_of(path, feed)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@cache
def _quantised(net: str, dialect: str, folder: Path) -> tuple[Path, tuple[LayerPrecision, ...]]:
    path, _, table = _float_net(net, folder)
    out = folder / f"{net}-{dialect}.onnx"
    return out, quantize_model(path, table, scheme(dialect), "minmax", out)


def _run(path: Path, feed: dict[str, NDArray[np.generic]], *, optimize: bool = True) -> NDArray[np.float32]:
    return Session(path.read_bytes(), threads=1, optimize=optimize).run(None, feed)[0]


@pytest.mark.parametrize(("net", "dialect"), CASES)
def test_it_runs_and_is_close_to_float(shared: Path, net: str, dialect: str) -> None:
    """The emitted file is valid ONNX, passes its engine's linter, and the runtime computes nearly the float outputs."""
    path, feed, _ = _float_net(net, shared)
    out, _ = _quantised(net, dialect, shared)
    model = open_onnx(out)
    onnx.checker.check_model(model, full_check=True)
    assert (lint_tensorrt if dialect == "trt" else lint_onnxruntime)(model) == []
    assert snr_db(_run(path, feed), _run(out, feed)) > _FLOOR_DB[dialect]


@pytest.mark.parametrize(("net", "dialect"), CASES)
def test_every_node_is_int8_or_says_why(shared: Path, net: str, dialect: str) -> None:
    """Each node of the prepared graph is listed once, and is float exactly when a reason stands beside it."""
    path, _, _ = _float_net(net, shared)
    _, layers = _quantised(net, dialect, shared)
    assert [layer.node for layer in layers] == [node.name for node in prepare(open_onnx(path)).graph]
    assert all((layer.precision == "float") == bool(layer.reason) for layer in layers)
    assert any(layer.precision == "int8" for layer in layers)


@pytest.mark.parametrize(("net", "dialect"), CASES)
def test_quantisers_compute_what_float64_says(shared: Path, net: str, dialect: str) -> None:
    """Each Q then DQ gives, within half a step, the clipped value, by an independent computation in float64."""
    _, feed, table = _float_net(net, shared)
    out, _ = _quantised(net, dialect, shared)
    model = onnx.load(out)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    pairs = [
        (q, d)
        for q in model.graph.node
        for d in model.graph.node
        if q.op_type == "QuantizeLinear" and d.op_type == "DequantizeLinear" and d.input[0] == q.output[0]
    ]
    assert pairs
    names = sorted({name for q, d in pairs for name in (q.input[0], d.output[0]) if name not in feed})
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    found = dict(
        zip(names, Session(model.SerializeToString(), threads=1, optimize=False).run(names, feed), strict=True)
    )
    found |= feed
    for q, d in pairs:
        scale, zero = np.float64(stored[q.input[1]]), np.float64(stored[q.input[2]])
        limits = np.iinfo(stored[q.input[2]].dtype)
        ends = (limits.min - zero) * scale, (limits.max - zero) * scale
        exact = np.clip(found[q.input[0]].astype(np.float64), *ends)
        rounding = 0.0001 + (limits.max - limits.min) * 2.0**-23  # of the division in float32
        assert np.abs(found[d.output[0]] - exact).max() <= scale * (0.5 + rounding), q.name
    assert all(np.all(array > 0) for name, array in stored.items() if name.endswith("__scale"))
    assert table.tensors


@pytest.mark.parametrize(("net", "dialect"), CASES)
def test_weights_are_within_half_a_step(shared: Path, net: str, dialect: str) -> None:
    """Stored integers times their scales are the float weights to half a step, along the axis the file names."""
    path, _, _ = _float_net(net, shared)
    out, layers = _quantised(net, dialect, shared)
    graph = prepare(open_onnx(path)).graph
    exact = {str(node.name): constant(node.inputs[1]) for node in graph if len(node.inputs) > 1}
    model = onnx.load(out)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    weighted = [layer.node for layer in layers if layer.weight_snr_db is not None]
    assert weighted
    for node in model.graph.node:
        if node.name not in weighted:
            continue
        dequantiser = makers[node.input[1]]
        axis = next((attribute.i for attribute in dequantiser.attribute), None)
        integers, scales, zeros = (stored[name] for name in dequantiser.input)
        assert integers.dtype == np.int8
        assert not zeros.any()
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)] if scales.ndim else []
        error = np.abs(integers * scales.astype(np.float64).reshape(shape) - exact[node.name])
        assert (error <= scales.reshape(shape) * 0.5001).all(), node.name
        weighted.remove(node.name)
    assert not weighted


@pytest.mark.parametrize("dialect", ["ort-x86", "trt", "qnn-a16"])
@pytest.mark.parametrize("net", ["residual", "gates", "transformer", "recommender"])
def test_a_second_implementation_agrees(shared: Path, net: str, dialect: str) -> None:
    """The reference evaluator of ONNX, which shares nothing with the runtime, gives the same outputs within a step."""
    _, feed, _ = _float_net(net, shared)
    out, _ = _quantised(net, dialect, shared)
    newer = onnx.version_converter.convert_version(onnx.load(out), 21)
    outputs: Any = ReferenceEvaluator(newer).run(None, feed)
    reference = np.asarray(outputs[0])
    assert snr_db(reference, _run(out, feed, optimize=False)) > 35.0


@pytest.mark.parametrize("net", sorted(zoo.ZOO))
def test_dialects_that_share_their_rules_share_their_bytes(shared: Path, net: str) -> None:
    """OpenVINO and ARM get the file of x86 with VNNI."""
    one = _quantised(net, "ort-x86", shared)[0].read_bytes()
    assert (
        one
        == _quantised(net, "openvino", shared)[0].read_bytes()
        == _quantised(net, "ort-arm64", shared)[0].read_bytes()
    )


@pytest.mark.parametrize("dialect", ["ort-x86", "trt", "qnn-a16"])
def test_nodes_kept_in_float_on_request(shared: Path, dialect: str, tmp_path: Path) -> None:
    """A named node stays float and says so, the others stay int8; a name that does not exist is refused."""
    path, feed, table = _float_net("residual", shared)
    _, before = _quantised("residual", dialect, shared)
    chosen = next(layer.node for layer in before if layer.op == "Gemm")
    out = tmp_path / "mixed.onnx"
    layers = quantize_model(path, table, scheme(dialect), "minmax", out, float_nodes=[chosen])
    changed = [new.node for old, new in zip(before, layers, strict=True) if old.precision != new.precision]
    assert chosen in changed
    assert "on request" in next(layer.reason for layer in layers if layer.node == chosen)
    assert {layer.op for layer in layers if layer.node in changed} <= {"Gemm", "Flatten", "GlobalAveragePool"}
    assert snr_db(_run(path, feed), _run(out, feed)) > 30.0
    with pytest.raises(InputError, match=r"no node is called 'hed'"):
        quantize_model(path, table, scheme(dialect), "minmax", out, float_nodes=["hed"])


def test_given_ranges_take_the_place_of_the_tables(shared: Path, tmp_path: Path) -> None:
    """A range handed in decides its tensor's scale; the others stay."""
    path, _, table = _float_net("residual", shared)
    before = _quantised("residual", "ort-x86", shared)[0]
    out = tmp_path / "ranged.onnx"
    quantize_model(path, table, scheme("ort-x86"), "minmax", out, ranges={"x": (-1.0, 1.55)})
    one, two = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer if t.name.endswith("__scale")}
        for p in (before, out)
    )
    assert float(two["x__scale"]) == pytest.approx(0.01)
    changed = {name for name in one if not np.array_equal(one[name], two[name])}
    assert "x__scale" in changed
    assert all("bias" in name for name in changed - {"x__scale"})
