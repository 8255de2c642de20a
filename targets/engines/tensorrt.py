"""TensorRT and TensorRT-RTX: engines built ahead of time, on this machine's GPU, or on the device from a bundle."""

from __future__ import annotations

import importlib.util
import json
import sys
from abc import abstractmethod
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, final

from targets import machine
from targets.engines.base import INSPECT_JSON, Array, Availability, Engine, EngineBuild, Inspection, Runner
from targets.engines.opened import stored, values_checked
from targets.engines.tensorrt_check import gpus_of, model_faults, profile_faults
from targets.engines.tensorrt_files import MODEL, waiting_build, write_plan
from targets.engines.tensorrt_limits import recurrence_named, rtx_limits
from targets.errors import DeviceError, Fault, InputError
from targets.ondevice.build_plan import read_plan
from targets.ondevice.cuda import gpu
from targets.ondevice.failure import Failure
from targets.ondevice.session import read_spec
from targets.ondevice.tensorrt_inspect import NO_DRIVER, from_graph
from targets.ondevice.tensorrt_module import RTX, driver_answers
from targets.ondevice_errors import from_failure, project_error
from targets.options import TensorRtOptions
from targets.process import Limits, call_limited, run_limited

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

    from targets.ondevice.cuda import Gpu
    from targets.options import Precision
    from targets.profile import TargetProfile

# No limit of the address space: CUDA reserves far more than it uses.
_LIMITS: Final = Limits(timeout_s=7200.0)
_INSPECT: Final = "targets.engines.tensorrt_child:inspect_in_child"
_INSTALL: Final = {
    RTX: "pip install 'edgepress[tensorrt-rtx]'  (tensorrt-rtx>=1.4)",
    "tensorrt": "pip install 'edgepress[tensorrt]'  (tensorrt>=8.6; on a Jetson: sudo apt install python3-libnvinfer)",
}
WAITS: Final = "the device builds the engine (ondevice.pyz build), and then says what became of it"
_NONCE: Final = "build"
_OWN_BUG: Final = 70
_TUPLES: Final = ("float_compute", "fallbacks", "warnings")


class _TensorRt(Engine):
    """What both have in common: one way to check, to build, to inspect and to open."""

    _module: str

    @final
    def _check(self, model: Path, profile: TargetProfile) -> list[Fault]:
        return [*model_faults(model, stored(model).model), *profile_faults(profile, _of(profile))]

    @final
    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild:
        plan = write_plan(model, profile, _of(profile), precision, out)
        if not self._builds_here(profile):
            return waiting_build(out, plan, precision)
        values_checked()
        graph = stored(model).model
        with recurrence_named(graph):
            _run_program("build", out, f"building {model.name} with {self.name}", self._limits(graph))
        return EngineBuild.read(out)

    def _limits(self, _model: onnx.ModelProto) -> Limits:
        return _LIMITS

    @final
    def _inspect(self, build: EngineBuild) -> Inspection:
        """What the engine is; of one that cannot be opened here, what its graph asks for and why no more is known."""
        if not build.build_on_device and driver_answers():
            request = {"engine_folder": str(build.folder)}
            return _inspection(call_limited(_INSPECT, request, limits=_LIMITS, what=f"inspecting {build.file}"))
        why = WAITS if build.build_on_device else NO_DRIVER
        try:
            return _inspection(from_graph(read_plan(build.folder), why, self._module))
        except Failure as failure:
            raise from_failure(failure) from failure

    @final
    def _open(self, build: EngineBuild) -> Runner:
        if build.build_on_device:
            raise DeviceError(
                "the engine is not built yet", "its device builds it", f"on the device: python ondevice.pyz build; the "
                f"same function runs here from {MODEL}",
            )  # fmt: skip
        return _TensorRtRunner(build)

    @final
    def runs(self, profile: TargetProfile) -> Availability:
        """Whether the vendor's module is here, a driver answers, and the GPU is one that the profile names."""
        version, arch = _version(self._module), profile.hardware.arch
        if arch != machine.arch():
            why = f"the profile is for {arch}, this is {machine.arch()}"
            return Availability(ok=False, why=why, fix="run it on the device")
        if not version:
            return Availability(ok=False, why=f"{self._module} is not installed here", fix=_INSTALL[self._module])
        found, wanted = _gpu(), gpus_of(profile, _of(profile))
        if found is None:
            return Availability(
                ok=False, why="no NVIDIA driver answers here", fix="run it on the device, or where there is such a GPU"
            )
        if wanted and found.compute_capability not in wanted:
            why = f"{found.name} has compute capability {found.compute_capability}, the profile says {wanted}"
            return Availability(ok=False, why=why, fix="run it on the device")
        return Availability(ok=True, why=f"{self._module} {version} on {found.name}")

    @abstractmethod
    def _builds_here(self, profile: TargetProfile) -> bool:
        """Whether the engine of this profile is built on this machine, not on the device."""


@final
class TensorRtEngine(_TensorRt):
    """TensorRT: built here where this machine has it and the target's GPU; else the device builds it from its plan."""

    name = "tensorrt"
    reproducible = False  # TensorRT times kernels and takes what was fastest
    _module = "tensorrt"

    def available(self) -> Availability:
        """Always: what this machine cannot build, the device does."""
        version, found = _version(self._module), _gpu()
        if version and found is not None:
            return Availability(ok=True, why=f"tensorrt {version} with {found.name}; for others their device builds")
        missing = "no NVIDIA driver answers here" if version else "tensorrt is not installed here"
        return Availability(ok=True, why=f"built on the device by TensorRT 8.6 to 11: {missing}")

    def _builds_here(self, profile: TargetProfile) -> bool:
        return self.runs(profile).ok  # TensorRT builds for the GPU that it finds: an engine for another would not open


@final
class TensorRtRtxEngine(_TensorRt):
    """TensorRT-RTX: built ahead of time for the GPUs that the profile names; no GPU is needed."""

    name = "tensorrt-rtx"
    _module = RTX

    def available(self) -> Availability:
        """Whether tensorrt-rtx is installed."""
        version = _version(self._module)
        if not version:
            return Availability(ok=False, why="tensorrt-rtx is not installed", fix=_INSTALL[self._module])
        return Availability(ok=True, why=f"tensorrt-rtx {version}")

    def _builds_here(self, _profile: TargetProfile) -> bool:
        return True

    def _limits(self, model: onnx.ModelProto) -> Limits:
        return rtx_limits(model)


@final
class _TensorRtRunner(Runner):
    """The device program's runner, with this project's errors."""

    def __init__(self, build: EngineBuild) -> None:
        from targets.ondevice.tensorrt_runner import open_tensorrt, tensorrt_errors

        super().__init__(build)
        try:
            self._runner = open_tensorrt(build.folder, read_spec(build.folder))
        except Failure as failure:
            raise from_failure(failure) from failure
        self._errors = tensorrt_errors()

    def _infer(self, feed: Mapping[str, Array]) -> Mapping[str, Array]:
        try:
            outputs = self._runner.run(feed)
        except Failure as failure:
            raise from_failure(failure) from failure
        except self._errors as error:
            raise DeviceError(
                "the engine failed on this batch", " ".join(str(error).split())[:500],
                "check that the samples are what the model was exported for",
            ) from error  # fmt: skip
        return {port.name: output for port, output in zip(self._build.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Frees engine, buffers and context."""
        self._runner.close()


def _of(profile: TargetProfile) -> TensorRtOptions:
    assert isinstance(profile.engine, TensorRtOptions), profile.engine.name
    return profile.engine


def _gpu() -> Gpu | None:
    """The GPU of this machine; None where no driver answers, or it shows none."""
    try:
        return gpu()
    except Failure:
        return None


def _version(module: str) -> str:
    """The installed version, ``?`` where a package does not tell it; empty where there is none. Nothing is imported."""
    if importlib.util.find_spec(module) is None:
        return ""
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "?"


def _program(command: str, folder: Path) -> list[str]:
    return [sys.executable, "-I", "-m", "targets.ondevice", command, str(folder), "--nonce", _NONCE]


def _run_program(command: str, folder: Path, what: str, limits: Limits = _LIMITS) -> dict[str, Any]:
    """Runs a command of the device program in a limited child: a vendor's library may end its whole process.

    Raises:
        EdgepressError: As the program reports it.
        DeviceError: The library crashed.
    """
    done = run_limited([*_program(command, folder), "--limit-s", str(limits.timeout_s)], limits=limits, what=what)
    if done.returncode < 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing on stderr"]
        raise DeviceError(
            f"{what} crashed", f"signal {-done.returncode} ended it; {last[0][:300]}",
            "check the driver with nvidia-smi, and that TensorRT and driver fit each other",
        )  # fmt: skip
    if done.returncode == _OWN_BUG:
        raise RuntimeError(f"{what} failed\n{done.stderr.decode(errors='replace')}")
    document = json.loads(done.stdout)
    if "error" in document:
        error = document["error"]
        raise project_error(done.returncode, error["what"], error["why"], error["fix"])
    result: dict[str, Any] = document["result"]
    return result


def _inspection(data: Mapping[str, Any]) -> Inspection:
    values = {name: data[name] for name in Inspection.__dataclass_fields__ if name in data}
    try:
        return Inspection(**{**values, **{name: tuple(values[name]) for name in _TUPLES}})
    except (KeyError, TypeError) as error:
        raise InputError(f"{INSPECT_JSON} is not valid", repr(error), "build the engine again") from error
