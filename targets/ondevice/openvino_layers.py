"""Time of each node that OpenVINO runs, from its own counters, beside the same loop without them."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .failure import DEVICE, Failure
from .openvino_module import import_openvino, message, openvino_errors, short_version
from .openvino_runner import open_openvino

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    Feed = Mapping[str, np.ndarray]

_WARM_UP = 10
_CAP_S = 20.0  # for each of the two loops
_SUFFIX = "/WithoutBiases"  # OpenVINO calls a convolution so whose bias it has joined to it
_OPERATORS = {"Convolution": "Conv", "Deconvolution": "ConvTranspose", "FullyConnected": "Gemm", "MatMul": "MatMul"}
_TYPES = {
    "f32": "float", "f16": "float16", "bf16": "bfloat16", "f64": "double", "u8": "uint8", "i8": "int8", "i32": "int32",
    "i64": "int64", "boolean": "bool",
}  # fmt: skip


class _Node(NamedTuple):
    """A node of the graph that is run: types by ONNX Runtime's names."""

    name: str
    op: str
    inputs: list[list[Any]]
    outputs: list[list[Any]]


def profile_openvino(folder: Path, spec: Mapping[str, Any], feeds: Sequence[Feed], iterations: int) -> dict[str, Any]:
    """What `layers.profile_layers` gives, for an engine of OpenVINO.

    Nodes that were not run (constants, views) are left out. Names are OpenVINO's, which are those of the ONNX file
    where a node was made of one; convolutions and products have ONNX's operator names, all others OpenVINO's.

    Raises:
        Failure: The runtime fails (6).
    """
    runner = open_openvino(folder, spec)
    try:
        shapes = {name: value.shape for name, value in feeds[0].items()}
        plain = _loop(runner.run, feeds, iterations)
        compiled = runner.profile(shapes)
        request = compiled.create_infer_request()
        seen: dict[str, list[int]] = {}

        def counted(feed: Feed) -> None:
            request.infer(dict(feed), share_inputs=True, share_outputs=True)

        def collect() -> None:
            for item in request.get_profiling_info():
                if item.status.name == "EXECUTED":
                    seen.setdefault(str(item.node_name), []).append(round(item.real_time.total_seconds() * 1e9))

        loud = _loop(counted, feeds, min(iterations, len(plain)), collect)
        known = _nodes(compiled)
    except openvino_errors() as error:
        fix = "run `verify` on the bundle on this device"
        raise Failure(DEVICE, "the engine failed while it was profiled", message(error), fix) from error
    rows = _rows(known, seen, str(spec["options"]["device"]))
    if not rows:
        raise Failure(DEVICE, "OpenVINO's counters name no node", "nothing was counted", "profile another engine")
    total = sum(row["median_ns"] for row in rows)
    for row in rows:
        row["share_ratio"] = row["median_ns"] / total if total else 0.0
    return {
        "engine_sha256": spec["sha256"],
        "runtime_version": short_version(import_openvino()),
        "optimization": "all",
        "threads": spec["options"]["threads"],
        "iterations": len(loud),
        "n_distinct": len(feeds),
        "nodes": rows,
        "nodes_sum_ns": total,
        "wall_median_ns": round(statistics.median(plain)),
        "wall_min_ns": min(plain),
        "profiled_wall_median_ns": round(statistics.median(loud)),
    }


def _loop(
    call: Callable[[Feed], object], feeds: Sequence[Feed], iterations: int, after: Callable[[], None] | None = None
) -> list[int]:
    """Nanoseconds of each call after the warm-up; ``after`` is called between them, and not timed."""
    clock = time.perf_counter_ns
    for index in range(_WARM_UP):
        call(feeds[index % len(feeds)])
    walls: list[int] = []
    begin = clock()
    while len(walls) < iterations and (not walls or clock() - begin < _CAP_S * 1e9):
        feed = feeds[len(walls) % len(feeds)]
        start = clock()
        call(feed)
        walls.append(clock() - start)
        if after is not None:
            after()
    return walls


def _nodes(compiled: Any) -> dict[str, _Node]:  # noqa: ANN401 - openvino.CompiledModel
    """By OpenVINO's name, in the order of execution."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = {str(key): str(value.astype(str)) for key, value in node.get_rt_info().items()}
        types = told.get("outputPrecisions", "").split(",")
        op = _OPERATORS.get(told["layerType"], told["layerType"])
        name = str(node.get_friendly_name())
        inputs = [_typed(value.get_node().get_rt_info(), value) for value in node.input_values()]
        outputs = [[_type(types[min(i, len(types) - 1)]), _shape(value)] for i, value in enumerate(node.outputs())]
        found.append((int(told["execOrder"]), name, _Node(name.replace(_SUFFIX, ""), op, inputs, outputs)))
    return {name: node for _, name, node in sorted(found, key=lambda entry: entry[:2])}


def _typed(told: Any, port: Any) -> list[Any]:  # noqa: ANN401 - openvino.RTMap, openvino.Output
    types = str(told["outputPrecisions"].astype(str)).split(",")
    return [_type(types[min(port.get_index(), len(types) - 1)]), _shape(port)]


def _type(name: str) -> str:
    return _TYPES.get(name, name)


def _shape(port: Any) -> list[int]:  # noqa: ANN401 - openvino.Output
    shape = port.get_partial_shape()
    return [] if shape.is_dynamic else [int(size) for size in shape.to_shape()]


def _rows(known: Mapping[str, _Node], seen: Mapping[str, Sequence[int]], device: str) -> list[dict[str, Any]]:
    executed = [(name, node) for name, node in known.items() if name in seen]
    return [
        {
            "index": index,
            "name": node.name,
            "op": node.op,
            "provider": device,
            "calls": len(seen[name]),
            "median_ns": max(1, round(statistics.median(seen[name]))),
            "inputs": node.inputs,
            "outputs": node.outputs,
        }
        for index, (name, node) in enumerate(executed)
    ]
