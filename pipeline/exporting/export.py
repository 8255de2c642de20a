"""Writes a traced model as ONNX: dynamic batch, named axes, no trace of the machine it was written on."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch

from pipeline.graph import set_training
from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


def export_onnx(graph: GraphModule, example: dict[str, Tensor], out: Path, *, opset: int) -> dict[str, Any]:
    """Writes ``model.onnx`` and ``io.json`` into ``out``.

    Args:
        graph: A traced model; exported in evaluation mode.
        example: Inputs by name, batch of two or more.
        out: An existing folder.
        opset: ONNX operator set.

    Returns:
        Inputs and outputs, as in ``io.json``.

    Raises:
        InputError: torch cannot express the model in ONNX.
    """
    set_training(graph, False)
    outputs = _output_names(graph, example)
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # "no torchvision", four times
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations; the parity check is what counts
        try:
            program = torch.onnx.export(
                graph,
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=tuple({0: batch} for _ in example),
                input_names=list(example),
                output_names=outputs,
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError("the model cannot be exported to ONNX", _innermost(error), "replace the operator named, or choose another export.opset") from error
    assert program is not None
    model = program.model_proto
    strip_build_traces(model)
    path = out / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    description = io_of(open_onnx(path))
    (out / "io.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return description


def strip_build_traces(model: onnx.ModelProto) -> None:
    """Removes doc strings and metadata, which hold stack traces with absolute paths of the build machine."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.producer_name, model.producer_version = "edgepress", ""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        items: list[Any] = [graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output]
        for item in items:
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += list(attribute.graphs)
    for function in model.functions:
        function.ClearField("metadata_props")
        function.ClearField("doc_string")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")


def _output_names(graph: GraphModule, example: dict[str, Tensor]) -> list[str]:
    with torch.no_grad():
        answer = graph(*example.values())
    if isinstance(answer, torch.Tensor):
        return ["output"]
    if isinstance(answer, dict):
        return [str(name) for name in answer]
    assert isinstance(answer, Sequence)
    return [f"output_{index}" for index in range(len(answer))]


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
