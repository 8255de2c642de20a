"""The ONNX Runtime engine: optimises offline for the target's CPU, fixes all options, opens what was built."""

from __future__ import annotations

import copy
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from targets import machine
from targets.engines.base import HOST_ARITHMETIC, Array, Availability, Engine, EngineBuild, Inspection, Runner, ports
from targets.engines.lint_onnxruntime import lint_onnxruntime
from targets.errors import DeviceError, Fault, InputError
from targets.files import sha256_file, write_atomic
from targets.ondevice import session as ondevice_session
from targets.ondevice.failure import Failure
from targets.ondevice_errors import from_failure
from targets.onnxfile import io_of, open_onnx
from targets.options import OnnxRuntimeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from targets.options import Precision
    from targets.profile import TargetProfile

_ENGINE_FILE: Final = "engine.onnx"
_KNOWN_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MINIMUM: Final = (1, 24)
SCOPE_HERE: Final = "as it runs on this class of CPU"
SCOPE_HOST: Final = "as optimised on the build host; the target's own runtime optimises again when it loads the engine"


@final
class OnnxRuntimeEngine(Engine):
    """Builds and runs engines of ONNX Runtime's CPU provider.

    Where this machine computes as the target does, the graph is optimised to the end offline and opened without
    further optimisation: what was inspected is what runs. For another CPU only the optimisations that hold on every
    CPU are done, and the device finishes them when it loads: the last level chooses memory layouts by CPU (blocks of
    16 channels with AVX-512, 8 with AVX2), so a layout made for one CPU is wrong on the other.
    """

    name = "onnxruntime"

    def available(self) -> Availability:
        """Whether a recent onnxruntime is installed."""
        try:
            runtime = ondevice_session.import_runtime()
        except Failure as failure:
            return Availability(ok=False, why=failure.why, fix="pip install onnxruntime")
        version = str(runtime.__version__)
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM:
            return Availability(ok=False, why=f"onnxruntime {version} is too old", fix="pip install -U onnxruntime")
        return Availability(ok=True, why=f"onnxruntime {version}")

    def _check(self, model: Path, profile: TargetProfile) -> list[Fault]:
        proto = open_onnx(model)
        io = io_of(proto)
        faults = [
            Fault(
                where=f"node {node.name or node.op_type!r}",
                what=f"operator {node.domain}.{node.op_type} is not part of ONNX Runtime",
                fix="express it with standard ONNX operators",
            )
            for node in proto.graph.node
            if node.domain not in _KNOWN_DOMAINS
        ]
        faults += lint_onnxruntime(proto)
        faults += [
            Fault(
                where=f"input {spec['name']!r}",
                what=f"axis {axis} has no fixed size ({size!r})",
                fix="export the model with a free batch axis only",
            )
            for spec in io["inputs"]
            for axis, size in enumerate(spec["shape"])
            if axis and not isinstance(size, int)
        ]
        faults += [
            Fault(
                where=f"output {spec['name']!r}",
                what="it is one number for a whole batch",
                fix="export the model so that every output has a batch axis",
            )
            for spec in io["outputs"]
            if not spec["shape"]
        ]
        if not io["outputs"]:
            faults.append(Fault(where=model.name, what="it has no output", fix="export the model again"))
        if is_tuned_here(profile):
            runtime = ondevice_session.import_runtime()
            faults += [
                Fault(
                    where="engine.providers",
                    what=f"this onnxruntime has no {provider!r}",
                    fix=f"use one of {', '.join(runtime.get_available_providers())}",
                )
                for provider in _of(profile).providers
                if provider not in runtime.get_available_providers()
            ]
        return faults

    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild:
        proto = open_onnx(model)
        here = is_tuned_here(profile)
        optimised = optimise(proto, _options(profile, "all" if here else "basic"))
        write_atomic(out / _ENGINE_FILE, optimised.SerializeToString(deterministic=True))
        io = io_of(proto)
        return EngineBuild(
            folder=out,
            engine=self.name,
            file=_ENGINE_FILE,
            runtime="onnxruntime",
            runtime_version=str(ondevice_session.import_runtime().__version__),
            precision=precision,
            options=_options(profile, "disabled" if here else "all"),
            inputs=ports([dict(item) for item in io["inputs"]]),
            outputs=ports([dict(item) for item in io["outputs"]]),
            sha256=sha256_file(out / _ENGINE_FILE),
        )

    def _inspect(self, build: EngineBuild) -> Inspection:
        from targets.engines.onnxruntime_inspect import inspect_optimised

        proto = open_engine_file(build.folder / build.file)
        if build.options["optimization"] == "disabled":
            return inspect_optimised(proto, build, SCOPE_HERE)
        return inspect_optimised(optimise(proto, build.options), build, SCOPE_HOST)

    def _open(self, build: EngineBuild) -> Runner:
        return _OrtRunner(build)


@final
class _OrtRunner(Runner):
    """Opens and runs the session in a thread of its own.

    The first session of a process may set its thread to flush subnormals; ours must go on computing as it did. Later
    sessions do not set it any more: outputs that must be those of the device come from a fresh process
    (`targets.engines.child.infer_in_child`).
    """

    def __init__(self, build: EngineBuild) -> None:
        super().__init__(build)
        self._names = [port.name for port in build.outputs]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")
        try:
            spec = ondevice_session.read_spec(build.folder)
            opening = self._thread.submit(ondevice_session.open_session, build.folder, spec)
            self._session: Any = opening.result()
        except Failure as failure:
            self._thread.shutdown()
            raise from_failure(failure) from failure

    def _infer(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            outputs = self._thread.submit(self._session.run, self._names, dict(feed)).result()
        except ondevice_session.runtime_errors() as error:
            raise DeviceError(
                "the engine failed on this batch",
                " ".join(str(error).split())[:500],
                "check that the samples are what the model was exported for",
            ) from error
        return dict(zip(self._names, outputs, strict=True))

    def close(self) -> None:
        """Frees the session and its thread."""
        self._session = None
        self._thread.shutdown()


def is_tuned_here(profile: TargetProfile) -> bool:
    """Whether the runtime on this machine chooses the same layouts and kernels as on the target."""
    hardware = profile.hardware
    return machine.provides(hardware.arch, hardware.isa) and (
        ("avx512f" in hardware.isa) == ("avx512f" in machine.cpu_features())
    )


def optimise(proto: onnx.ModelProto, options: Mapping[str, object]) -> onnx.ModelProto:
    """The graph after ONNX Runtime's optimiser, stripped of names of tools, texts and unused operator sets.

    Raises:
        InputError: The runtime refuses the model.
    """
    runtime = ondevice_session.import_runtime()
    settings = ondevice_session.session_options(runtime, {**options, **HOST_ARITHMETIC})
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        path = Path(folder) / "optimised.onnx"
        settings.optimized_model_filepath = str(path)
        try:
            runtime.InferenceSession(proto.SerializeToString(), settings, providers=options["providers"])
        except ondevice_session.runtime_errors() as error:
            raise InputError(
                f"onnxruntime {runtime.__version__} cannot build the model",
                " ".join(str(error).split())[:500],
                "check the node it names; `edgepress export` writes models that it accepts",
            ) from error
        return _canonical(open_engine_file(path))


def open_engine_file(path: Path) -> onnx.ModelProto:
    """An optimised graph that this process or an earlier build wrote (its inner domains are no ONNX operator sets)."""
    import onnx

    return onnx.load(str(path), load_external_data=False)


def _canonical(proto: onnx.ModelProto) -> onnx.ModelProto:
    used = {node.domain for node in proto.graph.node} | {""}
    kept = sorted((item.domain, item.version) for item in proto.opset_import if item.domain in used)
    del proto.opset_import[:]
    for domain, version in kept:
        proto.opset_import.add(domain=domain, version=version)
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        proto.ClearField(field)
    graph = proto.graph
    for item in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    ordered = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(ordered)
    shapes = sorted(graph.value_info, key=lambda value: value.name)
    del graph.value_info[:]
    graph.value_info.extend(shapes)
    nodes = _in_graph_order(graph)
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def _in_graph_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Copies of the nodes, in an order and with names that the graph alone decides.

    The runtime adds the nodes that leave its blocked layout in the order of addresses in memory, so their names and
    the order of branches would differ from build to build. Here: depth first from the outputs.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    pending = [
        *reversed(range(len(graph.node))),
        *(maker[item.name] for item in reversed(graph.output) if item.name in maker),
    ]
    while pending:
        index = pending[-1]
        missing = [maker[name] for name in _consumed(graph.node[index]) if name in maker and maker[name] not in done]
        if missing and index not in done:
            pending += reversed(missing)
            continue
        done.setdefault(pending.pop())
    nodes = [copy.deepcopy(graph.node[index]) for index in done]
    for node in nodes:
        if node.op_type == "ReorderOutput":
            node.name = f"{node.output[0]}_reorder"
    return nodes


def _consumed(node: onnx.NodeProto) -> list[str]:
    """Names of the tensors that a node reads, in its subgraphs too."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return [*node.input, *(name for graph in graphs for inner in graph.node for name in _consumed(inner))]


def _of(profile: TargetProfile) -> OnnxRuntimeOptions:
    assert isinstance(profile.engine, OnnxRuntimeOptions), profile.engine.name
    return profile.engine


def _options(profile: TargetProfile, optimization: str) -> dict[str, object]:
    options = _of(profile)
    return {
        "providers": list(options.providers),
        "threads": options.threads,
        "allow_spinning": options.allow_spinning,
        "memory_pattern": options.memory_pattern,
        "denormal_as_zero": options.denormal_as_zero,
        "optimization": optimization,
    }
