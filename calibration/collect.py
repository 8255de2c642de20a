"""Measures activation ranges: the float model runs over the samples once, in flat memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx_ir as ir

from calibration.observers import Histogram, MinMax
from calibration.prepare import constant, main_nodes, prepare, serialize
from calibration.session import Session
from calibration.table import CalibrationTable
from targets.errors import InputError, nearest
from targets.files import sha256_file
from targets.onnxfile import io_of, open_onnx
from targets.scheme import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from calibration.samples import CalibrationSet

Range = tuple[float, float]

PERCENT: Final = 99.999
LEVELS: Final = 256

METHODS: Final[Mapping[str, Callable[[MinMax, Histogram], Range]]] = {
    "minmax": lambda minmax, _: minmax.range(),
    "percentile": lambda _, histogram: histogram.percentile_range(PERCENT),
    "mse": lambda _, histogram: histogram.mse_range(LEVELS),
}
"""Name of a method -> how it reads a range from what was observed."""

_ALL_BELOW: Final = 2**16
_STRIDES: Final = (7, 5, 3)


def collect(
    model_path: Path, samples: CalibrationSet, *, threads: int, methods: Sequence[str] = tuple(METHODS)
) -> CalibrationTable:
    """Ranges of every activation that some scheme may quantise.

    Min-max sees every value. Histograms see every value of small tensors and at least one in seven of large ones, at a
    stride that visits all channels and positions.

    Args:
        model_path: The float model.
        samples: What to run it on.
        threads: Threads inside one operator.
        methods: Which ranges to read, of `METHODS`.

    Raises:
        InputError: An unknown method, samples that do not fit the model, an activation with NaN or Inf (tensor and
            sample are named), or a model without anything to observe.
    """
    for method in methods:
        if method not in METHODS:
            raise InputError(
                f"no calibration method is called {method!r}", nearest(method, METHODS), "choose one of these"
            )
    proto = open_onnx(model_path)
    samples.check_against(io_of(proto))
    model = prepare(proto)
    watched = {name: _Watch(name) for name in _watch_list(model.graph)}
    if not watched:
        raise InputError(
            f"{model_path.name} has no activation to observe",
            "none of its nodes can run in int8",
            "give a float32 model with convolutions or linear layers",
        )
    inputs = {str(value.name) for value in model.graph.inputs}
    _expose(model.graph, [name for name in watched if name not in inputs])
    session = Session(serialize(model), threads=threads, optimize=False)
    names = [name for name in watched if name not in inputs]
    first = 0
    for batch in samples:
        values = dict(zip(names, session.run(names, batch), strict=True)) | batch
        for name, watch in watched.items():
            watch.update(values[name].astype(np.float32, copy=False), first)
        first += samples.batch_size
    return CalibrationTable(
        tensors={name: watch.ranges(methods) for name, watch in watched.items()},
        samples=len(samples),
        model_sha256=sha256_file(model_path),
        data_sha256=samples.content_sha256,
        versions=tool_versions(),
    )


def tool_versions() -> dict[str, str]:
    """Versions of what calibration computes with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")}


def _watch_list(graph: ir.Graph) -> list[str]:
    operators = {"Relu", "Clip"}.union(
        *(s.compute_operators | s.follow_operators | s.same_scale_operators for s in SCHEMES.values())
    )
    found: dict[str, None] = {}
    for node in main_nodes(graph):
        if node.op_type in operators:
            for value in (*node.inputs, *node.outputs):
                if value is not None and value.dtype in {None, ir.DataType.FLOAT} and constant(value) is None:
                    found[str(value.name)] = None
    return [*found]


def _expose(graph: ir.Graph, names: Sequence[str]) -> None:
    values = {str(value.name): value for node in main_nodes(graph) for value in node.outputs}
    for name in names:
        if not values[name].is_graph_output():
            values[name].type = values[name].type or ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(values[name])


@final
class _Watch:
    """The observers of one activation."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._minmax, self._histogram = MinMax(), Histogram()

    def update(self, array: NDArray[np.float32], first_sample: int) -> None:
        if array.size and not (math.isfinite(float(array.min())) and math.isfinite(float(array.max()))):
            self._refuse(array, first_sample)
        self._minmax.update(array)
        stride = _stride(array)
        self._histogram.update(array.reshape(-1)[first_sample % stride :: stride])  # another start for every batch

    def ranges(self, methods: Sequence[str]) -> dict[str, Range]:
        return {method: METHODS[method](self._minmax, self._histogram) for method in methods}

    def _refuse(self, array: NDArray[np.float32], first_sample: int) -> None:
        bad = np.argwhere(~np.isfinite(array))[0]
        sample = first_sample + (int(bad[0]) if array.ndim else 0)
        raise InputError(
            f"activation {self._name!r} becomes NaN or Inf at sample {sample}",
            "the float model overflows or divides by zero there, so no range can be measured",
            f"look at sample {sample} and its preprocessing, or repair the model",
        )


def _stride(array: NDArray[np.float32]) -> int:
    """Every how many values a histogram looks; it shares no factor with a sample's size, so no position is missed."""
    if array.size <= _ALL_BELOW or array.ndim == 0:
        return 1
    per_sample = array.size // max(len(array), 1)
    return next((stride for stride in _STRIDES if per_sample % stride), 1)
