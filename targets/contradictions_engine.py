"""What an engine's options say against each other or against the hardware."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from targets.contradictions_tensorrt import tensorrt_faults
from targets.errors import Fault
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.sections import Hardware, Quantization

# Where a provider of ONNX Runtime exists. https://onnxruntime.ai/docs/execution-providers/
_PROVIDER_ARCHS: Final = {
    "OpenVINOExecutionProvider": "x86_64",
    "QNNExecutionProvider": "aarch64",
    "NnapiExecutionProvider": "aarch64",
}
_CPU: Final = "CPUExecutionProvider"
_GPU_PROVIDERS: Final = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One engine of a profile.

    Attributes:
        prefix: Before its keys: empty for the first choice, ``alternatives.0.`` and so on for the others.
        label: As written.
        engine: None where it is not valid by itself.
        quantization: The same.
    """

    prefix: str
    label: str
    engine: EngineOptions | None
    quantization: Quantization | None


def engine_faults(choice: Choice, hardware: Hardware | None) -> Iterator[Fault]:
    """Everything about the engine's options alone, and against the hardware where that is known."""
    at = f"{choice.prefix}engine"
    if isinstance(choice.engine, OnnxRuntimeOptions):
        yield from _providers(choice.engine, at, hardware)
    elif isinstance(choice.engine, OpenVinoOptions):
        yield from _openvino(choice.engine, at, hardware)
    elif isinstance(choice.engine, TensorRtOptions):
        yield from tensorrt_faults(choice.engine, at, hardware)
        if choice.engine.device == "dla" and not choice.prefix:
            what = "the first choice also makes the float32 reference, which no DLA computes"
            fix = "let the GPU be the first choice, the DLA one of [[alternatives]]"
            yield Fault(where=f"{at}.device", what=what, fix=fix)


def _providers(engine: OnnxRuntimeOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    where = f"{at}.providers"
    if not engine.providers:
        yield Fault(where=where, what="nothing runs the model", fix=f'write providers = ["{_CPU}"]')
    for index, name in enumerate(engine.providers):
        if name in engine.providers[:index]:
            yield Fault(where=f"{where}.{index}", what=f"{name} is there twice", fix="name each provider once")
        only = _PROVIDER_ARCHS.get(name)
        if hardware is not None and only not in {None, hardware.arch}:
            what = f"there is no {name} for {hardware.arch}"
            yield Fault(where=f"{where}.{index}", what=what, fix=f"leave it out: it exists on {only} only")
    if _CPU in engine.providers[:-1]:
        what = f"{_CPU} takes every node, so nothing is left for those after it"
        yield Fault(where=where, what=what, fix=f"put {_CPU} last")
    for name in engine.provider_options:
        if name not in engine.providers:
            what = f"{name} is not among engine.providers"
            yield Fault(where=f"{at}.provider_options.{name}", what=what, fix="add the provider, or remove its options")
    others = [name for name in engine.providers if name != _CPU]
    if engine.format == "ort" and others:
        what = f'a file of format "ort" has its kernels chosen for the CPU provider; {others[0]} would get nothing'
        yield Fault(where=f"{at}.format", what=what, fix=f'write format = "onnx", or providers = ["{_CPU}"]')


def _openvino(engine: OpenVinoOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    if hardware is not None and hardware.arch != "x86_64" and engine.device != "CPU":
        what = f"OpenVINO's {engine.device} plugin drives Intel hardware, which no {hardware.arch} machine has"
        yield Fault(where=f"{at}.device", what=what, fix='write device = "CPU"')


def on_gpu(engine: EngineOptions) -> bool:
    """Whether an NVIDIA GPU computes."""
    if isinstance(engine, OnnxRuntimeOptions):
        return engine.providers[:1] != () and engine.providers[0] in _GPU_PROVIDERS
    return isinstance(engine, TensorRtOptions) and engine.device == "gpu"


def on_cpu(engine: EngineOptions) -> bool:
    """Whether the CPU's own vector units compute, by ONNX Runtime's or OpenVINO's kernels."""
    if isinstance(engine, OnnxRuntimeOptions):
        return engine.providers[:1] in {(), (_CPU,), ("XnnpackExecutionProvider",), ("OpenVINOExecutionProvider",)}
    return isinstance(engine, OpenVinoOptions) and engine.device == "CPU"
