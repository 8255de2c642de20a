"""How near each node's output in a Q/DQ model is to the float model's, all errors before it included."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from calibration.exposure import exposed, fixed_batch
from calibration.masks import infinite_tensors
from calibration.modelfile import open_float, runnable
from calibration.prepare import main_nodes, prepare
from calibration.quantized import INTEGERS
from calibration.session import Session
from calibration.subset import spread
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

    from calibration.samples import CalibrationSet

SAMPLES: Final = 16
_MOST_BYTES: Final = 1 << 30
_FLOAT_READING: Final = "__float"
_READING: Final = "__dequantized"
_MOST_DB: Final = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOutput:
    """What is known of a node's output.

    Attributes:
        shape: For one run: of one sample, or of the batch that is fixed in the model.
        snr_db: Signal-to-noise ratio against the float model, as the next node reads it; None where all is zero.
    """

    shape: tuple[int, ...]
    snr_db: float | None


def outputs_by_node(
    float_model: Path, quantized: Path, samples: CalibrationSet, *, threads: int
) -> dict[str, NodeOutput]:
    """What is known of the output of each node of the Q/DQ file.

    One sample at a time through both models, so that the activations of one sample are all that is held.

    Args:
        float_model: What the Q/DQ file was made from, algorithms that change weights included.
        quantized: The Q/DQ file; its Q/DQ is computed in float.
        samples: At most 16 of them are used.
        threads: Threads inside one operator.

    Returns:
        Nodes whose output both models have; nothing for models of more than 1 GiB.

    Raises:
        InputError: A model fails on the samples.
    """
    if float_model.stat().st_size + quantized.stat().st_size > _MOST_BYTES:
        return {}
    proto, other = open_float(float_model), open_onnx(quantized)
    exact = prepare(proto)
    made = [value for node in main_nodes(exact.graph) for value in node.outputs if value.dtype == ir.DataType.FLOAT]
    readings = _readings(other, {str(value.name) for value in made} - infinite_tensors(exact.graph))
    if not readings:
        return {}
    names = sorted({tensor for tensor, _ in readings.values()})
    read = sorted({reading for _, reading in readings.values()})
    _expose(other, read)
    used = spread(samples, SAMPLES, exact.graph)
    with exposed(exact.graph, names), runnable(exact) as file:
        first = Session(file, threads=threads, optimize=False)
    second = Session(other.SerializeToString(), threads=threads, optimize=False)
    shapes: dict[str, tuple[int, ...]] = {}
    signal: dict[str, float] = defaultdict(float)
    noise: dict[tuple[str, str], float] = defaultdict(float)
    for batch in used.in_batches(used.batch_size if fixed_batch(io_of(proto)) else 1):
        floats = dict(zip(names, first.run(names, batch), strict=True))
        found = dict(zip(read, second.run(read, batch), strict=True))
        for name in names:
            shapes[name] = floats[name].shape
            signal[name] += _energy(floats[name])
        for name, reading in set(readings.values()):
            if floats[name].shape == found[reading].shape:
                noise[name, reading] += _energy(floats[name].astype(np.float64) - found[reading].astype(np.float64))
    return {
        node: NodeOutput(shape=shapes[pair[0]], snr_db=_decibels(signal[pair[0]], noise[pair]))
        for node, pair in readings.items()
        if pair in noise
    }


def _readings(model: onnx.ModelProto, there: set[str]) -> dict[str, tuple[str, str]]:
    """Node -> (float tensor, what is read of it in the Q/DQ file)."""
    made = {name for node in model.graph.node for name in node.output}
    found: dict[str, tuple[str, str]] = {}
    for node in model.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} or not node.output or not node.name:
            continue
        tensor = node.output[0].removesuffix(INTEGERS).removesuffix(_FLOAT_READING)
        integers = node.output[0] != tensor
        reading = next((name for name in (tensor + _READING, *([tensor] if integers else [])) if name in made), None)
        if tensor in there and (reading or not integers):
            found[node.name] = (tensor, reading or node.output[0])
    return found


def _expose(model: onnx.ModelProto, names: list[str]) -> None:
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in outputs
    )


def _energy(values: NDArray[np.generic]) -> float:
    return float(np.square(values.astype(np.float64)).sum())


def _decibels(signal: float, noise: float) -> float | None:
    if signal <= 0.0 or not math.isfinite(noise):
        return None
    return round(min(_MOST_DB, 10 * math.log10(signal / noise)), 2) if noise > 0.0 else _MOST_DB
