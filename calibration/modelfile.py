"""Reads and writes models of any size: a protobuf ends at 2 GiB, weights beyond lie in a file beside it."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir

from targets.files import sha256_file
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 64 * 1024**3
"""Limit for a float model and its external data together."""

ONE_FILE_BYTES: Final = 3 * 1024**3 // 2
"""Models with more bytes of weights are never serialised in one piece."""

_KEPT_BYTES: Final = 4096  # shapes, axes and scalars: shape inference reads them
_DATA: Final = ".data"


def open_float(path: Path) -> onnx.ModelProto:
    """The model in ``path`` with its external data, up to 64 GiB; errors are those of `targets.onnxfile.open_onnx`."""
    return open_onnx(path, max_bytes=MAX_BYTES)


def model_sha256(path: Path) -> str:
    """Hash of the model's file; where weights lie in other files, of all of them."""
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    hashes = [sha256_file(path), *(f"{name} {sha256_file(path.parent / name)}" for name in sorted(names))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def without_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy of a model whose large weights are inputs, and these weights; small models are given back as they are."""
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= ONE_FILE_BYTES:
        return model, {}
    large = {t.name: t for t in model.graph.initializer if len(t.raw_data) > _KEPT_BYTES}
    light = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name == "initializer":
            light.graph.initializer.extend(tensor for tensor in value if tensor.name not in large)
        else:
            _copy(light.graph, field.name, value)
    for name, tensor in large.items():
        light.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return light, large


def with_weights(graph: ir.Graph, weights: dict[str, onnx.TensorProto]) -> None:
    """Undoes `without_weights` on the graph read from its copy."""
    for value in [*graph.inputs]:
        if value.name in weights:
            graph.inputs.remove(value)
            value.const_value = ir.serde.deserialize_tensor(weights[value.name])
            graph.register_initializer(value)


def serialize(model: ir.Model) -> bytes:
    """The model as bytes; the same model gives the same bytes. For models that fit one file."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def save(model: ir.Model, path: Path) -> None:
    """Writes the model; the weights of a large one into ``NAME.data`` beside it."""
    if _weight_bytes(model) <= ONE_FILE_BYTES:
        path.write_bytes(serialize(model))
    else:
        ir.save(model, path, external_data=path.name + _DATA)


@contextmanager
def runnable(model: ir.Model) -> Iterator[bytes | Path]:
    """What `calibration.session.Session` opens: the model's bytes, or a temporary file for a large one."""
    if _weight_bytes(model) <= ONE_FILE_BYTES:
        yield serialize(model)
        return
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        yield path


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _copy(target: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    """Copies one field of a message, whether it is repeated, a message or a scalar."""
    field = getattr(target, name)
    if hasattr(field, "extend"):
        field.extend(value)
    elif hasattr(field, "CopyFrom"):
        field.CopyFrom(value)
    else:
        setattr(target, name, value)
