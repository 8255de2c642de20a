"""Says before any build what OpenVINO's reader refuses, and which node it means."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from targets.engines.onnxweights import in_new_file
from targets.errors import Fault
from targets.ondevice.openvino_module import import_openvino, message, openvino_errors, short_version

if TYPE_CHECKING:
    import onnx

    from targets.onnxfile import Stored

_UNKNOWN: Final = re.compile(r"No conversion rule found for operations: (.*?)(?:\n|$)")
_FIX: Final = "express it with standard ONNX operators, or leave OpenVINO out of the profile"


def lint_openvino(source: Stored) -> list[Fault]:
    """What the reader of the installed OpenVINO refuses; the model is read and its shapes are followed for one sample.

    Args:
        source: An opened model.
    """
    runtime, model = import_openvino(), source.model
    try:
        # Data in other files are read by us, who follow no link, and not by the runtime.
        own = not (source.changed or source.beside)
        with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
            read = runtime.Core().read_model(str(source.path if own else in_new_file(source, Path(folder))))
        if all(_batch_only(port.get_partial_shape()) for port in read.inputs):
            read.reshape({port.get_any_name(): _one(port.get_partial_shape()) for port in read.inputs})
    except openvino_errors() as error:
        return _faults(model, str(error), message(error), short_version(runtime))
    return []


def _batch_only(shape: Any) -> bool:  # noqa: ANN401 - openvino.PartialShape
    """Whether no other axis than the first is free; whoever checks the interface says what is wrong with others."""
    return shape.rank.is_static and not any(size.is_dynamic for size in list(shape)[1:])


def _one(shape: Any) -> list[int]:  # noqa: ANN401
    return [1 if size.is_dynamic else size.get_length() for size in shape]


def _faults(model: onnx.ModelProto, text: str, short: str, version: str) -> list[Fault]:
    found = _UNKNOWN.search(text)
    unknown = {name.strip() for name in found.group(1).split(",")} if found else set()
    named = [node for node in model.graph.node if _kind(node) in unknown]
    what = f"openvino {version} cannot read the operator {{}}"
    if named:
        return [Fault(where=f"node {_name(node)!r}", what=what.format(_kind(node)), fix=_FIX) for node in named]
    spoken = [node for node in model.graph.node if node.name and _speaks_of(text, node.name)]
    where = f"node {spoken[0].name!r}" if spoken else "graph"
    return [Fault(where=where, what=f"openvino {version} refuses it: {short}", fix=_FIX)]


def _speaks_of(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w.])", text) is not None


def _kind(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _name(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)
