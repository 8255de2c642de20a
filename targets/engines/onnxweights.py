"""Writes a graph with its weights, wherever they lie, as one ONNX file, or as a graph and a file of weights."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets import onnxfile
from targets.files import NEW_FILE, disk_guard, fsync_folder
from targets.onnxtensors import open_outside, place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

ALIGNMENT: Final = 4096
"""Weights outside the graph start at multiples of this, so that a runtime can map them."""

_BLOCK: Final = 1 << 22
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
    if weights_bytes(graph) <= onnxfile.ONE_FILE_BYTES:
        return {out.name: _write(out, _whole(graph))}
    data = out.with_name(f"{out.name}.data")
    weights = [*graph.model.graph.initializer]
    digest = _write(data, _padded(graph.path, weights))
    return {out.name: _write(out, [_referring(graph, data.name)]), data.name: digest}


def _whole(graph: Graph) -> Iterator[bytes]:
    """One ModelProto: the graph without weights, and each of them behind it, never all of them in memory."""
    outer, inner = _shell(graph.model)
    heads = [(tensor, _head(tensor)) for tensor in graph.model.graph.initializer]
    sizes = [_length(graph.path, tensor) for tensor, _ in heads]
    parts = [_initializer_head(head, size) for (_, head), size in zip(heads, sizes, strict=True)]
    total = len(inner) + sum(len(part) + size for part, size in zip(parts, sizes, strict=True))
    yield outer + _GRAPH + _varint(total) + inner
    for (tensor, _), part in zip(heads, parts, strict=True):
        yield part
        yield from _data(graph.path, tensor)


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

    return place(path, tensor)[2] if uses_external_data(tensor) else len(tensor.raw_data)


def _data(path: Path, tensor: onnx.TensorProto) -> Iterator[bytes]:
    from onnx.external_data_helper import uses_external_data

    if not uses_external_data(tensor):
        yield tensor.raw_data
        return
    with open_outside(path, tensor) as (stream, _, length):
        left = length
        while left > 0:
            block = stream.read(min(left, _BLOCK))
            if not block:
                raise EOFError(f"the data of {tensor.name!r} became shorter")
            left -= len(block)
            yield block


def _padded(path: Path, tensors: Iterable[onnx.TensorProto]) -> Iterator[bytes]:
    for tensor in tensors:
        size = _length(path, tensor)
        yield from _data(path, tensor)
        yield bytes(-size % ALIGNMENT)


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


def _write(path: Path, blocks: Iterable[bytes]) -> str:
    """Writes a whole file or nothing, and hashes on the way."""
    digest = hashlib.sha256()
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    with disk_guard(f"writing {path}", path=path.parent):
        try:
            with os.fdopen(os.open(temporary, NEW_FILE, 0o600), "wb") as stream, ThreadPoolExecutor(1) as hashing:
                for block in blocks:
                    hashing.submit(digest.update, block)  # in their order: there is one thread
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
                os.fchmod(stream.fileno(), 0o644)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
    return digest.hexdigest()


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >> 7:  # seven bits a byte, the lowest first; the eighth says that more follow
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
