"""What a machine is probed with: a small convolutional net and a small net of matrix products, or the user's model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

_OPSET: Final = 17
_IR_VERSION: Final = 9
SAMPLES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """One float model to build and time.

    Attributes:
        name: How results call it.
        model: The ONNX file.
        inputs: Drawn samples by input name, ``(samples, ...)``.
    """

    name: str
    model: Path
    inputs: Mapping[str, npt.NDArray[Any]]


def synthetic_nets(folder: Path) -> tuple[Net, ...]:
    """The two nets, written into ``folder``; the same bytes every time."""
    return tuple(
        _written(name, model, folder)
        for name, model in (("convolutions", convolutions()), ("products", matrix_products()))
    )


def own_net(model: Path) -> Net:
    """The user's float model, with drawn samples of the shapes it declares; integers are 0 or 1.

    Raises:
        InputError: It is no ONNX model, or an axis beside the batch has no fixed size.
    """
    path = model.absolute()  # engines are built in children, whose folder is another
    return Net(name=model.stem, model=path, inputs=_drawn(open_onnx(path)))


def _written(name: str, model: onnx.ModelProto, folder: Path) -> Net:
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return Net(name=name, model=path, inputs=_drawn(model))


def _drawn(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    generator = np.random.default_rng(0)
    drawn: dict[str, npt.NDArray[Any]] = {}
    for item in io_of(model)["inputs"]:
        name, dtype, sizes = str(item["name"]), np.dtype(str(item["dtype"])), item["shape"][1:]
        free = [size for size in sizes if not isinstance(size, int)]
        if free:
            raise InputError(
                f"input {name!r} has no fixed size",
                f"its axis {free[0]!r} may be anything, so there is nothing to time",
                "export the model with a free batch axis only",
            )
        shape = (SAMPLES, *(int(size) for size in sizes))
        floating = np.issubdtype(dtype, np.floating)
        drawn[name] = (generator.standard_normal(shape) if floating else generator.integers(0, 2, shape)).astype(dtype)
    return drawn


def convolutions() -> onnx.ModelProto:
    """61 M multiply-accumulates on one 3x96x96 image: dense, depthwise and 1x1 convolutions, a residual sum."""
    net = _Builder()
    stem = net.conv("x", 3, 32, kernel=3, stride=2)
    wide = net.conv(stem, 32, 64, kernel=3, stride=2)
    inner = net.conv(net.conv(wide, 64, 64, kernel=3), 64, 64, kernel=3, relu=False)
    joined = net.op("Relu", [net.op("Add", [wide, inner])])
    apart = net.conv(net.conv(joined, 64, 64, kernel=3, stride=2, groups=64), 64, 128, kernel=1)
    last = net.conv(net.conv(apart, 128, 128, kernel=3, groups=128), 128, 256, kernel=1)
    pooled = net.op("Flatten", [net.op("GlobalAveragePool", [last])])
    net.op("Gemm", [pooled, net.weight((10, 256)), net.bias(10)], target="y", transB=1)
    return net.model([1, 3, 96, 96], [1, 10])


def matrix_products() -> onnx.ModelProto:
    """34 M multiply-accumulates on 64 tokens of 256 numbers: two blocks of two products, with residual sums."""
    net = _Builder()
    tokens = "x"
    for _ in range(2):
        wide = net.op("Relu", [net.op("Add", [net.op("MatMul", [tokens, net.weight((256, 512))]), net.bias(512)])])
        inner = net.op("Add", [net.op("MatMul", [wide, net.weight((512, 256))]), net.bias(256)])
        tokens = net.op("Add", [tokens, inner])
    net.op("MatMul", [tokens, net.weight((256, 16))], target="y")
    return net.model([1, 64, 256], [1, 64, 16])


@final
class _Builder:
    """Nodes and drawn weights of one graph, each with a name of its own."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._generator = np.random.default_rng(0)

    def op(self, kind: str, inputs: Sequence[str], *, target: str = "", **attributes: int | list[int]) -> str:
        """One node; returns the name of its output."""
        made = target or f"t{len(self._nodes)}"
        name = f"{kind.lower()}{len(self._nodes)}"
        node = helper.make_node(kind, list(inputs), [made], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        return made

    def conv(
        self, source: str, channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        """A convolution with bias that keeps the size (but for its stride), and a Relu."""
        weight = self.weight((out, channels // groups, kernel, kernel), reads=channels // groups * kernel**2)
        inputs, square = [source, weight, self.bias(out)], [kernel] * 2
        pads, strides = [kernel // 2] * 4, [stride] * 2
        made = self.op("Conv", inputs, kernel_shape=square, pads=pads, strides=strides, group=groups)
        return self.op("Relu", [made]) if relu else made

    def weight(self, shape: tuple[int, ...], *, reads: int | None = None) -> str:
        """A drawn weight whose outputs stay of the size of its inputs."""
        scale = 1 / math.sqrt(reads or max(shape))
        return self._store((self._generator.standard_normal(shape) * scale).astype(np.float32))

    def bias(self, size: int) -> str:
        """A drawn bias."""
        return self._store((self._generator.standard_normal(size) * 0.1).astype(np.float32))

    def model(self, read: Sequence[int], written: Sequence[int]) -> onnx.ModelProto:
        """The graph from ``x`` to ``y``."""
        graph = helper.make_graph(
            self._nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(read))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(written))],
            self._stored,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="edgepress")
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _store(self, array: npt.NDArray[np.float32]) -> str:
        name = f"w{len(self._stored)}"
        self._stored.append(numpy_helper.from_array(array, name))
        return name
