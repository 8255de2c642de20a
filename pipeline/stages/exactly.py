"""Runs engines whose files hold integer operators, with exact sums, on a CPU whose own saturate."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stages.inference import BATCH_SIZE, served_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    import onnx

    from calibration.exact import Doubtful
    from pipeline.data import Split


def has_integer_sums(description: Mapping[str, Any]) -> bool:
    """Whether the engine's file holds operators that sum products of integers, instead of Q/DQ.

    Args:
        description: An ``engine.json``.
    """
    if description.get("engine") != "onnxruntime":
        return False
    precision = description.get("precision")
    return precision == "int8-dynamic" or (precision == "int8" and Path(description["file"]).suffix == ".ort")


def sums_in(engine: Path) -> Doubtful:
    """Which nodes of an engine of ONNX Runtime may saturate on a CPU without VNNI; looked for once an engine."""
    return _sums_in(engine, str(json.loads((engine / "engine.json").read_text(encoding="utf-8"))["sha256"]))


@lru_cache(maxsize=64)
def _sums_in(engine: Path, _sha256: str) -> Doubtful:
    from calibration.exact import doubtful

    with _graph(engine) as model:
        return doubtful(model)


def run_exactly(engine: Path, split: Split, batch_size: int = BATCH_SIZE) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``, with every sum exact that can be followed; in the batches of the engine itself.

    Dynamic int8 scales an activation by all of its batch, so the size of batches is part of the answer.

    Args:
        engine: The folder of an engine of ONNX Runtime.
        split: The samples.
        batch_size: How many samples at most.
    """
    import numpy as np

    from calibration.exact import Exact

    description = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    parts: dict[str, list[Any]] = {str(port["name"]): [] for port in description["outputs"]}
    with _graph(engine) as model:
        # An LSTM quantises what each thread gets: their number is part of the answer, too.
        exact = Exact(model, sums_in(engine).followed, threads=int(description["options"]["threads"]))
    for batch in split.batches(served_batch(description, batch_size)):
        found = exact.run(batch.inputs)
        for name, arrays in parts.items():
            arrays.append(found[name])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


@contextmanager
def _graph(engine: Path) -> Iterator[onnx.ModelProto]:
    """The engine's graph, weights inside, each node with a name of its own."""
    from onnx import numpy_helper
    from onnx.external_data_helper import uses_external_data

    from calibration.exact import named
    from targets.engines.base import EngineBuild
    from targets.engines.onnxruntime import open_engine_graph
    from targets.onnxtensors import tensor_array

    with open_engine_graph(EngineBuild.read(engine)) as graph:
        for tensor in filter(uses_external_data, graph.model.graph.initializer):
            tensor.CopyFrom(numpy_helper.from_array(tensor_array(graph.path, tensor), tensor.name))
        yield named(graph.model)
