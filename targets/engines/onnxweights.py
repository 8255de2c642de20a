"""Writes a graph with its weights, wherever they lie, as one ONNX file, or as a graph and a file of weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets import onnxfile
from targets.engines.hashing import HashedFile
from targets.engines.syncing import sync, sync_folder
from targets.files import NEW_FILE, disk_guard
from targets.onnxtensors import open_outside, place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from targets.onnxfile import Stored

ALIGNMENT: Final = 4096
"""Weights outside the graph start at multiples of this, so that a runtime can map them."""

# Field numbers of onnx.proto, each as the tag of a length-delimited field.
_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph in memory, and the file that it came from: there its weights lie that are not in memory.

    Attributes:
        path: The file.
        model: The graph.
    """

    path: Path
    model: onnx.ModelProto


def weights_bytes(graph: Graph) -> int:
    """The size of the raw data of all initializers."""
    return sum(_length(graph.path, tensor) for tensor in graph.model.graph.initializer)


def write_graph(graph: Graph, out: Path) -> dict[str, str]:
    """Writes the graph to ``out``, whole or not at all; the same graph gives the same bytes.

    Args:
        graph: What to write; it stays as it is.
        out: The file. Weights too large for one protobuf go to a file beside it, with ``.data`` at the end.

    Returns:
        The sha256 of each file by name; that of ``out`` is the first.

    Raises:
        EnvironmentFailure: The disk is full or not writable.
    """
    return _written(graph, out, durable=True)


def write_scratch(graph: Graph, out: Path) -> None:
    """The same for a runtime to read soon, in a folder that is removed: it need not survive a power loss.

    Raises:
        EnvironmentFailure: The disk is full or not writable.
    """
    _written(graph, out, durable=False)


def in_new_file(source: Stored, folder: Path) -> Path:
    """A file in a scratch folder that holds what ``source`` holds, all of it but what is too large for one file."""
    path = folder / "source.onnx"
    write_scratch(Graph(path=source.path, model=source.model), path)
    return path


def _written(graph: Graph, out: Path, *, durable: bool) -> dict[str, str]:
    if weights_bytes(graph) <= onnxfile.ONE_FILE_BYTES:
        return {out.name: _write(out, lambda file: _whole(graph, file), durable=durable)}
    data = out.with_name(f"{out.name}.data")
    weights = [*graph.model.graph.initializer]
    digest = _write(data, lambda file: _padded(graph.path, weights, file), durable=durable)
    return {
        out.name: _write(out, lambda file: file.put(_referring(graph, data.name)), durable=durable), data.name: digest
    }  # fmt: skip


def _whole(graph: Graph, file: HashedFile) -> None:
    """One ModelProto: the graph without weights, and each of them behind it, never all of them in memory."""
    outer, inner = _shell(graph.model)
    heads = [(tensor, _head(tensor)) for tensor in graph.model.graph.initializer]
    sizes = [_length(graph.path, tensor) for tensor, _ in heads]
    parts = [_initializer_head(head, size) for (_, head), size in zip(heads, sizes, strict=True)]
    total = len(inner) + sum(len(part) + size for part, size in zip(parts, sizes, strict=True))
    file.put(outer + _GRAPH + _varint(total) + inner)
    for (tensor, _), part in zip(heads, parts, strict=True):
        file.put(part)
        _copy(graph.path, tensor, file)


def _initializer_head(head: bytes, size: int) -> bytes:
    """Everything of one initializer but its data."""
    data = _RAW_DATA + _varint(size) if size else b""
    return _INITIALIZER + _varint(len(head) + len(data) + size) + head + data


def _shell(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """The model without its graph, and the graph without its initializers."""
    outer, inner = type(model)(), type(model.graph)()
    for target, source, left_out in ((outer, model, "graph"), (inner, model.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == left_out:
                continue
            if hasattr(value, "extend"):
                getattr(target, field.name).extend(value)
            elif hasattr(value, "CopyFrom"):
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)
    return outer.SerializeToString(deterministic=True), inner.SerializeToString(deterministic=True)


def _head(tensor: onnx.TensorProto) -> bytes:
    """A tensor without raw data and without the place where they lay; typed data stay."""
    head = type(tensor)()
    for field, value in tensor.ListFields():
        if field.name in {"raw_data", "external_data", "data_location"}:
            continue
        if hasattr(value, "extend"):
            getattr(head, field.name).extend(value)
        else:
            setattr(head, field.name, value)
    content: bytes = head.SerializeToString(deterministic=True)
    return content


def _length(path: Path, tensor: onnx.TensorProto) -> int:
    from onnx.external_data_helper import uses_external_data

    if not uses_external_data(tensor):
        return len(tensor.raw_data)
    told = next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), None)
    return place(path, tensor)[2] if told is None else told


def _copy(path: Path, tensor: onnx.TensorProto, file: HashedFile) -> None:
    from onnx.external_data_helper import uses_external_data

    if not uses_external_data(tensor):
        file.put(tensor.raw_data)
        return
    with open_outside(path, tensor) as (stream, _, length):
        file.copy(stream, length)


def _padded(path: Path, tensors: Sequence[onnx.TensorProto], file: HashedFile) -> None:
    for tensor in tensors:
        _copy(path, tensor, file)
        file.put(bytes(-_length(path, tensor) % ALIGNMENT))


def _referring(graph: Graph, location: str) -> bytes:
    """The graph, whose initializers lie one after the other in a file beside it."""
    import onnx

    outer, inner = _shell(graph.model)
    offset, parts = 0, []
    for tensor in graph.model.graph.initializer:
        size = _length(graph.path, tensor)
        head = onnx.TensorProto.FromString(_head(tensor))
        if size:
            head.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", str(offset)), ("length", str(size))):
                head.external_data.add(key=key, value=value)
            offset += size + -size % ALIGNMENT
        content = head.SerializeToString(deterministic=True)
        parts.append(_INITIALIZER + _varint(len(content)) + content)
    body = inner + b"".join(parts)
    return outer + _GRAPH + _varint(len(body)) + body


def _write(path: Path, fill: Callable[[HashedFile], None], *, durable: bool) -> str:
    """Writes a whole file or nothing, and hashes on the way."""
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    with disk_guard(f"writing {path}", path=path.parent):
        try:
            with os.fdopen(os.open(temporary, NEW_FILE, 0o600), "wb") as stream, HashedFile(stream) as file:
                fill(file)
                digest = file.sha256()
                os.fchmod(stream.fileno(), 0o644)
                if durable:
                    sync(stream.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)
    return digest


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >> 7:  # seven bits a byte, the lowest first; the eighth says that more follow
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
