"""What layers take in float and in int8 on this machine: the figures behind `targets/costs.py`, one thread.

Each row is a chain of equal layers with Relu between them, float and as our Q/DQ file, or of conversions alone.

    layer_costs.py [--engine onnxruntime|openvino] [--scheme ort-x86]

Figures hold for CPUs of this machine's class only: `targets/costs.py` says which that was for each dialect.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.collect import collect
from calibration.qdq import quantize_model
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.scheme import scheme

LAYERS = 6
ROUNDS = 25
REPEATS = 10
Floats = NDArray[np.float32]
Call = Callable[[dict[str, NDArray[np.generic]]], object]


@dataclass(frozen=True, kw_only=True)
class Conv:
    """A chain of convolutions on ``size`` x ``size`` images; the first reads ``reads`` channels."""

    channels: int
    size: int
    kernel: int
    depthwise: bool = False
    reads: int = 0
    layers: int = LAYERS

    @property
    def macs(self) -> int:
        """Of all layers."""
        inner = [self.reads or self.channels] + [self.channels] * (self.layers - 1)
        fan_in = sum(1 if self.depthwise else count for count in inner)
        return self.channels * self.kernel**2 * self.size**2 * fan_in

    def model(self, random: np.random.Generator) -> tuple[onnx.ModelProto, Floats]:
        """The chain and samples."""
        nodes, constants, inner = [], [], self.reads or self.channels
        shape = ["batch", inner, self.size, self.size]
        for index in range(self.layers):
            fan_in = 1 if self.depthwise else inner
            weight = random.normal(size=(self.channels, fan_in, self.kernel, self.kernel)) / np.sqrt(
                fan_in * self.kernel**2
            )
            constants.append(numpy_helper.from_array(weight.astype(np.float32), f"w{index}"))
            constants.append(numpy_helper.from_array(np.zeros(self.channels, np.float32), f"b{index}"))
            pads = [self.kernel // 2] * 4
            group = self.channels if self.depthwise else 1
            source = f"y{index - 1}" if index else "x"
            nodes.append(
                helper.make_node("Conv", [source, f"w{index}", f"b{index}"], [f"c{index}"], pads=pads, group=group)
            )
            nodes.append(helper.make_node("Relu", [f"c{index}"], [f"y{index}"]))
            inner = self.channels
        out = ["batch", self.channels, self.size, self.size]
        return _model(nodes, constants, shape, out), random.normal(size=(32, *shape[1:])).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class MatMul:
    """A chain of products of ``rows`` x ``inner`` by ``inner`` x ``outer`` and back."""

    rows: int
    inner: int
    outer: int
    layers: int = LAYERS

    @property
    def macs(self) -> int:
        """Of all layers."""
        return self.layers * self.rows * self.inner * self.outer

    def model(self, random: np.random.Generator) -> tuple[onnx.ModelProto, Floats]:
        """The chain and samples."""
        nodes, constants = [], []
        for index in range(self.layers):
            sizes = (self.inner, self.outer) if index % 2 == 0 else (self.outer, self.inner)
            weight = (random.normal(size=sizes) / np.sqrt(sizes[0])).astype(np.float32)
            constants.append(numpy_helper.from_array(weight, f"w{index}"))
            nodes.append(helper.make_node("MatMul", [f"y{index - 1}" if index else "x", f"w{index}"], [f"c{index}"]))
            nodes.append(helper.make_node("Relu", [f"c{index}"], [f"y{index}"]))
        shape = ["batch", self.rows, self.inner]
        return _model(nodes, constants, shape, shape), random.normal(size=(32, *shape[1:])).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], shape: list[object], out: list[object]
) -> onnx.ModelProto:
    for index, node in enumerate(nodes):
        node.name = f"n{index}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, out)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


CASES: dict[str, Conv | MatMul] = {
    "dense conv 3x3, 16 channels, 32x32": Conv(channels=16, size=32, kernel=3),
    "dense conv 3x3, 64 channels, 8x8": Conv(channels=64, size=8, kernel=3),
    "dense conv 1x1, 64 channels, 16x16": Conv(channels=64, size=16, kernel=1),
    "dense conv 1x1, 128 channels, 28x28": Conv(channels=128, size=28, kernel=1),
    "matmul 32 x 64 x 64": MatMul(rows=32, inner=64, outer=64),
    "matmul 32 x 64 x 256": MatMul(rows=32, inner=64, outer=256),
    "matmul 128 x 256 x 256": MatMul(rows=128, inner=256, outer=256),
    "thin conv 3x3, 3 to 16 channels, 32x32": Conv(channels=16, size=32, kernel=3, reads=3, layers=1),
    "depthwise 3x3, 16 channels, 32x32": Conv(channels=16, size=32, kernel=3, depthwise=True),
    "depthwise 3x3, 64 channels, 16x16": Conv(channels=64, size=16, kernel=3, depthwise=True),
    "depthwise 3x3, 128 channels, 8x8": Conv(channels=128, size=8, kernel=3, depthwise=True),
}

IMAGES = ((16, 32), (32, 16), (64, 8))


def main() -> None:
    """Prints microseconds and 10^9 multiply-accumulates a second of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=[*OPENERS], default="onnxruntime")
    parser.add_argument("--scheme", default="ort-x86")
    asked = parser.parse_args()
    opener = OPENERS[asked.engine]
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            exact, rough = _times(case, Path(folder), random, asked.scheme, opener)
            rates = [case.macs / seconds / 1e9 for seconds in (exact, rough)]
            print(
                f"{name:<40} float {1e6 * exact:7.1f} us {rates[0]:6.1f} GMAC/s, "
                f"int8 {1e6 * rough:7.1f} us {rates[1]:6.1f} GMAC/s, ratio {rough / exact:.2f}",
                flush=True,
            )
        for operator in ("QuantizeLinear", "DequantizeLinear"):
            for values in (2_048, 16_384, 131_072):
                seconds = _conversion_s(operator, values, Path(folder), opener)
                print(f"{operator:<17} of {values:>7} values: {1e6 * seconds:.2f} us", flush=True)
        for channels, size in IMAGES:
            seconds = _around_image_s(channels, size, Path(folder), random, asked.scheme, opener)
            print(f"both, of {channels} x {size} x {size} images: {1e6 * seconds:.2f} us", flush=True)


def _open_onnxruntime(path: Path) -> Call:
    session = Session(path, threads=1, optimize=True)
    return lambda feed: session.run(None, feed)


def _open_openvino(path: Path) -> Call:
    from targets.ondevice.openvino_module import import_openvino

    core = import_openvino().Core()
    request = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1}).create_infer_request()
    infer: Call = request.infer
    return infer


OPENERS: dict[str, Callable[[Path], Call]] = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def _times(
    case: Conv | MatMul, folder: Path, random: np.random.Generator, dialect: str, opener: Callable[[Path], Call]
) -> tuple[float, float]:
    model, images = case.model(random)
    exact, rough = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, exact)
    samples = CalibrationSet({"x": images}, batch_size=8)
    quantize_model(exact, collect(exact, samples, threads=1), scheme(dialect), "minmax", rough)
    return _medians([exact, rough], images[:1], opener)


def _around_image_s(
    channels: int, size: int, folder: Path, random: np.random.Generator, dialect: str, opener: Callable[[Path], Call]
) -> float:
    """What int8 takes beside its layers more than float, as one and six of them tell: conversions, changed layouts."""
    one, six = (
        np.array(_times(Conv(channels=channels, size=size, kernel=3, layers=layers), folder, random, dialect, opener))
        for layers in (1, LAYERS)
    )
    exact, rough = one - (six - one) / (LAYERS - 1)
    return float(rough - exact)


def _conversion_s(operator: str, values: int, folder: Path, opener: Callable[[Path], Call]) -> float:
    """Seconds of one node: eight more of them against one."""
    quantizes = operator == "QuantizeLinear"
    kinds = (TensorProto.FLOAT, TensorProto.UINT8) if quantizes else (TensorProto.UINT8, TensorProto.FLOAT)
    constants = [numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    paths = []
    for count in (1, 9):
        nodes = [helper.make_node(operator, ["x", "s", "z"], [f"y{i}"]) for i in range(count)]
        outputs = [helper.make_tensor_value_info(f"y{i}", kinds[1], [values]) for i in range(count)]
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", kinds[0], [values])], outputs, constants
        )
        paths.append(folder / f"{count}.onnx")
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), paths[-1])
    one, nine = _medians(paths, np.zeros(values, np.float32 if quantizes else np.uint8), opener)
    return (nine - one) / 8


def _medians(paths: list[Path], feed: NDArray[np.generic], opener: Callable[[Path], Call]) -> tuple[float, float]:
    """Median over rounds of the best of ten calls, interleaved."""
    calls: list[Callable[[], object]] = []
    for path in paths:
        opened = opener(path)
        calls.append(lambda opened=opened: opened({"x": feed}))  # type: ignore[misc]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, times in zip(calls, found, strict=True):
            call()
            times.append(min(_seconds(call) for _ in range(REPEATS)))
    return float(np.median(found[0])), float(np.median(found[1]))


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
