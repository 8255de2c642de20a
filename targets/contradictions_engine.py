"""What an engine's options say against each other or against the hardware."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
# TensorRT-RTX 1.7.1 itself says which GPUs it builds for: these, 12.1 and later, and 7.5 where it is named.
_RTX: Final = frozenset({(8, 0), (8, 6), (8, 9), (12, 0)})
_RTX_NAMED: Final = (7, 5)
_RTX_LATER: Final = (12, 0)
_AMPERE: Final = (8, 0)


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


def version(capability: str) -> tuple[int, int]:
    """``8.7`` as numbers, which compare."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def engine_faults(choice: Choice, hardware: Hardware | None) -> Iterator[Fault]:
    """Everything about the engine's options alone, and against the hardware where that is known."""
    at = f"{choice.prefix}engine"
    if isinstance(choice.engine, OnnxRuntimeOptions):
        yield from _providers(choice.engine, at, hardware)
    elif isinstance(choice.engine, OpenVinoOptions):
        yield from _openvino(choice.engine, at, hardware)
    elif isinstance(choice.engine, TensorRtOptions):
        yield from _batch(choice.engine, at)
        yield from _memory(choice.engine, at, hardware)
        yield from _dla(choice, choice.engine, at, hardware)
        yield from _portability(choice.engine, at, hardware)
        yield from _capabilities(choice.engine, at, hardware)


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


def _batch(engine: TensorRtOptions, at: str) -> Iterator[Fault]:
    least, usual, most = engine.batch
    if not least <= usual <= most:
        what = f"{list(engine.batch)} is not smallest, usual, largest"
        yield Fault(where=f"{at}.batch", what=what, fix=f"write {sorted(engine.batch)}")


def _memory(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    if hardware is not None and hardware.memory_mb is not None and engine.workspace_mb > hardware.memory_mb:
        what = (
            f"{engine.workspace_mb} MiB of scratch memory are more than the {hardware.memory_mb} of hardware.memory_mb"
        )
        yield Fault(where=f"{at}.workspace_mb", what=what, fix=f"write at most {hardware.memory_mb // 2}")


def _dla(choice: Choice, engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    if engine.device == "gpu":
        if engine.dla_core:
            yield Fault(
                where=f"{at}.dla_core", what=f'DLA core {engine.dla_core} beside device = "gpu"',
                fix='write device = "dla", or leave dla_core out',
            )  # fmt: skip
        return
    if engine.name == "tensorrt-rtx":
        what = "TensorRT-RTX drives no DLA"
        yield Fault(where=f"{at}.device", what=what, fix='write name = "tensorrt", or device = "gpu"')
    elif hardware is not None and not hardware.dla_cores:
        fix = 'write device = "gpu", or say in hardware.dla_cores how many it has'
        yield Fault(where=f"{at}.device", what="the hardware has no DLA (hardware.dla_cores is 0)", fix=fix)
    elif hardware is not None and engine.dla_core >= hardware.dla_cores:
        what = f"there is no DLA core {engine.dla_core}: the hardware has {hardware.dla_cores}, counted from 0"
        yield Fault(where=f"{at}.dla_core", what=what, fix=f"write 0 to {hardware.dla_cores - 1}")
    if not choice.prefix:
        what = "the first choice also makes the float32 reference, which no DLA computes"
        yield Fault(
            where=f"{at}.device", what=what, fix="let the GPU be the first choice, the DLA one of [[alternatives]]"
        )
    if len(set(engine.batch)) > 1:
        what = f"batch sizes {list(engine.batch)}: a DLA takes one fixed size"
        yield Fault(
            where=f"{at}.batch", what=what, fix=f"write [{engine.batch[1]}, {engine.batch[1]}, {engine.batch[1]}]"
        )


def _portability(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    for key in ("version_compatible", "hardware_compatible"):
        if getattr(engine, key) and engine.name == "tensorrt-rtx":
            what = "TensorRT-RTX does not build so"
            yield Fault(
                where=f"{at}.{key}", what=what, fix="leave it out: compute_capabilities say which GPUs may load it"
            )
    capability = hardware.compute_capability if hardware else None
    if engine.hardware_compatible and capability is not None and version(capability) < _AMPERE:
        what = f"engines for other GPUs exist from compute capability 8.0 on; this is {capability}"
        yield Fault(where=f"{at}.hardware_compatible", what=what, fix="leave it out")


def _capabilities(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    where, named = f"{at}.compute_capabilities", engine.compute_capabilities
    own = hardware.compute_capability if hardware else None
    if engine.name == "tensorrt":
        if named:
            what = "TensorRT builds on the device, for the GPU that is there"
            yield Fault(where=where, what=what, fix='leave it out, or write name = "tensorrt-rtx"')
        return
    for index, name in enumerate(named):
        if not _rtx_runs(version(name), named=True):
            what = f"TensorRT-RTX has nothing for compute capability {name}"
            yield Fault(where=f"{where}.{index}", what=what, fix=_RTX_FIX)
        elif name in named[:index]:
            yield Fault(where=f"{where}.{index}", what=f"{name} is there twice", fix="name each GPU once")
    if own is None:
        return
    if not _rtx_runs(version(own), named=own in named):
        what = f"TensorRT-RTX does not run on compute capability {own}"
        yield Fault(where="hardware.compute_capability", what=what, fix=f'{_RTX_FIX}; elsewhere name = "tensorrt"')
    elif named and own not in named:
        what = f"the engine would not be built for the target's own GPU ({own})"
        yield Fault(where=where, what=what, fix=f'add "{own}"')


_RTX_FIX: Final = "it runs on 7.5 (where named), 8.0, 8.6, 8.9, 12.0 and later"


def _rtx_runs(capability: tuple[int, int], *, named: bool) -> bool:
    return capability in _RTX or capability > _RTX_LATER or (named and capability == _RTX_NAMED)


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
