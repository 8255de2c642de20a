"""The OpenVINO engine: the ONNX file itself, with every option fixed, compiled by OpenVINO where it is opened."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar, final

import numpy as np

from targets.engines.base import Array, Availability, Engine, EngineBuild, Inspection, Runner, ports
from targets.engines.lint_graph import interface_faults
from targets.engines.lint_onnxruntime import lint_onnxruntime
from targets.engines.lint_openvino import lint_openvino
from targets.engines.onnxweights import Graph, write_graph
from targets.engines.opened import in_one_file, stored
from targets.engines.openvino_snippets import dense_layers_of_integers, joins_of_dense_layers
from targets.errors import DeviceError, Fault
from targets.ondevice.failure import Failure
from targets.ondevice.openvino_module import (
    has_device,
    import_openvino,
    message,
    openvino_errors,
    short_version,
)
from targets.ondevice.runner import Runner as DeviceRunner
from targets.ondevice.runner import open_runner
from targets.ondevice.session import read_spec
from targets.ondevice_errors import from_failure
from targets.onnxfile import io_of
from targets.options import OpenVinoOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import onnx

    from targets.options import Precision
    from targets.profile import TargetProfile

_T = TypeVar("_T")

_ENGINE_FILE: Final = "engine.onnx"
_MINIMUM: Final = (2024, 4)
_INSTALL: Final = "pip install 'edgepress[openvino]'  (openvino>=2024.4; 2026.4.1 is what it is tested with)"
_TEXTS: Final = ("doc_string", "metadata_props")
_COMPUTES_IN: Final[Mapping[Precision, str]] = {"fp16": "f16", "bf16": "bf16"}


@final
class OpenVinoEngine(Engine):
    """Builds and runs engines of OpenVINO's CPU, GPU and NPU plugins.

    The engine file is the ONNX model without texts: OpenVINO compiles it where it is opened, for that device and batch
    size (see `targets.ondevice.openvino_runner` for why no compiled model is shipped). So the same model gives the same
    bytes on any host, and no engine is bound to a version of OpenVINO.
    """

    name = "openvino"

    def available(self) -> Availability:
        """Whether a recent openvino is installed."""
        try:
            version = short_version(import_openvino())
        except Failure as failure:
            return Availability(ok=False, why=failure.why, fix=_INSTALL)
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM:
            return Availability(ok=False, why=f"openvino {version} is too old", fix=_INSTALL)
        return Availability(ok=True, why=f"openvino {version}")

    def runs(self, profile: TargetProfile) -> Availability:
        """Whether OpenVINO and the plugin of that profile are here; an engine for another CPU runs, for its outputs."""
        there = self.available()
        if not there.ok:
            return there
        device, runtime = _of(profile).device, import_openvino()
        found = [str(name) for name in runtime.Core().available_devices]
        if not has_device(found, device):
            return Availability(
                ok=False,
                why=f"{there.why} finds no {device} here, only {', '.join(found) or 'nothing'}",
                fix=f"run it where the {device} and its driver are",
            )
        return there

    def _check(self, model: Path, _profile: TargetProfile) -> list[Fault]:
        source = stored(model)
        faults = [*interface_faults(model.name, io_of(source.model)), *lint_onnxruntime(source.model, model)]
        return [*faults, *lint_openvino(source)]

    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild:
        source = in_one_file(model)
        io = io_of(source.model)
        digests = write_graph(Graph(path=model, model=_without_texts(source.model)), out / _ENGINE_FILE)
        return EngineBuild(
            folder=out,
            engine=self.name,
            file=_ENGINE_FILE,
            runtime="openvino",
            runtime_version=short_version(import_openvino()),
            precision=precision,
            options=_options(profile, precision, source.model),
            inputs=ports([dict(item) for item in io["inputs"]]),
            outputs=ports([dict(item) for item in io["outputs"]]),
            sha256=digests[_ENGINE_FILE],
            model="" if _of(profile).device == "CPU" else _ENGINE_FILE,
        )

    def _inspect(self, build: EngineBuild) -> Inspection:
        from targets.engines.openvino_inspect import inspect_build

        return inspect_build(build)

    def _open(self, build: EngineBuild) -> Runner:
        return _OpenVinoRunner(build)


@final
class _OpenVinoRunner(Runner):
    """Compiles and runs in a thread of its own.

    Compiling sets the thread that does it to flush subnormals, for everything it computes from then on, and an
    inference computes in the thread that asks for it.
    """

    def __init__(self, build: EngineBuild) -> None:
        super().__init__(build)
        self._names = [port.name for port in build.outputs]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="openvino")
        self._runner: DeviceRunner | None = None
        try:
            self._runner = self._in_thread(lambda: _opened(build))
        except BaseException:
            self.close()
            raise

    def _infer(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        assert self._runner is not None
        runner = self._runner
        try:
            outputs = self._in_thread(lambda: runner.run(feed))
        except openvino_errors() as error:
            raise DeviceError(
                "the engine failed on this batch",
                message(error),
                "check that the samples are what the model was exported for",
            ) from error
        return dict(zip(self._names, outputs, strict=True))

    def _in_thread(self, work: Callable[[], _T]) -> _T:
        try:
            return self._thread.submit(work).result()
        except Failure as failure:
            raise from_failure(failure) from failure

    def close(self) -> None:
        """Frees the compiled models and the thread."""
        self._runner = None
        self._thread.shutdown()


def _opened(build: EngineBuild) -> DeviceRunner:
    """The engine, compiled for one sample: what the runtime refuses, it refuses now."""
    runner = open_runner(build.folder, read_spec(build.folder))
    runner.prepare(one_sample(build))
    return runner


def one_sample(build: EngineBuild) -> dict[str, Array]:
    """Normally distributed numbers for one sample (integers: zeros); a fixed batch size stays as it is."""
    random = np.random.default_rng(0)
    found = {}
    for port in build.inputs:
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        dtype = np.dtype(port.dtype)
        found[port.name] = (random.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)).astype(dtype)
    return found


def _of(profile: TargetProfile) -> OpenVinoOptions:
    assert isinstance(profile.engine, OpenVinoOptions), profile.engine.name
    return profile.engine


def _options(profile: TargetProfile, precision: Precision, model: onnx.ModelProto) -> dict[str, object]:
    """What `targets.ondevice.openvino_module.settings` opens it with, and the CPU it was built for."""
    options = _of(profile)
    found = options.device == "CPU" and (joins_of_dense_layers(model) or dense_layers_of_integers(model))
    without = {"snippets": False} if found else {}
    return without | {
        "device": options.device,
        "threads": options.threads,
        "precision": _COMPUTES_IN.get(precision, "f32"),
        "denormal_as_zero": options.denormal_as_zero,
        "arch": profile.hardware.arch,
        "isa": sorted(profile.hardware.isa),
    }


def _without_texts(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without names of tools, comments and paths; what it computes and what its nodes are called stays."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(proto)
    for field in ("producer_name", "producer_version", "model_version", "domain", *_TEXTS):
        model.ClearField(field)
    _clear(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
    return model


def _clear(graph: onnx.GraphProto) -> None:
    for item in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        for field in _TEXTS:
            item.ClearField(field)
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    _clear(inner)
