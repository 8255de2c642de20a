"""Writes a traced model as ONNX: dynamic batch, named axes, no trace of the machine it was written on."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.benchmarking.modules import source_modules, write_modules
from pipeline.graph import flat_outputs, set_training
from targets.errors import InputError
from targets.onnxfile import ModelIo, io_of, open_onnx

if TYPE_CHECKING:
    import onnx
    from torch import Tensor
    from torch.fx import GraphModule


def export_onnx(
    graph: GraphModule, example: Mapping[str, Tensor], out: Path, *, opset: int, free_batch: bool = True
) -> ModelIo:
    """Writes ``model.onnx``, ``io.json`` and ``modules.json`` (which module each node comes from) into ``out``.

    Args:
        graph: A traced model; exported in evaluation mode.
        example: Inputs by name, batch of two or more.
        out: An existing folder.
        opset: ONNX operator set.
        free_batch: Whether the file takes batches of any size, or only those of the example: for a net that is timed
            and thrown away, whose export takes half as long.

    Returns:
        Inputs and outputs, as in ``io.json``.

    Raises:
        InputError: torch cannot express the model in ONNX, or not in this operator set.
    """
    set_training(graph, training=False)
    outputs = _output_names(graph, example)
    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                graph,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example) if free_batch else None,
                input_names=list(example),
                output_names=outputs,
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                "the model cannot be exported to ONNX",
                _innermost(error),
                "replace the operator named, or choose another export.opset",
            ) from error
    assert program is not None
    model = program.model_proto
    _check_opset(model, opset)
    write_modules(out, source_modules(model))
    strip_build_traces(model)
    path = out / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    description = io_of(open_onnx(path))
    (out / "io.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return description


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's deprecations and the tracebacks it logs away: operator set and parity are checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _check_opset(model: onnx.ModelProto, wanted: int) -> None:
    """The exporter keeps another operator set, and only warns, where its version converter fails."""
    found = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
    if found != wanted:
        raise InputError(
            f"the model cannot be exported to ONNX operator set {wanted}",
            f"torch could write it in operator set {found} only",
            f"set export.opset = {found}",
        )


def strip_build_traces(model: onnx.ModelProto) -> None:
    """Removes doc strings and metadata, which hold stack traces with absolute paths of the build machine."""
    model.producer_name, model.producer_version = "edgepress", ""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    cleared: list[Any] = [model, *model.functions]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            cleared += [graph, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
            nodes += graph.node
        else:
            node = nodes.pop()
            cleared.append(node)
            graphs += [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
    for item in cleared:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def _output_names(graph: GraphModule, example: Mapping[str, Tensor]) -> list[str]:
    with torch.no_grad():
        answer: object = graph(*example.values())
    count = len(flat_outputs(answer))
    if isinstance(answer, torch.Tensor):
        return ["output"]
    names = [str(name) for name in answer] if isinstance(answer, Mapping) else []
    clash = sorted(set(names) & set(example))
    if clash:
        raise InputError(
            f"the model has an input and an output called {clash[0]!r}",
            "names are unique in an ONNX model",
            "rename the key in what forward() returns",
        )
    return names or [f"output_{index}" for index in range(count)]


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
