"""Converts a model to float16 or bfloat16 where that is safe, with as few casts as possible.

Operators that add up many values or grow exponentially are protected and stay float32, as does every node that touches
a tensor which goes beyond float16 on the calibration samples. A model with Q/DQ (scheme ``trt``) may be converted too:
from opset 19 on its scales become 16-bit with the rest, as TensorRT wants them beside 16-bit operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from calibration.formats import FormatReport, finish, open_prepared, size_bytes
from calibration.half_rules import HALVES, PROTECTED, Half, Ports, follow, hindrance, ports
from calibration.masks import infinite_tensors
from calibration.modelfile import open_float, runnable
from calibration.opsets import raised
from calibration.prepare import constant, main_nodes, set_initializer
from calibration.qdq import snr_db
from calibration.session import Session
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Array = NDArray[np.generic]

_SCALE_OPSET: Final = 19
_BFLOAT16_OPSET: Final = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfSettings:
    """How to convert.

    Attributes:
        dtype: ``float16`` (11 bits, up to 65,504) or ``bfloat16`` (8 bits, range of float32; opset 22 is written).
        keep_io: Inputs and outputs of the model stay float32.
        protected: Operators that stay float32.
        headroom: A tensor counts as beyond the range when this times its largest sample value is.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"
    keep_io: bool = True
    protected: frozenset[str] = PROTECTED
    headroom: float = 2.0


def convert_half(
    source: Path | onnx.ModelProto,
    out_path: Path,
    settings: HalfSettings | None = None,
    *,
    samples: Iterable[Mapping[str, Array]] | None = None,
    threads: int = 1,
) -> FormatReport:
    """Writes the model in 16-bit floating point; the same arguments give the same bytes.

    Args:
        source: A float model, or one with Q/DQ in opset 19 or newer.
        out_path: The file to write.
        settings: What to convert to; float16 by default.
        samples: Batches, such as a `CalibrationSet`, to find what overflows; None looks at constants only.
        threads: Threads inside one operator, for running the samples.

    Raises:
        InputError: The type or opset is not possible, the model is in operator format, a sample makes NaN or Inf, or
            no node can be converted.
    """
    given = settings or HalfSettings()
    half = _half(given)
    reopen = _opener(source, half)
    model = reopen()
    before = size_bytes(model)
    beyond = _beyond(reopen(), samples, half.largest / given.headroom, threads) if samples is not None else set[str]()
    writer = _Writer(model.graph, half, keep_io=given.keep_io)
    writer.decide(beyond, given.protected)
    writer.write()
    return finish(
        model,
        out_path,
        what=f"compute in {half.name}",
        fix="keep the model in float32: take this format out of quantize.formats or build.candidates",
        changed=writer.changed,
        left=writer.kept,
        before_bytes=before,
        snr_db=writer.snr_db,
    )


def _half(settings: HalfSettings) -> Half:
    if settings.dtype not in HALVES or not settings.headroom >= 1.0:
        raise InputError(
            f"dtype {settings.dtype!r} with headroom {settings.headroom} was asked for",
            "there are float16 and bfloat16, and a headroom is at least 1",
            "see HalfSettings",
        )
    return HALVES[settings.dtype]


def _opener(source: Path | onnx.ModelProto, half: Half) -> Callable[[], ir.Model]:
    """Opens the graph afresh at each call: prepared where it is float, as it is where it has Q/DQ."""
    proto = source if isinstance(source, onnx.ModelProto) else open_float(source)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"})
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        if opset < _SCALE_OPSET:
            raise InputError(
                f"the model has Q/DQ and opset {opset}",
                f"scales in {half.name} exist from opset {_SCALE_OPSET} on",
                f"export the float model with opset {_SCALE_OPSET} or newer and quantise it again",
            )
        shaped = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        return lambda: ir.from_proto(shaped)
    if half.name == "bfloat16" and opset < _BFLOAT16_OPSET:
        proto = raised(proto, _BFLOAT16_OPSET, half.name)
    return lambda: open_prepared(proto)


def _beyond(model: ir.Model, samples: Iterable[Mapping[str, Array]], limit: float, threads: int) -> set[str]:
    """Tensors whose magnitude exceeds the limit on some sample; masks of -inf, which 16 bits have too, do not count."""
    graph, made = model.graph, {}
    infinite = infinite_tensors(graph)
    for value in [*graph.inputs, *(value for node in main_nodes(graph) for value in node.outputs)]:
        if value.dtype == ir.DataType.FLOAT and value.name and value.name not in infinite:
            size = ir.node("Abs", [value])
            reduced = ir.node("ReduceMax", [size.outputs[0]], {"keepdims": 0})
            made[str(value.name)] = reduced.outputs[0]
            graph.append(size)
            graph.append(reduced)
    for name, value in made.items():
        value.name, value.type = f"{name}__largest", ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)
    found: set[str] = set()
    with runnable(model) as file:
        session = Session(file, threads=threads, optimize=False)
        for index, batch in enumerate(samples):
            largest = session.run([f"{name}__largest" for name in made], batch)
            for name, most in zip(made, largest, strict=True):
                if not np.isfinite(np.asarray(most, np.float32)).all():
                    raise InputError(
                        f"activation {name!r} becomes NaN or Inf in batch {index}",
                        "the float model overflows or divides by zero there",
                        "look at the batch and its preprocessing, or repair the model",
                    )
                if float(np.asarray(most, np.float32).max()) > limit:
                    found.add(name)
    return found


@final
class _Writer:
    def __init__(self, graph: ir.Graph, half: Half, *, keep_io: bool) -> None:
        self._graph, self._half, self._keep_io = graph, half, keep_io
        self._ports: dict[str, Ports] = {}
        self.kept: dict[str, str] = {}
        self.changed: dict[str, str] = {}
        self.snr_db: dict[str, float] = {}

    def decide(self, beyond: set[str], protected: frozenset[str]) -> None:
        opset = self._graph.opset_imports[""]
        for node in main_nodes(self._graph):
            name = str(node.name)
            found = ports(node, opset, self._half)
            if isinstance(found, str):
                self.kept[name] = found
            elif found.inputs or found.outputs:
                self._ports[name] = found
                why = hindrance(node, found, self._half, beyond, protected)
                if why:
                    self.kept[name] = why
        for node in main_nodes(
            self._graph
        ):  # in topological order: what reads a float32 DequantizeLinear stays with it
            makers = [value.producer() for value in node.inputs if value is not None]
            if any(m is not None and m.op_type == "DequantizeLinear" and m.name in self.kept for m in makers):
                self.kept.setdefault(str(node.name), "its input is dequantised in float32")
        follow(self._graph, self._ports, self.kept, keep_io=self._keep_io)

    def write(self) -> None:
        graph = self._graph
        made_half = {id(node.outputs[index]) for node in main_nodes(graph) for index in self._half_ports(node).outputs}
        nodes = [*main_nodes(graph)]
        for node in nodes:
            if self._half_ports(node).inputs or self._half_ports(node).outputs:
                self.changed[str(node.name)] = self._half.name
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(self._half.dtype))
        for value in [*graph.initializers.values()]:
            if value.dtype == ir.DataType.FLOAT and constant(value) is not None:
                self._constant(value)
        for value in [*graph.inputs, *(value for node in nodes for value in node.outputs)]:
            if value.dtype == ir.DataType.FLOAT and value.name:
                half = id(value) in made_half or (not self._keep_io and value.is_graph_input())
                self._activation(value, half=half)

    def _half_ports(self, node: ir.Node) -> Ports:
        name = str(node.name)
        none = Ports(inputs=frozenset(), outputs=frozenset())
        return none if name in self.kept else self._ports.get(name, none)

    def _readers(self, value: ir.Value) -> dict[bool, list[tuple[ir.Node, int]]]:
        """Readers that want 16 bits (True) and those that want float32."""
        found: dict[bool, list[tuple[ir.Node, int]]] = {True: [], False: []}
        for reader, index in value.uses():
            wants = reader.graph is self._graph and index in self._half_ports(reader).inputs
            found[wants].append((reader, index))
        return found

    def _constant(self, value: ir.Value) -> None:
        readers = self._readers(value)
        if not readers[True]:
            return
        array = np.asarray(constant(value), np.float32)
        rounded = array.astype(self._half.numpy)
        if array.ndim > 1:
            finite = np.isfinite(array)
            for reader, _ in readers[True]:
                self.snr_db[str(reader.name)] = snr_db(array[finite], rounded.astype(np.float32)[finite])
        new = set_initializer(self._graph, f"{value.name}__{self._half.name}", rounded)
        for reader, index in readers[True]:
            reader.replace_input_with(index, new)

    def _activation(self, value: ir.Value, *, half: bool) -> None:
        """Gives a tensor its type, and each reader the type it wants: at most one cast a tensor."""
        readers, name = self._readers(value), str(value.name)
        output = value.is_graph_output()
        if half:
            value.type = ir.TensorType(self._half.dtype)
        back = output and half and self._keep_io
        forth = output and not half and not self._keep_io
        others = readers[not half]
        if not (others or back or forth):
            return
        dtype = ir.DataType.FLOAT if half else self._half.dtype
        cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}__Cast")
        self._graph.append(cast)
        new = cast.outputs[0]
        new.type, new.shape = ir.TensorType(dtype), value.shape
        new.name = f"{name}__{'float' if half else self._half.name}"
        for reader, index in others:
            reader.replace_input_with(index, new)
        if back or forth:
            value.name, new.name = f"{name}__{self._half.name if half else 'float'}", name
            self._graph.outputs[self._graph.outputs.index(value)] = new
