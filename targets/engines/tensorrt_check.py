"""What TensorRT would refuse in a model or a profile, said with node and rule before it sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.engines.lint_graph import interface_faults
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.errors import Fault
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

    from targets.options import TensorRtOptions
    from targets.profile import TargetProfile

_DOMAINS: Final = frozenset({"", "ai.onnx"})
RTX_GPUS: Final = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.7 builds for and runs on: GeForce and workstation GPUs, no Jetson, no H100."""


def model_faults(name: str, model: onnx.ModelProto) -> list[Fault]:
    """What is wrong with the model in the file ``name``, whichever TensorRT builds it."""
    faults = [
        Fault(
            where=f"node {node.name or node.op_type!r}",
            what=f"operator {node.domain}.{node.op_type} is not part of ONNX, and TensorRT reads no other",
            fix="express it with standard ONNX operators",
        )
        for node in model.graph.node
        if node.domain not in _DOMAINS
    ]
    return [*faults, *lint_tensorrt(model), *interface_faults(name, io_of(model))]


def profile_faults(profile: TargetProfile, options: TensorRtOptions) -> list[Fault]:
    """What contradicts itself in the profile's TensorRT section."""
    own = _rtx if options.name == "tensorrt-rtx" else _proper
    return [*_batch(options), *own(profile, options)]


def gpus_of(profile: TargetProfile, options: TensorRtOptions) -> tuple[str, ...]:
    """Compute capabilities that an engine for this profile is for; empty where the profile does not say."""
    own = profile.hardware.compute_capability
    return options.compute_capabilities or ((own,) if own is not None else ())


def _batch(options: TensorRtOptions) -> Iterator[Fault]:
    if list(options.batch) != sorted(options.batch):
        yield Fault(
            where="engine.batch",
            what=f"{list(options.batch)} is not in order",
            fix="write the smallest, the usual and the largest batch size, such as [1, 1, 8]",
        )


def _proper(profile: TargetProfile, options: TensorRtOptions) -> Iterator[Fault]:
    cores = profile.hardware.dla_cores
    if options.device == "dla" and options.dla_core >= cores:
        yield Fault(
            where="engine.dla_core",
            what=f"{options.dla_core} of a device with {cores} DLA cores",
            fix="set hardware.dla_cores to what the device has, or engine.device to 'gpu'",
        )
    if options.compute_capabilities:
        yield Fault(
            where="engine.compute_capabilities",
            what="TensorRT builds for the GPU it runs on, and for no other",
            fix="leave it out; name 'tensorrt-rtx' as the engine to build ahead of time",
        )


def _rtx(profile: TargetProfile, options: TensorRtOptions) -> Iterator[Fault]:
    wanted = gpus_of(profile, options)
    for name in wanted:
        if name not in RTX_GPUS:
            yield Fault(
                where="engine.compute_capabilities" if options.compute_capabilities else "hardware.compute_capability",
                what=f"TensorRT-RTX does not run on a GPU of compute capability {name}",
                fix=f"use engine 'tensorrt' for it; TensorRT-RTX knows {', '.join(RTX_GPUS)}",
            )
    if not wanted:
        yield Fault(
            where="engine.compute_capabilities",
            what="it is empty, and hardware.compute_capability too: a build ahead of time needs to know the GPUs",
            fix="name them, such as ['8.6', '8.9']",
        )
    unsupported = {
        "device": options.device == "dla",
        "version_compatible": options.version_compatible,
        "hardware_compatible": options.hardware_compatible,
    }
    for name, asked in unsupported.items():
        if asked:
            yield Fault(
                where=f"engine.{name}", what="TensorRT-RTX has no such thing", fix="leave it out, or use 'tensorrt'"
            )
