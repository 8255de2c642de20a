"""What TensorRT would refuse in a model or a profile, said with node and rule before it sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.contradictions_tensorrt import tensorrt_faults
from targets.engines.lint_graph import interface_faults
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.errors import Fault
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from targets.options import TensorRtOptions
    from targets.profile import TargetProfile

_DOMAINS: Final = frozenset({"", "ai.onnx"})


def model_faults(path: Path, model: onnx.ModelProto) -> list[Fault]:
    """What is wrong with the model in the file ``path``, whichever TensorRT builds it."""
    faults = [
        Fault(
            where=f"node {node.name or node.op_type!r}",
            what=f"operator {node.domain}.{node.op_type} is not part of ONNX, and TensorRT reads no other",
            fix="express it with standard ONNX operators",
        )
        for node in model.graph.node
        if node.domain not in _DOMAINS
    ]
    return [*faults, *lint_tensorrt(model, path), *interface_faults(path.name, io_of(model))]


def profile_faults(profile: TargetProfile, options: TensorRtOptions) -> list[Fault]:
    """What contradicts itself in the profile's TensorRT section."""
    return [*tensorrt_faults(options, "engine", profile.hardware)]


def gpus_of(profile: TargetProfile, options: TensorRtOptions) -> tuple[str, ...]:
    """Compute capabilities that an engine for this profile is for; empty where the profile does not say."""
    own = profile.hardware.compute_capability
    return options.compute_capabilities or ((own,) if own is not None else ())
