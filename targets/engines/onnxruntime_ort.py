"""ONNX Runtime's own file format, and the operators and types that a runtime built for one model must hold."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from targets import onnxfile
from targets.engines.base import HOST_ARITHMETIC
from targets.engines.onnxruntime_graph import canonical, open_engine_file, start_session
from targets.engines.onnxweights import Graph, weights_bytes, write_scratch
from targets.errors import InputError
from targets.ondevice import session as ondevice_session

if TYPE_CHECKING:
    from collections.abc import Mapping

Builder = Any  # flatbuffers.Builder
Classes = Any  # what the flatbuffers compiler made of the runtime's schema: no types in either
Table = Any

OPERATORS: Final = "required_operators.config"
TYPES: Final = "required_operators_and_types.config"
"""What ``build.sh --include_ops_by_config FILE`` of ONNX Runtime takes; for the second also
``--enable_reduced_operator_type_support``: https://onnxruntime.ai/docs/build/custom.html."""

_ALIGNMENT: Final = 16
_IDENTIFIER: Final = b"ORTM"


def to_ort(graph: Graph, options: Mapping[str, object]) -> bytes:
    """The graph as it is, in ORT format: written by the runtime, then made the same for every process.

    The runtime writes one table, that of the kernels' type names, in the order of a hash table with a random seed;
    everything else of its file depends on the graph alone. That table is written anew, sorted.

    Raises:
        InputError: The runtime refuses the model, or its weights are too large for one file.
    """
    if weights_bytes(graph) > onnxfile.ONE_FILE_BYTES:
        raise InputError(
            "the model is too large for ORT format",
            f"its weights have {weights_bytes(graph)} bytes, the format ends at 2 GiB",
            'take format = "onnx", which keeps weights outside the graph',
        )
    runtime = ondevice_session.import_runtime()
    settings = ondevice_session.session_options(runtime, {**options, "optimization": "disabled", **HOST_ARITHMETIC})
    settings.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "engine.ort"
        settings.optimized_model_filepath = str(path)
        plain = Path(folder) / "plain.onnx"
        write_scratch(graph, plain)
        start_session(str(plain), settings)
        return _sorted_resolver(path.read_bytes())


def from_ort(path: Path, out: Path) -> Graph:
    """The graph in an ORT format file, as ONNX in the new file ``out``.

    Raises:
        InputError: The runtime refuses the file.
    """
    runtime = ondevice_session.import_runtime()
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.save_model_format", "ONNX")
    settings.optimized_model_filepath = str(out)
    start_session(str(path), settings)
    return Graph(path=out, model=canonical(open_engine_file(out)))


def required_operators(path: Path) -> dict[str, bytes]:
    """Contents of `OPERATORS` and `TYPES` for an ORT format file, by name; they name no path."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        warnings.simplefilter("ignore", ResourceWarning)  # the runtime's tool leaves the model file to the collector
        from onnxruntime.tools.ort_format_model import create_config_from_models

        logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
        found = {}
        for name, with_types in ((OPERATORS, False), (TYPES, True)):
            out = Path(folder) / name
            create_config_from_models([path], out, with_types)
            lines = [line for line in out.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
            found[name] = ("\n".join([f"# of {path.name}", *lines]) + "\n").encode()
        return found


def _sorted_resolver(data: bytes) -> bytes:
    """The file with its KernelTypeStrResolver sorted.

    A flatbuffer is written from its end to its start. The model is there first (at the end), then the resolver, then
    the root table: everything from the model's table on stays byte by byte, the rest is written again before it.
    """
    import flatbuffers  # type: ignore[import-untyped]
    from onnxruntime.tools import ort_format_model  # noqa: F401 - makes the generated classes importable
    from ort_flatbuffers_py import fbs  # type: ignore[import-not-found]

    root = fbs.InferenceSession.InferenceSession.GetRootAs(data, 0)
    version, table = root.OrtVersion(), root.Model()._tab  # noqa: SLF001
    vtable = table.Pos - flatbuffers.encode.Get(flatbuffers.packer.soffset, data, table.Pos)
    kept = data[min(table.Pos, vtable) :]  # a vtable of its own lies before the table, a shared one behind it
    builder = flatbuffers.Builder(0)
    builder.Bytes, builder.head, builder.minalign = bytearray(len(kept)) + kept, len(kept), _ALIGNMENT
    model = len(data) - table.Pos
    resolver = _resolver(builder, fbs, root.KernelTypeStrResolver())
    text = builder.CreateString(version)
    fbs.InferenceSession.Start(builder)
    fbs.InferenceSession.AddOrtVersion(builder, text)
    fbs.InferenceSession.AddModel(builder, model)
    fbs.InferenceSession.AddKernelTypeStrResolver(builder, resolver)
    builder.Finish(fbs.InferenceSession.End(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _resolver(builder: Builder, fbs: Classes, resolver: Table) -> int:
    entries = [resolver.OpKernelTypeStrArgs(index) for index in range(resolver.OpKernelTypeStrArgsLength())]
    offsets = [_operator(builder, fbs, entry) for entry in sorted(entries, key=lambda entry: entry.OpId())]
    listed = _vector(builder, offsets)
    fbs.KernelTypeStrResolver.Start(builder)
    fbs.KernelTypeStrResolver.AddOpKernelTypeStrArgs(builder, listed)
    return int(fbs.KernelTypeStrResolver.End(builder))


def _operator(builder: Builder, fbs: Classes, entry: Table) -> int:
    arguments = [entry.KernelTypeStrArgs(index) for index in range(entry.KernelTypeStrArgsLength())]
    offsets = [_argument(builder, fbs, item) for item in sorted(arguments, key=lambda item: item.KernelTypeStr())]
    listed, name = _vector(builder, offsets), builder.CreateString(entry.OpId())
    fbs.OpIdKernelTypeStrArgsEntry.Start(builder)
    fbs.OpIdKernelTypeStrArgsEntry.AddOpId(builder, name)
    fbs.OpIdKernelTypeStrArgsEntry.AddKernelTypeStrArgs(builder, listed)
    return int(fbs.OpIdKernelTypeStrArgsEntry.End(builder))


def _argument(builder: Builder, fbs: Classes, entry: Table) -> int:
    found = [entry.Args(index) for index in range(entry.ArgsLength())]
    offsets = []
    for kind, index in sorted((item.ArgType(), item.Index()) for item in found):
        fbs.ArgTypeAndIndex.Start(builder)
        fbs.ArgTypeAndIndex.AddArgType(builder, kind)
        fbs.ArgTypeAndIndex.AddIndex(builder, index)
        offsets.append(fbs.ArgTypeAndIndex.End(builder))
    listed, name = _vector(builder, offsets), builder.CreateString(entry.KernelTypeStr())
    fbs.KernelTypeStrArgsEntry.Start(builder)
    fbs.KernelTypeStrArgsEntry.AddKernelTypeStr(builder, name)
    fbs.KernelTypeStrArgsEntry.AddArgs(builder, listed)
    return int(fbs.KernelTypeStrArgsEntry.End(builder))


def _vector(builder: Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
