"""The ONNX Runtime engine: optimises offline for the target's CPU, fixes all options, opens what was built."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from targets.engines.base import Array, Availability, Engine, EngineBuild, Inspection, Runner, ports
from targets.engines.lint_graph import interface_faults
from targets.engines.lint_onnxruntime import lint_onnxruntime, lint_wide, warn_onnxruntime
from targets.engines.onnxruntime_graph import LAYOUTS, canonical, open_engine_file, optimised
from targets.engines.onnxruntime_ort import from_ort, required_operators, to_ort
from targets.engines.onnxruntime_providers import (
    QNN,
    finished_here,
    is_tuned_here,
    level,
    missing,
    of,
    rule,
    session_fields,
    where,
)
from targets.engines.onnxweights import Graph, write_graph
from targets.engines.opened import stored
from targets.errors import DeviceError, Fault
from targets.files import sha256_bytes, write_atomic
from targets.ondevice import session as ondevice_session
from targets.ondevice.failure import Failure
from targets.ondevice.providers import CPU, listed
from targets.ondevice_errors import from_failure
from targets.onnxfile import Stored, io_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx

    from targets.options import Precision
    from targets.profile import TargetProfile

__all__ = ["OnnxRuntimeEngine", "is_tuned_here", "open_engine_file", "open_engine_graph"]

ORT_FILE: Final = "engine.ort"
_ENGINE_FILE: Final = "engine.onnx"
_PLAIN_FILE: Final = "model.onnx"
_KNOWN_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MINIMUM: Final = (1, 24)
_INSTALL: Final = 'pip install -U "onnxruntime>=1.24"'
SCOPE_HERE: Final = "as it runs on this class of CPU"
SCOPE_HOST: Final = "as optimised on the build host; the target's own runtime optimises again when it loads the engine"


@final
class OnnxRuntimeEngine(Engine):
    """Builds and runs engines of ONNX Runtime, for the providers that the profile names.

    Where this machine computes as the target does on its CPU, the graph is optimised to the end offline and opened
    without further optimisation: what was inspected is what runs. For another CPU only the optimisations that hold on
    every CPU are done, and the device finishes them when it loads: the last level chooses memory layouts by CPU (blocks
    of 16 channels with AVX-512, 8 with AVX2), so a layout made for one CPU is wrong on the other. What other providers
    want to find is in `targets.engines.onnxruntime_providers`.
    """

    name = "onnxruntime"

    def available(self) -> Availability:
        """Whether a recent onnxruntime is installed."""
        try:
            runtime = ondevice_session.import_runtime()
        except Failure as failure:
            return Availability(ok=False, why=failure.why, fix=_INSTALL)
        version = str(runtime.__version__)
        if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM:
            return Availability(ok=False, why=f"onnxruntime {version} is too old", fix=_INSTALL)
        return Availability(ok=True, why=f"onnxruntime {version}")

    def runs(self, profile: TargetProfile) -> Availability:
        """Whether this runtime has the profile's providers; an engine for another CPU is opened, for its outputs."""
        there = self.available()
        absent = missing(profile, _available()) if there.ok else []
        if absent:
            return Availability(ok=False, why=f"{there.why} has no {', '.join(absent)}", fix=where(absent))
        return there

    def _check(self, model: Path, profile: TargetProfile) -> list[Fault]:
        proto = stored(model).model
        faults = [*_foreign_operators(proto), *lint_onnxruntime(proto, model)]
        faults += interface_faults(model.name, io_of(proto))
        if finished_here(profile) and (absent := missing(profile, _available())):
            what = f"this onnxruntime has no {', '.join(absent)}"
            faults.append(Fault(where="engine.providers", what=what, fix=where(absent)))
        options = of(profile)
        if options.providers[0] != QNN:
            faults += lint_wide(proto, model)
        if options.providers[-1] != CPU:
            faults.append(
                Fault(
                    where="engine.providers",
                    what=f"nodes that {options.providers[-1]} does not take have no provider of last resort",
                    fix=f"put {CPU} at the end",
                )
            )
        faults += [
            Fault(
                where=f"engine.provider_options.{name}",
                what="the profile does not use this provider",
                fix=f"add it to engine.providers ({', '.join(options.providers)}), or remove its options",
            )
            for name in options.provider_options
            if name not in options.providers
        ]
        return faults

    def _warn(self, model: Path, profile: TargetProfile) -> list[Fault]:
        if profile.hardware.arch != "x86_64" or of(profile).providers[0] != CPU:
            return []  # its rules were measured on the CPU provider of x86
        return warn_onnxruntime(stored(model).model, model)

    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild:
        source, options = stored(model), session_fields(profile)
        in_ort = of(profile).format == "ort"
        plain = of(profile).providers[0] == CPU
        if in_ort:
            options["optimization"] = "disabled"  # the runtime optimises no file of this format
        with _prepared(source, profile, options) as graph:
            files: dict[str, str] = {}
            if in_ort:
                name, data = ORT_FILE, to_ort(graph, options)
                write_atomic(out / name, data)
                files[name] = sha256_bytes(data)
                for other, content in required_operators(out / name).items():
                    write_atomic(out / other, content)
                    files[other] = sha256_bytes(content)
                if not plain:
                    files |= write_graph(graph, out / _PLAIN_FILE)
            else:
                name = _ENGINE_FILE
                files = write_graph(graph, out / name)
        io = io_of(source.model)
        return EngineBuild(
            folder=out,
            engine=self.name,
            file=name,
            runtime="onnxruntime",
            runtime_version=str(ondevice_session.import_runtime().__version__),
            precision=precision,
            options=options,
            inputs=ports([dict(item) for item in io["inputs"]]),
            outputs=ports([dict(item) for item in io["outputs"]]),
            sha256=files.pop(name),
            files=files,
            model="" if plain else (_PLAIN_FILE if in_ort else name),
        )

    def _inspect(self, build: EngineBuild) -> Inspection:
        from targets.engines.onnxruntime_inspect import inspect_graph

        absent = [name for name, _ in listed(build.options) if name not in _available()]
        with open_engine_graph(build) as graph:
            if absent:
                unseen = f"this onnxruntime has no {', '.join(absent)}: what is counted is what the graph asks for"
                return inspect_graph(graph, build, SCOPE_HOST, unseen=unseen)
            if build.options["optimization"] == "disabled":
                return inspect_graph(graph, build, SCOPE_HERE)
            source = Stored(path=graph.path, model=graph.model, outside=True, beside=True, changed=False)
            with optimised(source, build.options) as finished:
                return inspect_graph(finished, build, SCOPE_HOST)

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


@contextmanager
def open_engine_graph(build: EngineBuild) -> Iterator[Graph]:
    """The graph of an engine of ONNX Runtime, in whatever format its file is; its path names an ONNX file."""
    path = build.folder / build.file
    if path.suffix != ".ort":
        yield Graph(path=path, model=open_engine_file(path))
        return
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        yield from_ort(path, Path(folder) / "engine.onnx")


@contextmanager
def _prepared(source: Stored, profile: TargetProfile, options: Mapping[str, object]) -> Iterator[Graph]:
    """The graph, optimised as far as holds for the target; engines in ORT format are not optimised again there."""
    wanted = level(profile)
    if wanted == "none":
        copied = type(source.model)()
        copied.CopyFrom(source.model)
        yield Graph(path=source.path, model=canonical(copied))
        return
    without: tuple[str, ...] = ()
    if of(profile).format == "ort" and rule(profile).offline == "all" and wanted != "all":
        wanted, without = "all", LAYOUTS
    with optimised(source, {**options, "optimization": wanted}, without=without) as graph:
        yield graph


def _available() -> list[str]:
    return list(ondevice_session.import_runtime().get_available_providers())


def _foreign_operators(proto: onnx.ModelProto) -> list[Fault]:
    return [
        Fault(
            where=f"node {node.name or node.op_type!r}",
            what=f"operator {node.domain}.{node.op_type} is not part of ONNX Runtime",
            fix="express it with standard ONNX operators",
        )
        for node in proto.graph.node
        if node.domain not in _KNOWN_DOMAINS
    ]
