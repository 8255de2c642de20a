"""What a machine says it is, and what is worth trying there: each engine it has, in float and in its dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from targets.contradictions_precision import VNNI
from targets.errors import DeviceError
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, Precision, TensorRtOptions
from targets.profile import LOCAL, DeviceSection, Hardware, Quantization, TargetProfile

if TYPE_CHECKING:
    from targets.devices.answers import DeviceFacts
    from targets.options import Provider
    from targets.sections import Arch

_ISA: Final[Mapping[str, tuple[str, ...]]] = {
    "x86_64": (
        "sse4_2", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx_vnni",
        "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    ),
    "aarch64": ("asimd", "asimdhp", "asimddp", "i8mm", "bf16"),
}  # fmt: skip
"""CPU features that engines choose their kernels by."""

_PROVIDERS: Final[Mapping[Provider, str]] = {
    "XnnpackExecutionProvider": "xnnpack",
    "QNNExecutionProvider": "qnn",
    "NnapiExecutionProvider": "nnapi",
    "CUDAExecutionProvider": "cuda",
}
_CPU: Final = "CPUExecutionProvider"
_MOST_THREADS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine, as a profile describes it.

    Attributes:
        device: Its name among the devices; ``local`` is this machine.
        kind: How it is reached.
        arch: Instruction set architecture.
        isa: Those of its CPU features that engines choose their kernels by.
        cpu: The CPU's name for people.
        cpus: CPUs that the program may use; None where it does not tell.
        threads: To measure with: one a core.
        memory_mb: All of its memory; None where it does not tell.
        runtimes: Version of each runtime it has, by the engine's name.
        providers: Execution providers of its ONNX Runtime.
    """

    device: str
    kind: str
    arch: Arch
    isa: tuple[str, ...]
    cpu: str
    cpus: int | None
    threads: int
    memory_mb: int | None
    runtimes: Mapping[str, str]
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One engine in one precision.

    Attributes:
        label: What alternatives of a profile are called; the engine's name, or the provider's.
        engine: The engine.
        scheme: The dialect: of the file for int8, of what the engine would read for float.
        precision: What it computes in.
    """

    label: str
    engine: EngineOptions
    scheme: str
    precision: Precision

    @property
    def name(self) -> str:
        """How results call it."""
        return f"{self.label} {self.scheme}" if self.precision == "int8" else f"{self.label} {self.precision}"


def machine_of(device: str, kind: str, facts: DeviceFacts, *, threads: int | None = None) -> Machine:
    """The machine that gave these facts.

    Args:
        device: Its name.
        kind: How it is reached.
        facts: What it says.
        threads: To measure with; one for each core that the program may use when None.

    Raises:
        DeviceError: edgepress builds nothing for its architecture.
    """
    if facts.arch not in _ISA:
        known = ", ".join(_ISA)
        raise DeviceError(
            f"device {device!r} cannot be probed", f"it is a {facts.arch} machine", f"edgepress builds for {known}"
        )
    arch: Arch = "x86_64" if facts.arch == "x86_64" else "aarch64"
    told = facts.raw.get("cpu_features") or facts.raw.get("isa") or ()
    cores = max(1, (facts.cores or 1) // (2 if facts.raw.get("smt") is True else 1))
    versions = {
        "onnxruntime": facts.runtime_version,
        **{key: _text(facts.raw, key) for key in ("openvino", "tensorrt")},
    }
    provided = facts.raw.get("providers")
    return Machine(
        device=device,
        kind=kind,
        arch=arch,
        isa=tuple(name for name in _ISA[arch] if name in set(told)),
        cpu=facts.cpu_model,
        cpus=facts.cores,
        threads=min(threads or cores, _MOST_THREADS),
        memory_mb=facts.mem_total_bytes >> 20 if facts.mem_total_bytes else None,
        runtimes={name: version for name, version in versions.items() if version},
        providers=tuple(str(name) for name in provided) if isinstance(provided, list) else (),
    )


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) else None


def trials_for(machine: Machine) -> tuple[Trial, ...]:
    """What to measure there, in the order of preference among equals.

    Raises:
        DeviceError: It has no runtime that edgepress builds for.
    """
    found: list[Trial] = []
    if "onnxruntime" in machine.runtimes:
        found += _onnxruntime(machine)
    if "openvino" in machine.runtimes:
        dialects = cpu_dialects(machine)
        scheme = "openvino" if len(dialects) > 1 or machine.arch == "aarch64" else dialects[0]
        found += _of("openvino", OpenVinoOptions(name="openvino", threads=machine.threads), (scheme,), ("fp32",))
    if "tensorrt" in machine.runtimes:
        found += _of("tensorrt", TensorRtOptions(name="tensorrt"), ("trt",), ("fp32", "fp16"))
    if not found:
        raise DeviceError(
            f"there is nothing to measure with on device {machine.device!r}",
            "it has neither ONNX Runtime nor OpenVINO nor TensorRT",
            "install one of them there: python3 -m pip install onnxruntime numpy",
        )
    return tuple(found)


def cpu_dialects(machine: Machine) -> tuple[str, ...]:
    """Schemes whose sums are right on that CPU, the more accurate first."""
    if machine.arch == "aarch64":
        return ("ort-arm64",)
    return ("ort-x86", "ort-x86-avx2") if VNNI.intersection(machine.isa) else ("ort-x86-avx2",)


def _onnxruntime(machine: Machine) -> list[Trial]:
    dialects = cpu_dialects(machine)
    plain = OnnxRuntimeOptions(name="onnxruntime", threads=machine.threads)
    found = _of("onnxruntime", plain, dialects, ("fp32",))
    for provider, label in _PROVIDERS.items():
        if provider in machine.providers:
            engine = plain.model_copy(update={"providers": (provider, _CPU)})
            on_gpu = provider.startswith("CUDA")  # which computes Q/DQ in float
            found += _of(label, engine, () if on_gpu else dialects[:1], ("fp32",), scheme="trt" if on_gpu else "")
    return found


def _of(
    label: str, engine: EngineOptions, dialects: tuple[str, ...], floats: tuple[Precision, ...], *, scheme: str = ""
) -> list[Trial]:
    first = scheme or dialects[0]
    plain = [Trial(label=label, engine=engine, scheme=first, precision=precision) for precision in floats]
    return plain + [Trial(label=label, engine=engine, scheme=name, precision="int8") for name in dialects]


def profile_of(trial: Trial, machine: Machine) -> TargetProfile:
    """The profile that one trial is built for."""
    return TargetProfile(
        name="probe",
        description=f"{trial.name} on {machine.cpu}",
        hardware=Hardware(arch=machine.arch, isa=machine.isa, cpus=machine.cpus),
        engine=trial.engine,
        quantization=Quantization(scheme=trial.scheme, precisions=(trial.precision,)),
        device=DeviceSection(name=LOCAL),
    )
