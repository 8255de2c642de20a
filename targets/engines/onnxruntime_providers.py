"""What may be done to a graph before each of ONNX Runtime's providers sees it, and how the device then opens it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from targets import machine
from targets.ondevice.providers import CPU, WHERE
from targets.options import OnnxRuntimeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from targets.options import Provider
    from targets.profile import TargetProfile

XNNPACK: Final = "XnnpackExecutionProvider"
QNN: Final = "QNNExecutionProvider"
Level = Literal["none", "basic", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRule:
    """One provider.

    Attributes:
        offline: How far the graph is optimised here: ``none`` leaves it as it is, ``basic`` does what holds for every
            provider and keeps standard operators, ``all`` goes to the layout of one CPU.
        at_load: What the runtime does when the device opens the engine (level names of engine.json).
        compiles: The provider takes whole parts of the graph; what happens inside shows in no profile.
    """

    offline: Level
    at_load: Literal["disabled", "all"]
    compiles: bool


# Sources:
# [levels] https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html : basic optimisations
#   are done before the graph is split among providers and hold for all; extended ones make operators that only the CPU
#   and CUDA providers have; layout ones are for the CPU.
# [ov] https://onnxruntime.ai/docs/execution-providers/OpenVINO-ExecutionProvider.html : it is advised to turn off
#   ONNX Runtime's own optimisations and to pass the graph as it is.
# [ort] https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html : a provider that compiles
#   (NNAPI, CoreML) cannot take nodes that extended optimisations have fused before.
# [qnn] https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html : int8 comes as a Q/DQ model.
# [trt] https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html : TensorRT's own parser reads
#   the Q/DQ nodes; a graph that ONNX Runtime rewrote (float biases made int32) is one that it refuses.
# [xnn] https://onnxruntime.ai/docs/execution-providers/Xnnpack-ExecutionProvider.html : takes standard nodes and Q/DQ
#   groups; it has threads of its own, and ONNX Runtime's must then not spin.
RULES: Final[Mapping[Provider, ProviderRule]] = {
    "CPUExecutionProvider": ProviderRule(offline="all", at_load="all", compiles=False),  # [levels]
    "XnnpackExecutionProvider": ProviderRule(offline="basic", at_load="all", compiles=False),  # [levels] [xnn]
    "CUDAExecutionProvider": ProviderRule(offline="basic", at_load="all", compiles=False),  # [levels]
    "TensorrtExecutionProvider": ProviderRule(offline="none", at_load="all", compiles=True),  # [trt]
    "OpenVINOExecutionProvider": ProviderRule(offline="none", at_load="disabled", compiles=True),  # [ov]
    QNN: ProviderRule(offline="none", at_load="all", compiles=True),  # [qnn]
    "CoreMLExecutionProvider": ProviderRule(offline="basic", at_load="all", compiles=True),  # [levels] [ort]
    "NnapiExecutionProvider": ProviderRule(offline="basic", at_load="all", compiles=True),  # [levels] [ort]
}


def of(profile: TargetProfile) -> OnnxRuntimeOptions:
    """The profile's options, which are those of ONNX Runtime."""
    assert isinstance(profile.engine, OnnxRuntimeOptions), profile.engine.name
    return profile.engine


def rule(profile: TargetProfile) -> ProviderRule:
    """How the graph is treated: as the provider of first choice wants it."""
    return RULES[of(profile).providers[0]]


def is_tuned_here(profile: TargetProfile) -> bool:
    """Whether the runtime on this machine chooses the same layouts and kernels as on the target."""
    hardware = profile.hardware
    return machine.provides(hardware.arch, hardware.isa) and (
        ("avx512f" in hardware.isa) == ("avx512f" in machine.cpu_features())
    )


def finished_here(profile: TargetProfile) -> bool:
    """Whether the graph is optimised to the end on this machine: for the CPU provider of this class of machine."""
    return of(profile).providers == (CPU,) and is_tuned_here(profile)


def level(profile: TargetProfile) -> Level:
    """How far the graph is optimised on this machine."""
    wanted = rule(profile).offline
    return "basic" if wanted == "all" and not finished_here(profile) else wanted


def missing(profile: TargetProfile, available: list[str]) -> list[str]:
    """Providers of the profile that the runtime here does not have."""
    return [name for name in of(profile).providers if name not in available]


def where(names: list[str]) -> str:
    """What to install for these providers."""
    return "; ".join(WHERE[name] for name in names)


def session_fields(profile: TargetProfile) -> dict[str, object]:
    """The ``options`` of engine.json: all that the device program needs to open the engine as the profile says."""
    options = of(profile)
    own = {name: dict(values) for name, values in sorted(options.provider_options.items())}
    spinning = options.allow_spinning
    if XNNPACK in options.providers:
        own.setdefault(XNNPACK, {}).setdefault("intra_op_num_threads", str(options.threads))
        spinning = False
    return {
        "providers": list(options.providers),
        "provider_options": own,
        "threads": options.threads,
        "allow_spinning": spinning,
        "memory_pattern": options.memory_pattern,
        "arena": options.arena,
        "denormal_as_zero": options.denormal_as_zero,
        "optimization": "disabled" if finished_here(profile) else rule(profile).at_load,
    }
