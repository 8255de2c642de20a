"""Whole graphs in the torch executor: against ONNX Runtime, and their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from calibration.collect import collect
from calibration.qdq import quantize_model, snr_db
from calibration.samples import CalibrationSet
from calibration.session import Session
from calibration.torchexec import TorchGraph
from calibration.torchops_quant import fake_quantise
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLES = 1000


def transformer() -> tuple[list[onnx.NodeProto], dict[str, Any], dict[str, Any]]:
    """One encoder layer with two heads over (batch, 6, 16), pooled to 5 classes."""
    rng = np.random.default_rng(3)
    constants: dict[str, Any] = {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in {
            "q.weight": (16, 16),
            "k.weight": (16, 16),
            "v.weight": (16, 16),
            "o.weight": (16, 16),
            "up.weight": (16, 32),
            "down.weight": (32, 16),
            "head.weight": (16, 5),
        }.items()
    }
    constants |= {
        "gain": np.ones(16, np.float32),
        "shift": np.zeros(16, np.float32),
        "split": np.array([0, 6, 2, 8], np.int64),
        "join": np.array([0, 6, 16], np.int64),
        "scale": np.float32(8**-0.5),
        "axes": np.array([1], np.int64),
        "up.bias": rng.standard_normal(32).astype(np.float32) * 0.1,
    }
    nodes = []
    for part in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"{part}.weight"], [f"{part}0"], f"{part}_proj"),
            helper.make_node("Reshape", [f"{part}0", "split"], [f"{part}1"], f"{part}_split"),
            helper.make_node(
                "Transpose",
                [f"{part}1"],
                [f"{part}2"],
                f"{part}_heads",
                perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3],
            ),
        ]
    nodes += [
        helper.make_node("MatMul", ["q2", "k2"], ["scores"], "scores"),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"], "scaled"),
        helper.make_node("Softmax", ["scaled"], ["attention"], "attention", axis=-1),
        helper.make_node("MatMul", ["attention", "v2"], ["mixed"], "mix"),
        helper.make_node("Transpose", ["mixed"], ["mixed1"], "unheads", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed1", "join"], ["mixed2"], "join_heads"),
        helper.make_node("MatMul", ["mixed2", "o.weight"], ["o0"], "o_proj"),
        helper.make_node("Add", ["x", "o0"], ["sum0"], "sum0"),
        helper.make_node("LayerNormalization", ["sum0", "gain", "shift"], ["norm"], "norm", axis=-1),
        helper.make_node("MatMul", ["norm", "up.weight"], ["up0"], "up"),
        helper.make_node("Add", ["up0", "up.bias"], ["up1"], "up_bias"),
        helper.make_node("Gelu", ["up1"], ["up2"], "gelu"),
        helper.make_node("MatMul", ["up2", "down.weight"], ["down0"], "down"),
        helper.make_node("Add", ["norm", "down0"], ["sum1"], "sum1"),
        helper.make_node("ReduceMean", ["sum1", "axes"], ["pooled"], "pool", keepdims=0),
        helper.make_node("Gemm", ["pooled", "head.weight"], ["y"], "head"),
    ]
    return nodes, constants, {"inputs": {"x": ["batch", 6, 16]}, "outputs": {"y": ["batch", 5]}}


def tagger() -> tuple[list[onnx.NodeProto], dict[str, Any], dict[str, Any]]:
    """A bidirectional GRU over (batch, 7, 6) that tags each step with one of 4 classes."""
    rng = np.random.default_rng(4)
    constants: dict[str, Any] = {
        "inner.weight": rng.standard_normal((6, 8)).astype(np.float32) * 0.5,
        "gru.w": rng.standard_normal((2, 24, 8)).astype(np.float32) * 0.4,
        "gru.r": rng.standard_normal((2, 24, 8)).astype(np.float32) * 0.3,
        "gru.b": rng.standard_normal((2, 48)).astype(np.float32) * 0.1,
        "shape": np.array([0, 0, 16], np.int64),
        "tag.weight": rng.standard_normal((16, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "inner.weight"], ["a"], "inner"),
        helper.make_node("Transpose", ["a"], ["b"], "steps_first", perm=[1, 0, 2]),
        helper.make_node(
            "GRU",
            ["b", "gru.w", "gru.r", "gru.b"],
            ["c", ""],
            "gru",
            hidden_size=8,
            direction="bidirectional",
            linear_before_reset=1,
        ),
        helper.make_node("Transpose", ["c"], ["d"], "batch_first", perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["d", "shape"], ["e"], "join"),
        helper.make_node("MatMul", ["e", "tag.weight"], ["y"], "tag"),
    ]
    return nodes, constants, {"inputs": {"x": ["batch", 7, 6]}, "outputs": {"y": ["batch", 7, 4]}}


@pytest.fixture(params=["residual", "transformer", "tagger"])
def net(request: pytest.FixtureRequest, residual: Path, save: Callable[..., Path]) -> tuple[Path, np.ndarray]:
    """A float net and samples for it."""
    rng = np.random.default_rng(5)
    if request.param == "residual":
        return residual, rng.standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)
    nodes, constants, options = (transformer if request.param == "transformer" else tagger)()
    shape = options["inputs"]["x"][1:]
    return save(nodes, constants, **options), rng.standard_normal((SAMPLES, *shape)).astype(np.float32)


def agree(path: Path, samples: np.ndarray, *, optimize: bool) -> tuple[float, float]:
    """SNR and share of equal classes between torch and ONNX Runtime."""
    model = open_onnx(path)
    wanted = Session(model.SerializeToString(), threads=1, optimize=optimize).run(None, {"x": samples})[0]
    with torch.no_grad():
        found = TorchGraph(model)({"x": torch.from_numpy(samples)})["y"].numpy()
    assert found.shape == wanted.shape
    return snr_db(wanted, found), float((wanted.argmax(-1) == found.argmax(-1)).mean())


def test_float_nets_agree_with_onnx_runtime(net: tuple[Path, np.ndarray]) -> None:
    """Promise: convolutional, attention and recurrent nets give what ONNX Runtime gives, to rounding of float32."""
    snr, same = agree(*net, optimize=True)
    assert snr > 100
    assert same > 0.999


@pytest.mark.parametrize("dialect", ["ort-x86", "ort-arm64", "qnn-a16"])
@pytest.mark.parametrize("optimize", [False, True])
def test_quantised_nets_agree_with_onnx_runtime(
    net: tuple[Path, np.ndarray], tmp_path: Path, dialect: str, *, optimize: bool
) -> None:
    """Promise: over 1,000 samples a Q/DQ net is within 35 dB and 99 % of classes of ONNX Runtime, fused or not."""
    path, samples = net
    table = collect(path, CalibrationSet({"x": samples[:64]}, batch_size=32), threads=1, methods=["minmax"])
    out = tmp_path / "quantised.onnx"
    quantize_model(path, table, scheme(dialect), "minmax", out)
    snr, same = agree(out, samples, optimize=optimize)
    assert snr >= 35
    assert same >= 0.99


def test_each_quantised_node_is_within_one_step(residual: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Promise: fed the same inputs, no node between two Q/DQ differs from ONNX Runtime by more than one step."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=20), threads=1, methods=["minmax"])
    out = tmp_path / "quantised.onnx"
    quantize_model(residual, table, scheme("ort-x86"), "minmax", out)
    model = open_onnx(out)
    steps = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in steps)
    exposed = onnx.shape_inference.infer_shapes(exposed)
    names = [node.output[0] for node in steps]
    wanted = dict(
        zip(
            names,
            Session(exposed.SerializeToString(), threads=1, optimize=False).run(names, {"x": images}),
            strict=True,
        )
    )
    graph = TorchGraph(model)
    for node in steps:
        given = {n: torch.from_numpy(v.astype(np.float32)) for n, v in wanted.items() if n != node.output[0]}
        with torch.no_grad():
            found = graph({"x": torch.from_numpy(images)}, given=given, wanted=node.output)[node.output[0]]
        assert np.abs(found.numpy() - wanted[node.output[0]].astype(np.float32)).max() <= 1


def test_scales_get_the_gradient_of_learned_step_size() -> None:
    """Promise: values inside give round(v / s) - v / s, values outside the limit (LSQ, arXiv 1902.08153, eq. 3)."""
    values = torch.tensor([0.26, -0.13, 5.0, -7.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    result = fake_quantise(values, scale, torch.tensor(3.0), -8, 7)
    torch.testing.assert_close(result, torch.tensor([0.3, -0.1, 0.4, -1.1]))
    slopes = [3 - 2.6, -1 + 1.3, 4.0, -11.0]
    for index, slope in enumerate(slopes):
        scale.grad = values.grad = None
        fake_quantise(values, scale, torch.tensor(3.0), -8, 7)[index].backward()
        assert scale.grad is not None
        assert values.grad is not None
        torch.testing.assert_close(scale.grad, torch.tensor(slope))
        torch.testing.assert_close(values.grad, torch.eye(4)[index] * (index < 2))


def test_channel_scales_get_their_own_gradients() -> None:
    """Promise: with one scale for each channel, each gets the gradient of its channel alone."""
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([[0.1], [0.2], [0.3]], requires_grad=True)
    fake_quantise(values, scales, torch.zeros(()), -4, 4).sum().backward()
    for row in range(3):
        single = scales.detach()[row].clone().requires_grad_()
        fake_quantise(values[row], single, torch.zeros(()), -4, 4).sum().backward()
        assert scales.grad is not None
        torch.testing.assert_close(scales.grad[row], single.grad)


def test_separate_and_fused_quantisation_have_the_same_gradients() -> None:
    """Promise: integers moved between Q and DQ get the same gradients as a Q that is read back at once."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["fused"], "dq"),
        helper.make_node("Transpose", ["q"], ["t"], "t", perm=[0, 1]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["moved"], "dq2"),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.float32(0.05), "s"),
        onnx.numpy_helper.from_array(np.uint8(100), "z"),
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in ("fused", "moved")]
    graph = helper.make_graph(nodes, "two", [onnx.ValueInfoProto(name="x")], outputs, constants)
    run = TorchGraph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    found = []
    for name in ("fused", "moved"):
        x = (torch.arange(-40, 40).reshape(8, 10) * 0.17).requires_grad_()
        scale = torch.tensor(0.05, requires_grad=True)
        result = run({"x": x}, given={"s": scale}, wanted=[name])[name]
        (result * torch.arange(10)).sum().backward()
        found.append((result.detach(), x.grad, scale.grad))
    for fused, moved in zip(*found, strict=True):
        torch.testing.assert_close(fused, moved)


def test_any_tensor_can_be_given_and_asked_for(residual: Path, images: np.ndarray) -> None:
    """Promise: a piece of the graph run from its inner input gives what the whole graph gives there."""
    graph = TorchGraph(open_onnx(residual))
    feeds = {"x": torch.from_numpy(images)}
    whole = graph(feeds, wanted=["b", "i", "y"])
    torch.testing.assert_close(graph({"b": whole["b"]})["y"], whole["y"])
    assert graph.path(["b"], ["i"])[0] == "c"
    with pytest.raises(InputError, match="to compute"):
        graph({}, wanted=["y"])


def test_float_weights_train_when_told_so(residual: Path, images: np.ndarray) -> None:
    """Promise: initializers are parameters without gradient until one is asked for."""
    graph = TorchGraph(open_onnx(residual))
    weight = graph.parameter("head.weight").requires_grad_()
    graph({"x": torch.from_numpy(images)})["y"].square().sum().backward()
    assert [p.grad is not None for p in graph.parameters()].count(True) == 1
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
