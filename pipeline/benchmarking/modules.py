"""Which of the user's modules each node of an engine belongs to: noted at the export, followed to the engine file."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.files import write_atomic

if TYPE_CHECKING:
    import onnx

MODULES_JSON: Final = "modules.json"
"""Beside ``model.onnx``: name of a node or tensor to module path; the module itself is the empty path."""

_SCOPES: Final = "pkg.torch.onnx.name_scopes"
_ADDED: Final = re.compile(
    r"(_token_\d+|_nchwc|_nhwc|_reorder|_quant|_dequant|_out\d+|__float|__pooled|__flatten|__bias"
    r"|__quantized|__dequantized|__QuantizeLinear|__DequantizeLinear)$"
)
_PARAMETER: Final = re.compile(r"(.+?)\.(?:weight|bias)(?:_|$)")
_LONGEST_WAY: Final = 16
_FUSED: Final = "fused:"


def source_modules(model: onnx.ModelProto) -> dict[str, str]:
    """Names of nodes and tensors of a model that torch exported, with the module each was traced in.

    A node with a weight of its own belongs to the module that holds it (a normalisation folded into a convolution
    leaves the convolution's name); any other to the innermost module that the exporter noted at it.

    Args:
        model: As torch wrote it, notes included.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, str] = {}
    for node in model.graph.node:
        module = next(filter(None, (_owner(name) for name in node.input if name in weights)), None)
        if module is None:
            module = _scope(node)
        if module is not None:
            found.update(dict.fromkeys(filter(None, (node.name, *node.output)), module))
    return found


def engine_modules(
    engine: onnx.ModelProto, names: Mapping[str, str], source: onnx.ModelProto | None = None
) -> dict[str, str]:
    """Node of an engine's graph to module path; a node that nothing leads to is left out.

    By the weight or bias the node reads, else by its name or its outputs' names without what quantiser and runtime
    append to them, else (conversions and changes of layout that the runtime adds) by the node that makes its input. A
    multiplying node that carries the name of what was fused behind it goes back to where that multiplies.

    Args:
        engine: The graph in the engine file.
        names: As `source_modules` gave them; may be empty, as for a model that was given as ONNX.
        source: The model that the engine was built from.
    """
    names = {**names, **({} if source is None else _behind_fusion(source, names))}
    makers = {name: node for node in engine.graph.node for name in node.output}
    weights = {tensor.name for tensor in engine.graph.initializer}
    found: dict[str, str] = {}
    for index, node in enumerate(engine.graph.node):
        current: onnx.NodeProto | None = node
        module: str | None = None
        for _ in range(_LONGEST_WAY):
            if current is None or module is not None:
                break
            module = _own_module(current, names, weights, makers)
            current = next((makers[name] for name in current.input if name in makers), None)
        if module is not None:
            found[profiled_name(node, index)] = module
    return dict(sorted(found.items()))


def profiled_name(node: onnx.NodeProto, index: int) -> str:
    """The name under which the runtime's profiler reports a node of a graph."""
    return node.name or f"{node.op_type}_{index}"


def module_of(name: str, modules: Mapping[str, str]) -> str | None:
    """The module of a node that a runtime reports, which may have appended to the name that the engine file has."""
    known = next((modules[base] for base in bases(name) if base in modules), None)
    if known is not None:
        return known
    shortest = [*bases(name)][-1]
    return next((module for other, module in modules.items() if shortest in bases(other)), None)


def bases(name: str) -> Iterator[str]:
    """The name, and what is left of it as endings that quantiser and runtime append are taken off one by one."""
    yield name
    while (match := _ADDED.search(name)) and match.start():
        name = name[: match.start()]
        yield name


def write_modules(folder: Path, names: Mapping[str, str]) -> None:
    """Writes ``modules.json``."""
    write_atomic(folder / MODULES_JSON, (json.dumps(dict(names), indent=1, sort_keys=True) + "\n").encode())


def read_modules(folder: Path) -> dict[str, str]:
    """The ``modules.json`` of a model's folder; empty where there is none, as for a model that was given as ONNX."""
    path = folder / MODULES_JSON
    if not path.is_file():
        return {}
    document: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return document


def note_modules(build: Path, engine_file: str, model: Path) -> None:
    """Adds ``modules`` (node of the engine file to module path) to a build's ``inspect.json``.

    An engine file that is no ONNX file names no node: its modules are empty.

    Args:
        build: The folder of the build.
        engine_file: The engine file's name in it.
        model: The ONNX file that it was built from, with or without a ``modules.json`` beside it.
    """
    from targets.engines.base import INSPECT_JSON, json_bytes
    from targets.onnxfile import open_stored

    modules: dict[str, str] = {}
    if engine_file.endswith((".onnx", ".ort")):
        from targets.engines.base import EngineBuild
        from targets.engines.onnxruntime import open_engine_graph

        with open_engine_graph(EngineBuild.read(build)) as graph:
            modules = engine_modules(graph.model, read_modules(model.parent), open_stored(model).model)
    document = json.loads((build / INSPECT_JSON).read_text(encoding="utf-8"))
    write_atomic(build / INSPECT_JSON, json_bytes({**document, "modules": modules}))


def _own_module(
    node: onnx.NodeProto, names: Mapping[str, str], weights: set[str], makers: Mapping[str, onnx.NodeProto]
) -> str | None:
    for name in node.input:
        maker = makers.get(name)
        stored = maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name
        owner = _owner(stored) if stored in weights else None
        if owner is not None:
            return owner
    prefixes = (_FUSED, "") if _multiplies(node) else ("",)
    keys = [prefix + base for name in (node.name, *node.output) for base in bases(name) for prefix in prefixes]
    return next((names[key] for key in keys if key in names), None)


def _behind_fusion(source: onnx.ModelProto, names: Mapping[str, str]) -> dict[str, str]:
    """Under ``fused:NAME``, for names of nodes and tensors that follow a product: the module of that product."""
    found: dict[str, str] = {}
    for node in source.graph.node:  # in the order of execution
        keys = [name for name in (node.name, *node.output) if name]
        own = next((names[key] for key in keys if key in names), None)
        module = (
            own if _multiplies(node) else next((found[_FUSED + n] for n in node.input if _FUSED + n in found), None)
        )
        if module is not None:
            found.update({_FUSED + key: module for key in keys})
    return found


def _multiplies(node: onnx.NodeProto) -> bool:
    return any(part in node.op_type for part in ("Conv", "Gemm", "MatMul"))


def _owner(tensor: str) -> str | None:
    """``layer1.0.conv1`` of ``layer1.0.conv1.weight``, and of what quantiser and runtime make of that name."""
    match = _PARAMETER.match(tensor)
    return match[1] if match else None


def _scope(node: onnx.NodeProto) -> str | None:
    """The innermost module of torch's note ``['', 'layer1', 'layer1.0', 'add_30']``, whose last entry is the node."""
    note = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
    try:
        scopes = ast.literal_eval(note) if note else []
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # a stranger's file may nest without end
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None
