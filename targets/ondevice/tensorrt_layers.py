"""The engine inspector's JSON, read: TensorRT 8.6, 10 and 11 each say the same in their own words."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_KINDS = (  # in this order: "BFloat16" holds "Float16", and a vectorised Int8 format may name 32 channels
    ("bf16", re.compile(r"\b(bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\b(fp8|float8\w*|e4m3)\b", re.IGNORECASE)),
    ("int8", re.compile(r"\b(u?int8|i8)\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(fp16|half|float16|f16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(fp32|float32|float|f32)\b", re.IGNORECASE)),
    ("other", re.compile(r"\b(bool|u?int\d+|fp4)\b", re.IGNORECASE)),
)
_COMPUTE = re.compile(r"conv|gemm|matrixmultiply|matmul|matrix_multiply|fullyconnected", re.IGNORECASE)
_REFORMAT = re.compile(r"reformat", re.IGNORECASE)
_OPAQUE = re.compile(r"myelin|foreignnode", re.IGNORECASE)
_DLA = re.compile(r"\bdla\b|^dla", re.IGNORECASE)
_SOURCE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_JOINED = re.compile(r"\s\+\s|\|\|")
_INTEGER_TACTIC = re.compile(r"i8816|i16832|i8i8|int8|imma|_i8_|s8s8", re.IGNORECASE)


class Layer(NamedTuple):
    """One layer as it was built.

    Attributes:
        name: The vendor's name, made of what was fused.
        kind: LayerType, such as ``CaskConvolution``.
        compute: Whether it is a convolution or a matrix product by its own kind.
        reformat: Whether it only changes a layout or a type.
        opaque: Whether it is a subgraph whose inside is not told.
        dla: Whether the DLA runs it.
        precision: Of its activation input: ``fp32``, ``fp16``, ``bf16``, ``fp8``, ``int8`` or ``unknown``.
        sources: What may be names of the ONNX nodes in it: of its metadata, else the parts of its own name.
    """

    name: str
    kind: str
    compute: bool
    reformat: bool
    opaque: bool
    dla: bool
    precision: str
    sources: tuple[str, ...]


def read_layers(text: str) -> list[Layer]:
    """The layers of ``get_engine_information(JSON)``.

    Raises:
        ValueError: It is no JSON object with layers, or tells only their names.
    """
    data = json.loads(text)
    items = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(items, list) or not items:
        raise ValueError("it names no layers")
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("it tells only the names of layers: it was not built with detailed profiling verbosity")
    return [_layer(item) for item in items]


def tensor_kind(tensor: object) -> str:
    """The element type that a tensor of the inspector has, in our words; ``unknown`` where none is said."""
    if not isinstance(tensor, dict):
        return "unknown"
    for key in ("DataType", "Datatype", "Format/Datatype", "Format"):
        said = tensor.get(key)
        if isinstance(said, str):
            for kind, pattern in _KINDS:
                if pattern.search(said):
                    return kind
    return "unknown"


def _layer(item: dict[str, Any]) -> Layer:
    name, kind = str(item.get("Name", "")), str(item.get("LayerType", ""))
    own = " ".join((kind, str(item.get("ParameterType", ""))))
    reformat = bool(_REFORMAT.search(kind)) or name.startswith("Reformatting CopyNode")
    inputs = item.get("Inputs")
    precision = tensor_kind(inputs[0]) if isinstance(inputs, list) and inputs else "unknown"
    compute = bool(_COMPUTE.search(own)) and not reformat
    if compute and precision == "unknown" and _INTEGER_TACTIC.search(str(item.get("TacticName", ""))):
        precision = "int8"
    return Layer(
        name=name,
        kind=kind or "unknown",
        compute=compute,
        reformat=reformat,
        opaque=bool(_OPAQUE.search(own)) or "ForeignNode" in name,
        dla=bool(_DLA.search(kind)),
        precision="unknown" if precision == "other" else precision,
        sources=_sources(name, str(item.get("Metadata", ""))),
    )


def _sources(name: str, metadata: str) -> tuple[str, ...]:
    found = _SOURCE.findall(metadata) or _JOINED.split(name)  # 8.6 has no metadata and joins the names of nodes
    return tuple(part.strip() for part in found if part.strip())
