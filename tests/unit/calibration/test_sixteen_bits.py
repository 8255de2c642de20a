"""Promises of 16-bit activations: what the file holds, how near it is, and who may not have it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from calibration.collect import collect
from calibration.numerics import activation_affine, quantise, quantise_bias, weight_scales
from calibration.opsets import prepared_for, raised
from calibration.placement import place
from calibration.prepare import prepare
from calibration.qat import QuantizedStudent
from calibration.qdq import quantize_model, snr_db
from calibration.quantized import read_quantized
from calibration.ranges import choose_ranges
from calibration.rounding import learn_rounding
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.engines.lint_onnxruntime import lint_onnxruntime, lint_wide
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

QNN = scheme("qnn-a16")
ARM = scheme("ort-arm64")
_STEP = 0.5 + 65535 * 2.0**-23  # half a step, and the rounding of a division in float32
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), op.lower(), **attributes)


def on_grid(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Weights that 8 bits hold exactly, whether they have one scale or one for each channel."""
    integers = rng.integers(-127, 128, shape)
    integers.reshape(shape[0], -1)[:, 0] = 127
    integers.reshape(shape[0], -1)[0, :] = 127
    return (integers / np.float32(1024)).astype(np.float32)


@pytest.fixture
def gated(save: Callable[..., Path]) -> Path:
    """Convolutions, a gate, a Tanh, a pool and moves, in an opset without 16-bit Q/DQ."""
    rng = np.random.default_rng(3)
    constants = {
        "w": on_grid(rng, 8, 3, 3, 3),
        "b": rng.standard_normal(8).astype(np.float32),
        "v": on_grid(rng, 8, 8),
        "axes": np.array([1], np.int64),
        "shape": np.array([0, 8], np.int64),
    }
    nodes = [
        node("Conv", "x w b", "c", pads=[1] * 4),
        node("Sigmoid", "c", "s"),
        node("Mul", "c s", "m"),
        node("MaxPool", "m", "p", kernel_shape=[8, 8]),
        node("Tanh", "p", "t"),
        node("Reshape", "t shape", "r"),
        node("Gemm", "r v", "y"),
    ]
    return save(nodes, constants, outputs={"y": ["batch", 8]}, opset=17)


def made(source: Path, images: NDArray[np.float32], out: Path, dialect: Any = QNN) -> onnx.ModelProto:  # noqa: ANN401
    table = collect(source, CalibrationSet({"x": images}, batch_size=16), threads=1, methods=["minmax"])
    quantize_model(source, table, dialect, "minmax", out)
    return open_onnx(out)


def stored(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(path: Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    return Session(path.read_bytes(), threads=1, optimize=True).run(None, {"x": images})[0]


@settings(max_examples=100, deadline=None)
@given(st.floats(-100, 0), st.floats(0, 100), hnp.arrays(np.float32, 50, elements=st.floats(0, 1, width=32)))
def test_values_come_back_within_half_a_step(low: float, high: float, shares: NDArray[np.float32]) -> None:
    """Promise: inside the range the error is half of a 65,535th of it, one at its rounded ends; zero is exact."""
    affine = activation_affine(low, high, QNN)
    inside = (low + shares.astype(np.float64) * (high - low)).astype(np.float32)
    integers = quantise(inside, affine)
    back = affine.scale * (integers.astype(np.float64) - float(affine.zero))
    error = np.abs(back - inside)
    assert affine.zero.dtype == integers.dtype == np.uint16
    assert affine.scale == pytest.approx(max((high - low) / 65535, 1e-8), rel=1e-6) or low == high
    assert np.all(error[(integers > 0) & (integers < 65535)] <= affine.scale * _STEP + 1e-9)
    assert np.all(error <= affine.scale * (_STEP + 0.5) + 1e-9)
    assert quantise(np.zeros(1, np.float32), affine)[0] == affine.zero


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float32, (4, 6), elements=st.floats(-2, 2, width=32)),
    hnp.arrays(np.float32, 4, elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-6, 1e4),
    st.sampled_from([0, None]),
)
def test_no_bias_leaves_int32(
    weight: NDArray[np.float32], bias: NDArray[np.float32], reach: float, axis: int | None
) -> None:
    """Promise: in steps 256 times finer than with 8 bits, every bias fits int32 with room for its correction."""
    step = activation_affine(-reach, reach, QNN).scale
    steps = np.float32(step) * weight_scales(weight, axis, 8, bias, step)
    exact = bias.astype(np.float64) / steps.astype(np.float64)
    integers = quantise_bias(bias, np.broadcast_to(steps, bias.shape))
    assert np.abs(exact).max() < 1.001 * 2**30
    assert np.abs(integers - exact).max() <= 0.5


def test_a_large_bias_is_exact_in_the_file(save: Callable[..., Path], tmp_path: Path) -> None:
    """Promise: bias scales are input scale x weight scale; a bias that would not fit raises its own channel's alone."""
    weight = np.array([[0.5, -0.25], [0.5, -0.25]], np.float32).reshape(2, 2, 1, 1)
    nodes = [node("Conv", "x w b", "y")]
    path = save(
        nodes,
        {"w": weight, "b": np.array([0.1, 4000.0], np.float32)},
        inputs={"x": ["batch", 2, 1, 1]},
        outputs={"y": ["batch", 2, 1, 1]},
    )
    images = np.random.default_rng(0).uniform(-1, 1, (32, 2, 1, 1)).astype(np.float32)
    values = stored(made(path, images, tmp_path / "o.onnx"))
    integers, steps = values["conv__bias__quantized"], values["conv__bias__scale"]
    assert integers.dtype == np.int32
    assert np.array_equal(steps, values["x__scale"] * values["w__conv__scale"])
    assert np.all(np.abs(integers * steps.astype(np.float64) - np.float32([0.1, 4000.0])) <= 0.5001 * steps)
    plain, raised_scale = values["w__conv__scale"]
    assert plain == pytest.approx(0.5 / 127, rel=1e-6)
    assert raised_scale > plain


def test_where_weights_are_exact_it_is_ten_decibels_nearer(
    gated: Path, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Promise: of a net whose weights 8 bits hold, outputs are more than 10 dB nearer to float than with 8-bit ones."""
    exact = run(gated, images)
    found = {}
    for dialect in (ARM, QNN):
        out = tmp_path / f"{dialect.name}.onnx"
        made(gated, images, out, dialect)
        found[dialect.name] = snr_db(exact, run(out, images))
    assert found["qnn-a16"] > max(found["ort-arm64"] + 10.0, 70.0)


def test_the_file_is_standard_onnx_around_every_operator(
    gated: Path, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Promise: opset 21 and no other domain; int8 weights; every operator stands between Q and DQ of uint16."""
    model = made(gated, images, tmp_path / "o.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    assert model.ir_version >= 10
    assert lint_onnxruntime(model) == []
    values = stored(model)
    makers = {name: one.op_type for one in model.graph.node for name in one.output}
    kinds = [one.op_type for one in model.graph.node if one.op_type not in _QUANTISERS]
    assert kinds == ["Conv", "Sigmoid", "Mul", "MaxPool", "Tanh", "Reshape", "Gemm"]
    for one in model.graph.node:
        if one.op_type in _QUANTISERS:
            continue
        readers = [other.op_type for other in model.graph.node if one.output[0] in other.input]
        assert readers == ["QuantizeLinear"]
        assert all(makers[name] == "DequantizeLinear" for name in one.input if name != "shape")
    zeros = {one.input[2] for one in model.graph.node if one.op_type == "QuantizeLinear"}
    assert {values[name].dtype for name in zeros} == {np.dtype(np.uint16)}
    assert values["w__conv__quantized"].dtype == values["v__gemm__quantized"].dtype == np.int8
    assert (values["w__conv__scale"].shape, values["v__gemm__scale"].shape) == ((8,), ())


def test_what_moves_keeps_its_scale_and_what_qnn_prescribes_is_exact(
    gated: Path, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """Promise: a pool has its input's scale; Sigmoid has 1/65536 and 0, Tanh 1/32768 and 32768, moved or not."""
    model = made(gated, images, tmp_path / "o.onnx")
    values = stored(model)
    scales = {one.input[0]: one.input[1:] for one in model.graph.node if one.op_type == "QuantizeLinear"}
    assert scales["p"] == scales["m"]
    assert scales["r"] == scales["t"]
    found = {name: (float(values[scales[name][0]]), int(values[scales[name][1]])) for name in "st"}
    assert found == {"s": (2.0**-16, 0), "t": (2.0**-15, 32768)}


def test_a_clamp_behind_a_prescribed_range_stays(save: Callable[..., Path]) -> None:
    """Promise: a Relu is left to the range of what it follows, but not behind a Sigmoid, whose range is not its own."""
    rng = np.random.default_rng(0)
    constants = {"w": on_grid(rng, 8, 3, 3, 3), "v": on_grid(rng, 8, 8, 1, 1)}
    nodes = [node("Conv", "x w", "c"), node("Sigmoid", "c", "s"), node("Relu", "s", "r")]
    nodes += [helper.make_node("Conv", ["r", "v"], ["y"], "last")]
    path = save(nodes, constants, outputs={"y": ["batch", 8, 6, 6]})
    graph = prepare(open_onnx(path)).graph
    assert place(graph, QNN).folded == frozenset()
    assert place(graph, replace(QNN, fixed_ranges=frozenset())).folded == {"relu"}


def test_learning_leaves_prescribed_scales(gated: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Promise: learned rounding and training of the file run on uint16, and leave the prescribed scales."""
    import torch

    start, rounded, trained = (tmp_path / f"{name}.onnx" for name in ("start", "rounded", "trained"))
    before = stored(made(gated, images, start))
    fixed = read_quantized(open_onnx(start)).fixed
    samples = CalibrationSet({"x": images}, batch_size=16)
    learn_rounding(gated, start, samples, rounded, steps=20, learn_biases=True, learn_scales=True)
    student = QuantizedStudent(gated, rounded)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        found = student(torch.from_numpy(images))[0]
        found.square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    student.write(trained)
    after = stored(open_onnx(trained))
    assert fixed == {"s__scale", "t__scale"}
    assert all(before[name] == after[name] for name in fixed)
    assert before["x__scale"] != after["x__scale"]
    Session(trained.read_bytes(), threads=1, optimize=False)


@pytest.mark.parametrize("method", ["minmax", "mse", "entropy"])
def test_no_chosen_range_cuts_off(gated: Path, images: NDArray[np.float32], method: str) -> None:
    """Promise: clipping costs more than 65,536 levels save: whatever method it starts from, it ends at the extremes."""
    samples = CalibrationSet({"x": images}, batch_size=16)
    table = collect(gated, samples, threads=1)
    ranges, choices = choose_ranges(gated, table, QNN, samples, method=method, threads=1)
    seen = table.ranges("minmax")
    for name in ("x", "c"):
        assert ranges[name][0] <= 0.999 * min(seen[name][0], 0.0)
        assert ranges[name][1] >= 0.999 * max(seen[name][1], 0.0)
    assert ranges["s"] == (0.0, 1.0 - 2.0**-16)
    assert {choice.tried for choice in choices if choice.tensor in {"s", "t"}} == {1}


def test_other_engines_are_told_which_node(gated: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """Promise: TensorRT's linter and that of providers in float name every Q and DQ of 16 bits, type and remedy."""
    model = made(gated, images, tmp_path / "o.onnx")
    wide = {one.name for one in model.graph.node if one.op_type in _QUANTISERS and "__bias" not in one.name}
    wide -= {"w__conv__DequantizeLinear", "v__gemm__DequantizeLinear"}
    for found in (lint_wide(model), [one for one in lint_tensorrt(model) if "uint16" in one.what]):
        assert {one.where.split("'")[1] for one in found} == wide
        assert all("uint16" in one.what and "scheme" in one.fix for one in found)
    assert lint_wide(made(gated, images, tmp_path / "o.onnx", ARM)) == []


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_the_newer_graph_has_the_same_names(save: Callable[..., Path], opset: int) -> None:
    """Promise: nodes and tensors of the graph in a newer opset are called as before, unnamed ones too."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[1]) if opset < 18 else helper.make_node("Abs", ["c"], ["m"]),
        helper.make_node("Split", ["m"], ["a", "b"], axis=2, **({} if opset < 18 else {"num_outputs": 2})),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]  # fmt: skip
    channels = 1 if opset < 18 else 8
    path = save(nodes, {"w": on_grid(rng, 8, 3, 3, 3)}, outputs={"y": ["batch", channels, 3, 6]}, opset=opset)
    old, new = prepare(open_onnx(path)), prepared_for(open_onnx(path), QNN)
    assert new.graph.opset_imports[""] == 21
    assert [(n.name, n.op_type, [v.name for v in n.outputs]) for n in new.graph] == [
        (n.name, n.op_type, [v.name for v in n.outputs]) for n in old.graph
    ]
    assert prepared_for(open_onnx(path), ARM).graph.opset_imports[""] == opset


def test_a_model_that_cannot_be_raised_says_so(gated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: what stands in the way of opset 21 is told, with what needs it and the way out."""

    def refuse(*_: object) -> onnx.ModelProto:
        raise RuntimeError("no adapter for Upsample")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    with pytest.raises(InputError, match=r"(?s)opset 17 .* 21, needed for uint16 .*'qnn-a16'.*no adapter.*opset 21"):
        prepared_for(open_onnx(gated), QNN)
    with pytest.raises(InputError, match="needed for bfloat16"):
        raised(open_onnx(gated), 22, "bfloat16")
