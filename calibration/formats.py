"""What conversions to a smaller format share: the graph to start from, the report, the file they write.

16-bit activations are none of these formats but a dialect of Q/DQ (``qnn-a16`` of `targets.scheme`), for Qualcomm's
NPU alone. ONNX knows such Q/DQ from opset 21 on, but ONNX Runtime's CPU provider has no integer operator with 16-bit
inputs: it dequantises and computes in float32 (a test holds it to that). OpenVINO 2026.4 reads it and computes in
float, too; TensorRT refuses every integer type of Q/DQ but int8 and int4. There such a file is slower than the float
model, and profiles may not ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from calibration.initializers import remove_unused_initializers
from calibration.modelfile import open_float, save
from calibration.prepare import prepare
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTRIB: Final = "com.microsoft"
"""The operator domain that ONNX Runtime adds to ONNX."""

_CONTRIB_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatReport:
    """What a conversion did.

    Attributes:
        changed: Nodes of the prepared graph that now compute in the format, with the operator they became.
        left: Nodes it looked at and left, with the reason.
        before_bytes: Size of the constants of the prepared float graph.
        after_bytes: Size of the constants of what was written.
        snr_db: Signal-to-noise ratio of the rounded weight of each changed node that has one.
    """

    changed: Mapping[str, str]
    left: Mapping[str, str]
    before_bytes: int
    after_bytes: int
    snr_db: Mapping[str, float]


def open_prepared(source: Path | onnx.ModelProto) -> ir.Model:
    """The canonical float graph of a file or a model; errors are those of `open_onnx` and `prepare`."""
    return prepare(source if isinstance(source, onnx.ModelProto) else open_float(source))


def use_contrib(model: ir.Model) -> None:
    """Says that the graph holds operators of ONNX Runtime's own."""
    model.graph.opset_imports[CONTRIB] = _CONTRIB_VERSION


def put(graph: ir.Graph, before: ir.Node, node: ir.Node, name: str, dtype: ir.DataType) -> ir.Value:
    """Inserts a node with one output of interest before another; that output, named and typed."""
    graph.insert_before(before, node)
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    return node.outputs[0]


def take_place(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Removes ``old``; the outputs of ``new`` (already in the graph) take the places and names of its outputs."""
    for was, now in zip(old.outputs, new.outputs, strict=True):
        now.name, now.shape, now.type = was.name, was.shape, was.type
        was.name = f"{was.name}__float" if was.name else was.name
        was.replace_all_uses_with(now, replace_graph_outputs=True)
    graph.remove(old, safe=True)


def size_bytes(model: ir.Model) -> int:
    """Bytes of a model's constants."""
    constants = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in constants if tensor is not None)


def finish(
    model: ir.Model,
    out_path: Path,
    *,
    what: str,
    fix: str,
    changed: Mapping[str, str],
    left: Mapping[str, str],
    before_bytes: int,
    snr_db: Mapping[str, float] | None = None,
) -> FormatReport:
    """Writes the converted model and reports.

    Raises:
        InputError: No node was changed.
    """
    if not changed:
        reasons = "; ".join(sorted(set(left.values())))[:300]
        raise InputError(f"no node of the model can {what}", reasons or "it has no such operators", fix)
    remove_unused_initializers(model.graph)
    model.graph.sort()
    save(model, out_path)
    return FormatReport(
        changed=dict(changed),
        left=dict(left),
        before_bytes=before_bytes,
        after_bytes=size_bytes(model),
        snr_db=dict(snr_db or {}),
    )
