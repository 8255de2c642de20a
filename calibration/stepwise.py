"""Runs a model as ONNX Runtime optimises it, with chosen nodes computed by a function of ours."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.session import Session
from targets.errors import InputError
from targets.ondevice.session import import_runtime, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = NDArray[np.generic]
Compute = "Callable[[onnx.NodeProto, Mapping[str, Array]], dict[str, Array]]"


def as_executed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph after the fusions that ONNX Runtime makes on every CPU: integer operators instead of Q/DQ.

    Raises:
        InputError: The runtime refuses the model.
    """
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "executed.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except runtime_errors() as error:
            raise InputError(
                "ONNX Runtime cannot load the model",
                " ".join(str(error).split())[:300],
                "check it with onnx.checker.check_model(model, full_check=True) and export it again",
            ) from error
        return onnx.load(str(path))


@final
class Stepwise:
    """An executed graph, cut at the nodes that we compute ourselves; what lies between them runs in ONNX Runtime.

    Args:
        model: What `as_executed` made.
        chosen: Names of the nodes to compute.
        threads: Threads inside one operator.
    """

    def __init__(self, model: onnx.ModelProto, chosen: frozenset[str], *, threads: int) -> None:
        self._model, self._threads = model, threads
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in self._constants.items()}
        self.outputs = [value.name for value in model.graph.output]
        self._steps = self._cut(chosen)
        self._sessions: dict[int, tuple[Session, list[str], list[str]]] = {}

    def run(
        self, feed: Mapping[str, Array], compute: Callable[[onnx.NodeProto, Mapping[str, Array]], dict[str, Array]]
    ) -> dict[str, Array]:
        """The model's outputs; ``compute`` gets a chosen node and all tensors known so far, and gives its outputs."""
        known: dict[str, Array] = dict(feed)
        for index, step in enumerate(self._steps):
            if isinstance(step, onnx.NodeProto):
                known |= compute(step, known)
            else:
                session, inputs, outputs = self._session(index, step, known)
                arrays = session.run(outputs, {name: known[name] for name in inputs})
                known |= dict(zip(outputs, arrays, strict=True))
        return {name: known[name] if name in known else self.arrays[name] for name in self.outputs}

    def _cut(self, chosen: frozenset[str]) -> list[onnx.NodeProto | list[onnx.NodeProto]]:
        """Alternating: what a chosen node needs and is not there yet, and that node; the rest at the end."""
        nodes = [*self._model.graph.node]
        makers = {name: index for index, node in enumerate(nodes) for name in node.output}
        done: set[int] = set()
        steps: list[onnx.NodeProto | list[onnx.NodeProto]] = []

        def needed(names: list[str]) -> list[onnx.NodeProto]:
            todo, found = [makers[name] for name in names if name in makers], set[int]()
            while todo:
                index = todo.pop()
                if index not in done and index not in found:
                    found.add(index)
                    todo += [makers[name] for name in _reads(nodes[index]) if name in makers]
            done.update(found)
            return [nodes[index] for index in sorted(found)]

        for index, node in enumerate(nodes):
            if node.name in chosen:
                before = needed(_reads(node))
                steps += [*([before] if before else []), node]
                done.add(index)
        rest = needed(self.outputs)
        return [*steps, rest] if rest else steps

    def _session(
        self, index: int, nodes: list[onnx.NodeProto], known: Mapping[str, Array]
    ) -> tuple[Session, list[str], list[str]]:
        if index not in self._sessions:
            made = {name for node in nodes for name in node.output if name}
            read = dict.fromkeys(name for node in nodes for name in _reads(node) if name not in made)
            later = {name for step in self._steps[index + 1 :] for node in _nodes(step) for name in _reads(node)} | set(
                self.outputs
            )
            inputs = [name for name in read if name in known]
            outputs = [name for node in nodes for name in node.output if name in later and name]
            graph = onnx.helper.make_graph(
                nodes,
                "step",
                [_typed(name, known[name]) for name in inputs],
                [onnx.ValueInfoProto(name=name) for name in outputs],
                [self._constants[name] for name in read if name in self._constants],
            )
            part = onnx.helper.make_model(
                graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
            )
            session = Session(part.SerializeToString(), threads=self._threads, optimize=False)
            self._sessions[index] = session, inputs, outputs
        return self._sessions[index]


def _typed(name: str, array: Array) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(
        name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
    )


def _nodes(step: onnx.NodeProto | list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [step] if isinstance(step, onnx.NodeProto) else step


def _reads(node: onnx.NodeProto) -> list[str]:
    """All tensors a node reads, also from inside its bodies."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            names += [name for inner in graph.node for name in _reads(inner)]
            names += [value.name for value in graph.output]
    return names
