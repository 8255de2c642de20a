"""A read-only view of an ONNX graph with Q/DQ: what linters ask of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from targets.errors import Fault
from targets.onnxtensors import tensor_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from numpy.typing import NDArray

    from targets.onnxfile import ModelIo

QUANTIZE: Final = "QuantizeLinear"
DEQUANTIZE: Final = "DequantizeLinear"
COMPUTE: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
OPERATOR_FORMAT: Final = ("QLinear", "QGemm", "QAttention", "QEmbed", "QMoE", "QOrdered")
DYNAMIC_FORMAT: Final = (
    *("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
)
_WEIGHT, _BIAS, _ZERO_POINT = 1, 2, 2
_MOST_CHANNELS: Final = 1 << 20


@final
class GraphView:
    """Nodes, constants and types of the main graph of an opened model.

    Args:
        model: What `targets.onnxfile` gave.
        path: Its file, where large weights may still lie outside the graph.
    """

    def __init__(self, model: onnx.ModelProto, path: Path | None = None) -> None:
        import onnx

        self._path = path
        self._external = onnx.external_data_helper.uses_external_data
        graph = model.graph
        self.opset = next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 0)
        self.nodes = [*graph.node]
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in filter(None, node.input):
                self._readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        self._types = {value.name: int(value.type.tensor_type.elem_type) for value in (*graph.input, *graph.value_info)}

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """The array of an initializer or Constant node, or one number of them that is laid out along channels.

        None for anything else, and for data outside a file that is not known.
        """
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Expand":
            return self._laid_out(maker)
        return self._written(name)

    def _written(self, name: str) -> NDArray[np.generic] | None:
        tensor = self._tensor(name)
        if tensor is None or (self._path is None and self._external(tensor)):
            return None
        return tensor_array(self._path or Path(), tensor)

    def _tensor(self, name: str) -> onnx.TensorProto | None:
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Constant":
            return next((a.t for a in maker.attribute if a.name == "value"), None)
        return self._initializers.get(name)

    def _laid_out(self, node: onnx.NodeProto) -> NDArray[np.generic] | None:
        one, sizes = (self._written(name) for name in node.input[:2])
        if one is None or sizes is None or one.size != 1 or sizes.shape != (1,) or not 0 < sizes[0] <= _MOST_CHANNELS:
            return None
        return np.broadcast_to(one.reshape(1), (int(sizes[0]),))

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that writes a tensor."""
        return self._makers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return self._readers.get(name, [])

    def type_of(self, name: str) -> str | None:
        """Numpy's name of a tensor's element type, None where the file does not say it."""
        import onnx

        tensor, maker = self._tensor(name), self._makers.get(name)
        if tensor is None and maker is not None and maker.op_type == "Expand":  # it lays out what it reads
            tensor = self._tensor(maker.input[0])
        if tensor is not None:
            number = tensor.data_type
        elif maker is not None and maker.op_type == DEQUANTIZE:  # it gives the type of its scale
            return self.type_of(maker.input[1])
        else:
            number = self._types.get(name, 0)
        try:
            return str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
        except KeyError:
            return None

    def quantisers(self) -> Iterator[onnx.NodeProto]:
        """Every QuantizeLinear and DequantizeLinear."""
        yield from (node for node in self.nodes if node.op_type in {QUANTIZE, DEQUANTIZE})

    def dequantised(self, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
        """The DequantizeLinear that writes an input of a node."""
        maker = self.maker(node.input[index]) if len(node.input) > index else None
        return maker if maker is not None and maker.op_type == DEQUANTIZE else None

    def stored(self, node: onnx.NodeProto, index: int) -> NDArray[np.generic] | None:
        """The integers of a constant behind a DequantizeLinear that a node reads."""
        maker = self.dequantised(node, index)
        return None if maker is None else self.constant(maker.input[0])

    def zero_point(self, quantiser: onnx.NodeProto) -> NDArray[np.generic] | None:
        """The constant zero point of a Q or DQ; None where there is none."""
        return self.constant(quantiser.input[_ZERO_POINT]) if len(quantiser.input) > _ZERO_POINT else None

    def integer_type(self, quantiser: onnx.NodeProto) -> str | None:
        """The integer type of a Q or DQ: of its zero point, else of what it reads; uint8 for a bare Q."""
        zero = self.zero_point(quantiser)
        if zero is not None:
            return str(zero.dtype)
        if quantiser.op_type == QUANTIZE:
            return "uint8"
        maker = self.maker(quantiser.input[0])
        if maker is not None and maker.op_type == QUANTIZE:
            return self.integer_type(maker)
        return self.type_of(quantiser.input[0])

    def reads_integers(self, node: onnx.NodeProto) -> bool:
        """Whether a compute node reads its activation and its weight behind DequantizeLinear."""
        return node.op_type in COMPUTE and all(self.dequantised(node, index) is not None for index in (0, _WEIGHT))

    def gives_integers(self, node: onnx.NodeProto) -> bool:
        """Whether the only reader of a node's only output is a QuantizeLinear."""
        name = node.output[0]
        readers = self.readers(name)
        return name not in self.outputs and len(readers) == 1 and readers[0].op_type == QUANTIZE


def fault(node: onnx.NodeProto, what: str, fix: str) -> Fault:
    """A fault that names a node."""
    return Fault(where=f"node {node.name or node.output[0]!r} ({node.op_type})", what=what, fix=fix)


def scale_faults(view: GraphView) -> list[Fault]:
    """Scales that are no positive finite numbers, and scales and zero points whose sizes do not fit."""
    found = []
    for node in view.quantisers():
        scale, zero = view.constant(node.input[1]), view.zero_point(node)
        if scale is None:
            found.append(fault(node, "its scale is not a constant", "quantise again: scales are fixed numbers"))
            continue
        values = scale.astype(np.float64)
        if not (np.isfinite(values).all() and (values > 0).all()):
            worst = float(values.reshape(-1)[np.argmin(np.where(np.isfinite(values), values, -np.inf))])
            what = f"its scale {node.input[1]!r} holds {worst:g}; scales must be positive"
            found.append(fault(node, what, "give constant tensors and dead channels a small positive scale"))
        if zero is not None and zero.size != scale.size:
            what = f"its zero point has {zero.size} values and its scale {scale.size}"
            found.append(fault(node, what, "write one zero point for each scale"))
    return found


def interface_faults(name: str, io: ModelIo) -> list[Fault]:
    """Inputs and outputs that no engine takes: a free axis other than the batch, no batch axis, no output.

    Args:
        name: The model's file name.
        io: Its inputs and outputs.
    """
    faults = [
        Fault(
            where=f"input {spec['name']!r}",
            what=f"axis {axis} has no fixed size ({size!r})",
            fix="export the model with a free batch axis only",
        )
        for spec in io["inputs"]
        for axis, size in enumerate(spec["shape"])
        if axis and not isinstance(size, int)
    ]
    faults += [
        Fault(
            where=f"output {spec['name']!r}",
            what="it is one number for a whole batch",
            fix="export the model so that every output has a batch axis",
        )
        for spec in io["outputs"]
        if not spec["shape"]
    ]
    if not io["outputs"]:
        faults.append(Fault(where=name, what="it has no output", fix="export the model again"))
    return faults
