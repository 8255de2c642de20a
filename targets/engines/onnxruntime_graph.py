"""A graph after ONNX Runtime's optimiser, brought into the one form that the graph alone decides."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.engines.base import HOST_ARITHMETIC
from targets.engines.onnxweights import Graph, in_new_file
from targets.errors import InputError
from targets.ondevice import session as ondevice_session
from targets.ondevice.providers import CPU
from targets.onnxbytes import read_graph_bytes
from targets.onnxfile import MAX_FILE_BYTES, Stored, every_tensor
from targets.onnxtensors import SMALL_BYTES, load_external, load_small

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import onnx

LAYOUTS: Final = ("NchwcTransformer",)
"""Optimisers whose result fits one class of CPU only: blocks of 16 channels with AVX-512, of 8 with AVX2."""


@contextmanager
def optimised(source: Stored, options: Mapping[str, object], *, without: Sequence[str] = ()) -> Iterator[Graph]:
    """The graph after ONNX Runtime's optimiser, stripped of names of tools, texts and unused operator sets.

    It is made for the CPU provider: what other providers take, they take from its standard operators. Large weights lie
    in a file that is there until the context ends.

    Args:
        source: The model.
        options: As in engine.json; ``optimization`` says how far to go.
        without: Optimisers to leave out.

    Raises:
        InputError: The runtime refuses the model.
    """
    runtime = ondevice_session.import_runtime()
    settings = ondevice_session.session_options(runtime, {**options, **HOST_ARITHMETIC})
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "optimised.onnx"
        settings.optimized_model_filepath = str(path)
        for key, value in (("file_name", "optimised.data"), ("min_size_in_bytes", str(SMALL_BYTES))):
            settings.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
        start_session(str(_as_file(source, Path(folder))), settings, without=without)
        yield Graph(path=path, model=canonical(open_engine_file(path)))


def _as_file(source: Stored, folder: Path) -> Path:
    """A file that holds what ``source`` holds: its own, or a new one where the graph was changed."""
    return in_new_file(source, folder) if source.changed else source.path


def start_session(
    path: str, settings: ondevice_session.Options, *, without: Sequence[str] = ()
) -> ondevice_session.Session:
    """A session of the CPU provider on a model file.

    Raises:
        InputError: The runtime refuses the model.
    """
    runtime = ondevice_session.import_runtime()
    try:
        return runtime.InferenceSession(
            path, settings, providers=[CPU], enable_fallback=0, disabled_optimizers=[*without]
        )
    except ondevice_session.runtime_errors() as error:
        said = " ".join(str(error).split())[:500]
        fix = "check the node it names; `edgepress export` writes models that it accepts"
        if "NOT_IMPLEMENTED" in said:  # as for float16 and bfloat16, which the CPU provider hardly computes in
            fix = "ask for a precision that this engine has on this machine, or take the engine or the node out"
        raise InputError(f"onnxruntime {runtime.__version__} cannot build the model", said, fix) from error


def open_engine_file(path: Path) -> onnx.ModelProto:
    """A graph that this process or an earlier build wrote (its inner domains are no ONNX operator sets).

    Large weights stay where they are, in the file or outside it, but for those of subgraphs.
    """
    import onnx

    model: onnx.ModelProto = onnx.ModelProto.FromString(read_graph_bytes(path, MAX_FILE_BYTES))
    weights = [*model.graph.initializer]
    own = {id(tensor) for tensor in weights}
    load_small(path, weights)
    load_external(path, [tensor for tensor in every_tensor(model) if id(tensor) not in own], MAX_FILE_BYTES)
    return model


def canonical(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, changed in place: no texts, no names of tools, everything in an order of the graph's own."""
    used = {node.domain for node in proto.graph.node} | {""}
    kept = sorted({item.domain: item.version for item in proto.opset_import if item.domain in used}.items())
    del proto.opset_import[:]
    for domain, version in kept:
        proto.opset_import.add(domain=domain, version=version)
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        proto.ClearField(field)
    graph = proto.graph
    for item in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    graph.initializer.sort(key=lambda tensor: tensor.name)
    graph.value_info.sort(key=lambda value: value.name)
    _sort_nodes(graph)
    return proto


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts the nodes in an order and gives them names that the graph alone decides.

    The runtime adds the nodes that leave its blocked layout in the order of addresses in memory, so their names and
    the order of branches would differ from build to build. Here: depth first from the outputs.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    read = [[maker[name] for name in _consumed(node) if name in maker] for node in graph.node]
    done: dict[int, None] = {}
    pending = [
        *reversed(range(len(graph.node))),
        *(maker[item.name] for item in reversed(graph.output) if item.name in maker),
    ]
    while pending:
        index = pending[-1]
        missing = [source for source in read[index] if source not in done]
        if missing and index not in done:
            pending += reversed(missing)
            continue
        done.setdefault(pending.pop())
    if [*done] != [*range(len(read))]:
        nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend(nodes[index] for index in done)
    for node in graph.node:
        if node.op_type == "ReorderOutput":
            node.name = f"{node.output[0]}_reorder"


def _consumed(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors that a node reads, in its subgraphs too."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in _consumed(inner))]
