"""ONNX models and samples that cannot be quantised: three lines and the right exit code, through the whole program."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[Path], None]
INPUT, REFUSED = 3, 4
RECIPE = """
task = "fidelity"
threads = 1
[model]
onnx = "net.onnx"
[data]
npz = "data.npz"
[build]
candidates = ["fp32", "int8"]
[benchmark]
measure = false
"""


def _net(nodes: list[onnx.NodeProto], opset: int = 17) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(4, 1, 3, 3)) * 0.3, "v": rng.normal(size=(144, 3)) * 0.1}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items() if name in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _nodes(*between: str) -> list[onnx.NodeProto]:
    """Convolution, operators of one input each, and a product."""
    names = ["c", *(f"m{index}" for index in range(len(between)))]
    return [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        *(helper.make_node(op, [names[i]], [names[i + 1]], op.lower()) for i, op in enumerate(between)),
        helper.make_node("Flatten", [names[-1]], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "v"], ["y"], "head"),
    ]


def _samples() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(120, 1, 8, 8)).astype(np.float32)


def _quantised(folder: Path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(0.05), "s"), numpy_helper.from_array(np.int8(0), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise_x"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], "read_x"),
        *_nodes("Relu"),
    ]
    nodes[2].input[0] = "d"
    model = _net(nodes)
    model.graph.initializer.extend([scale, zero])
    onnx.save(model, folder / "net.onnx")


def _old(folder: Path) -> None:
    onnx.save(_net(_nodes("Relu"), opset=10), folder / "net.onnx")


def _logarithm(folder: Path) -> None:
    onnx.save(_net(_nodes("Relu", "Log", "Neg")), folder / "net.onnx")


def _nothing_to_quantise(folder: Path) -> None:
    nodes = [helper.make_node("Flatten", ["x"], ["f"], "flatten"), helper.make_node("Softmax", ["f"], ["y"], "softmax")]
    onnx.save(_net(nodes), folder / "net.onnx")


def _outside(folder: Path) -> None:
    model = _net(_nodes("Relu"))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "v")
    (folder.parent / "stolen.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../stolen.bin")
    (folder / "net.onnx").write_bytes(model.SerializeToString())


def _no_samples(folder: Path) -> None:
    np.savez(folder / "data.npz", x=_samples()[:0])


def _other_name(folder: Path) -> None:
    np.savez(folder / "data.npz", picture=_samples())


def _other_type(folder: Path) -> None:
    np.savez(folder / "data.npz", x=_samples().astype(np.float64))


def _other_shape(folder: Path) -> None:
    np.savez(folder / "data.npz", x=_samples().reshape(120, 1, 4, 16))


def _poisoned(folder: Path) -> None:
    samples = _samples()
    samples[7, 0, 2, 3] = np.inf
    np.savez(folder / "data.npz", x=samples)


FIRST_ROW = int(np.random.default_rng(0).permutation(len(_samples()))[0])
"""The row of the file that the first calibration sample is, for the recipe's seed: each sample breaks there."""

CASES: dict[str, tuple[Change, int, list[str]]] = {
    "quantised already": (_quantised, INPUT, ["quantised already", "'quantise_x'", "start from the float ONNX file"]),
    "opset 10": (_old, INPUT, ["opset 10", "11 to 23"]),
    "NaN or Inf inside": (_logarithm, INPUT, [f"'m1' becomes NaN or Inf at sample {FIRST_ROW}"]),
    "nothing to quantise": (_nothing_to_quantise, INPUT, ["no node of model.onnx can run in int8", "ort-"]),
    "external data outside": (_outside, REFUSED, ["'v'", "../stolen.bin"]),
    "no samples": (_no_samples, INPUT, ["too few samples: 0", "'calibration' would be empty"]),
    "another name": (_other_name, INPUT, ["the data has inputs picture", "the model takes x"]),
    "another dtype": (_other_type, INPUT, ["float32", "float64"]),
    "another shape": (_other_shape, INPUT, ["1, 8, 8", "1, 4, 16"]),
    "NaN or Inf in the data": (_poisoned, INPUT, ["NaN or Inf", "number 7"]),
}


@pytest.mark.parametrize(("change", "code", "expected"), CASES.values(), ids=CASES.keys())
def test_it_is_said_in_three_lines(change: Change, code: int, expected: list[str], inline: Run, tmp_path: Path) -> None:
    """Error, why and fix name what is wrong on both sides; no results are written."""
    folder, out = tmp_path / "project", tmp_path / "out"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    onnx.save(_net(_nodes("Relu")), folder / "net.onnx")
    np.savez(folder / "data.npz", x=_samples())
    change(folder)
    done = inline("run", folder, "--out", out, store=tmp_path / "store")
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()[-3:]
    assert [line.split(":")[0] for line in lines] == ["error", "  why", "  fix"], done.stderr
    assert "Traceback" not in done.stderr
    for words in expected:
        assert words in "\n".join(lines), done.stderr
    assert not out.exists() or not [*out.rglob("bundle*")]
