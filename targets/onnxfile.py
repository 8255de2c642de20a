"""The only way to open an ONNX file: size, shape of the file, containment and sanity are checked before it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

from targets.errors import InputError
from targets.onnxbytes import read_graph_bytes, read_model_bytes
from targets.onnxcontent import check_content
from targets.onnxtensors import check_values, external_bytes, is_inside, load_external, load_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

MAX_FILE_BYTES: Final = 2 * 1024**3
MAX_OUTSIDE_BYTES: Final = 64 * 1024**3
ONE_FILE_BYTES: Final = 2 * 1024**3 - 64 * 1024**2
"""More weights than this stay outside the graph: protobuf ends at 2 GiB, and the graph needs some room itself."""
MAX_NODES: Final = 1_000_000
MAX_ELEMENTS: Final = 2 * 1024**3
OPSETS: Final = range(11, 24)

_FREE_WEIGHTS_IR: Final = 4  # before, every initializer had to be an input too


class TensorSpec(TypedDict):
    """One input or output: ``dtype`` is numpy's name, a free dimension is a name."""

    name: str
    dtype: str
    shape: list[int | str]


class ModelIo(TypedDict):
    """What a model takes and gives, as ``io.json`` says it."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


def open_onnx(
    path: Path, *, max_bytes: int = MAX_FILE_BYTES, max_nodes: int = MAX_NODES, max_elements: int = MAX_ELEMENTS
) -> onnx.ModelProto:
    """The model in ``path``, external data loaded; weights that older files also list as inputs are weights only.

    Args:
        path: An ``.onnx`` file.
        max_bytes: Limit for the file and its external data together.
        max_nodes: Limit for the nodes of the graph, its subgraphs and functions.
        max_elements: Limit for the elements of one tensor.

    Raises:
        InputError: Missing, empty, truncated, no ONNX model, too large, wrong opset, or NaN or Inf in a weight.
        RefusedError: External data outside the model's folder, behind a link, or past the end of its file.
    """
    model, _ = _parsed(path, read_model_bytes(path, max_bytes), max_nodes)
    tensors = _sized(path, model, max_elements)
    load_external(path, tensors, max_bytes - path.stat().st_size)
    for tensor in tensors:
        check_values(path, tensor)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model as `open_stored` found it.

    Attributes:
        path: Its file.
        model: The graph; weights are in it, or still in the file itself or in the files that it names.
        outside: Whether large weights are still there; `targets.onnxtensors` reads them.
        beside: Whether weights lie in other files than this one.
        changed: Whether the graph is no longer what the file says (weights that the file lists as inputs too).
    """

    path: Path
    model: onnx.ModelProto
    outside: bool
    beside: bool
    changed: bool

    def check_values(self) -> None:
        """Checks the numbers of every tensor.

        Raises:
            InputError: One does not fit its shape and type, or holds NaN, or Inf where that is no mask.
        """
        for tensor in every_tensor(self.model):
            check_values(self.path, tensor)


def open_stored(
    path: Path, *, max_bytes: int = MAX_OUTSIDE_BYTES, max_nodes: int = MAX_NODES, max_elements: int = MAX_ELEMENTS
) -> Stored:
    """The graph of what `open_onnx` gives, large weights left in the file.

    Those of other files are read, where a single protobuf can hold them. Every check is the same: weights
    that stay are read once, piece by piece.

    Args:
        path: An ``.onnx`` file.
        max_bytes: Limit for the file and its external data together.
        max_nodes: As for `open_onnx`.
        max_elements: As for `open_onnx`.

    Raises:
        InputError: As for `open_onnx`.
        RefusedError: As for `open_onnx`.
    """
    found = open_graph(path, max_bytes=max_bytes, max_nodes=max_nodes, max_elements=max_elements)
    found.check_values()
    return found


def open_graph(
    path: Path, *, max_bytes: int = MAX_OUTSIDE_BYTES, max_nodes: int = MAX_NODES, max_elements: int = MAX_ELEMENTS
) -> Stored:
    """What `open_stored` gives, its weights not looked at yet: whoever uses it has `Stored.check_values` done too.

    Args:
        path: As for `open_stored`.
        max_bytes: As for `open_stored`.
        max_nodes: As for `open_stored`.
        max_elements: As for `open_stored`.

    Raises:
        InputError: As for `open_onnx`, but for numbers in tensors.
        RefusedError: As for `open_onnx`.
    """
    model, changed = _parsed(path, read_graph_bytes(path, MAX_FILE_BYTES), max_nodes)
    tensors = _sized(path, model, max_elements)
    inside, outside = path.stat().st_size, external_bytes(path, tensors)
    if inside + outside > max_bytes:
        raise InputError(
            f"{path.name} has {inside + outside} bytes of weights", f"the limit is {max_bytes}", "use a smaller model"
        )
    large = outside > 0 and inside + outside > ONE_FILE_BYTES
    if large:
        load_small(path, tensors)
    else:
        load_external(path, tensors, outside)
    left = large or any(map(is_inside, tensors))
    return Stored(path=path, model=model, outside=left, beside=outside > 0, changed=changed)


def _parsed(path: Path, data: bytes, max_nodes: int) -> tuple[onnx.ModelProto, bool]:
    model = _parse(path, data)
    _check_opset(path, model)
    changed = _unlist_weights(model)
    nodes = sum(len(nodes) for nodes in _graphs(model))
    if nodes > max_nodes:
        raise InputError(f"{path.name} has {nodes} nodes", f"the limit is {max_nodes}", "use a smaller model")
    return model, changed


def _sized(path: Path, model: onnx.ModelProto, max_elements: int) -> list[onnx.TensorProto]:
    check_content(path, _graphs(model), model, max_elements)
    tensors = [*every_tensor(model)]
    for tensor in tensors:
        _check_size(path, tensor, max_elements)
    return tensors


def io_of(model: onnx.ModelProto) -> ModelIo:
    """Inputs and outputs of the model; initializers that older files also list as inputs are left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return ModelIo(
        inputs=[_spec(value) for value in model.graph.input if value.name not in constants],
        outputs=[_spec(value) for value in model.graph.output],
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InputError(
            f"model input or output {value.name!r} is a {str(kind).removesuffix('_type')}",
            "only dense tensors can be fed and compared",
            "export the model so that it takes and gives tensors",
        )
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise InputError(
            f"model input or output {value.name!r} has no shape",
            "its number of dimensions must be known before any sample is run",
            "export again with shapes, or run onnx.shape_inference on the file",
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        raise InputError(
            f"model input or output {value.name!r} has element type {tensor.elem_type}",
            "ONNX knows no such type",
            "export the model again",
        ) from None
    shape = [size_or_name(value.name, axis, dim) for axis, dim in enumerate(tensor.shape.dim)]
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def ranks_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many dimensions each tensor of the graph has, as far as shape inference tells."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }


def size_or_name(tensor_name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """Of an axis of an input or output: its size, or what it is called where that is free."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:  # some exporters write -1 for a free dimension
        return int(dim.dim_value)
    return dim.dim_param or ("batch" if axis == 0 else f"{tensor_name}_{axis}")


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(
            f"{path.name} ({len(data)} bytes) is no readable ONNX model",
            "it is truncated, nested too deeply, or of another format",
            "export or download it again and compare its size or checksum",
        ) from error
    if not model.HasField("graph") or not model.graph.node:
        raise InputError(f"{path.name} holds no graph", "an ONNX model has at least one node", "export it again")
    return model


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    versions = [opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"}]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputError(
            f"{path.name} has opset {versions[0] if versions else 'none'}",
            f"opsets {OPSETS[0]} to {OPSETS[-1]} are supported",
            "export it again with such an opset, or use onnx.version_converter",
        )


def _unlist_weights(model: onnx.ModelProto) -> bool:
    """Drops inputs that only give a weight's default value: no runtime folds or fuses a weight that may be fed.

    Returns:
        Whether anything changed.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) == len(model.graph.input) and model.ir_version >= _FREE_WEIGHTS_IR:
        return False
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _FREE_WEIGHTS_IR)
    return True


def _graphs(model: onnx.ModelProto) -> list[list[onnx.NodeProto]]:
    """The node lists of the graph, of every subgraph and of every function."""
    return [[*nodes] for nodes, _ in _walk(model)]


def _walk(model: onnx.ModelProto) -> Iterator[tuple[Iterable[onnx.NodeProto], onnx.GraphProto | None]]:
    todo: list[tuple[Iterable[onnx.NodeProto], onnx.GraphProto | None]] = [(model.graph.node, model.graph)]
    todo += [(function.node, None) for function in model.functions]
    while todo:
        nodes, graph = todo.pop()
        yield nodes, graph
        for node in nodes:
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                todo += [(subgraph.node, subgraph) for subgraph in inner]


def every_tensor(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in the model: dense and sparse initializers and attributes, subgraphs included."""
    for nodes, graph in _walk(model):
        sparse = [*graph.sparse_initializer] if graph is not None else []
        if graph is not None:
            yield from graph.initializer
        for node in nodes:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                sparse += [*attribute.sparse_tensors]
                if attribute.HasField("sparse_tensor"):
                    sparse.append(attribute.sparse_tensor)
        for tensor in sparse:
            yield tensor.values
            yield tensor.indices


def _check_size(path: Path, tensor: onnx.TensorProto, max_elements: int) -> None:
    dims = [int(dim) for dim in tensor.dims]
    if any(dim < 0 for dim in dims) or math.prod(dims) > max_elements:
        raise InputError(
            f"tensor {tensor.name!r} of {path.name} has shape {dims}",
            f"no dimension may be negative, and {max_elements} elements are the limit",
            "export the model again",
        )
