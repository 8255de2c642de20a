"""The builder's settings for a build plan: what TensorRT can do is asked of its module, never of its number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .build_plan import FIX, BuildPlan
from .failure import BAD_INPUT, DEVICE, Failure
from .tensorrt_module import RTX, Vendor

if TYPE_CHECKING:
    from collections.abc import Iterable

_MIB = 1 << 20
_WEAK_FLAGS = {"fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8",)}
_FLOAT_FLAGS = {"float16": "FP16", "bfloat16": "BF16"}


def strongly_typed(vendor: Vendor) -> bool:
    """Whether the graph alone says what is computed in which precision (from 10.0 on)."""
    return hasattr(vendor.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_flags(vendor: Vendor) -> int:
    """Creation flags of the network: strongly typed where that exists, else an explicit batch."""
    flags = vendor.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(flags, name):
            return 1 << int(getattr(flags, name))
    return 0


def configure(vendor: Vendor, builder: Any, network: Any, plan: BuildPlan) -> Any:  # noqa: ANN401 - the vendor's
    """The builder's configuration; refit is never on.

    Raises:
        Failure: The plan is for another network (3), or asks for what this device or version has not (6).
    """
    config = builder.create_builder_config()
    config.builder_optimization_level = plan.optimization_level
    config.profiling_verbosity = vendor.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(vendor.MemoryPoolType.WORKSPACE, plan.workspace_mb * _MIB)
    config.clear_flag(vendor.BuilderFlag.TF32)  # fp32 means fp32
    if not strongly_typed(vendor):
        _set_flags(vendor, config, _weak_flags(plan))
    if plan.version_compatible:
        _set_flags(vendor, config, ["VERSION_COMPATIBLE"])
    if plan.hardware_compatible:
        _across_gpus(vendor, config)
    if plan.sparsity:
        _set_flags(vendor, config, ["SPARSE_WEIGHTS"])
    if plan.device == "dla":
        use_dla(vendor, builder, config, plan)
    if plan.compute_capabilities:
        _build_for(vendor, config, plan.compute_capabilities)
    profile = _profile(builder, network, plan)
    if profile is not None:
        config.add_optimization_profile(profile)
    return config


def adjust_parser(vendor: Vendor, parser: Any, plan: BuildPlan) -> None:  # noqa: ANN401 - the vendor's
    """Tells the parser of the DLA where it wants to know (10.16 and later); nothing for a GPU.

    Its flag for unsigned and asymmetric integers is never set: without a DLA the parser crashes with it.
    """
    flags: Any = getattr(vendor, "OnnxParserFlag", None)
    if plan.device == "dla" and hasattr(flags, "ADJUST_FOR_DLA"):
        parser.set_flag(flags.ADJUST_FOR_DLA)


def gpu_layers(config: Any, network: Any, plan: BuildPlan) -> list[str]:  # noqa: ANN401 - the vendor's
    """Names of the network's layers that the DLA cannot run; none for a GPU."""
    if plan.device != "dla":
        return []
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    return [str(layer.name) for layer in layers if not config.can_run_on_DLA(layer)]


def use_dla(vendor: Vendor, builder: Any, config: Any, plan: BuildPlan) -> None:  # noqa: ANN401 - the vendor's
    """Puts the network on a DLA.

    Raises:
        Failure: This device has none of that number (6).
    """
    cores = int(builder.num_DLA_cores)
    if plan.dla_core >= cores:
        raise Failure(
            DEVICE, f"there is no DLA core {plan.dla_core}", f"this device has {cores}", "build for the GPU instead"
        )
    config.default_device_type = vendor.DeviceType.DLA
    config.DLA_core = plan.dla_core
    if plan.gpu_fallback:
        config.set_flag(vendor.BuilderFlag.GPU_FALLBACK)


def _weak_flags(plan: BuildPlan) -> list[str]:
    """Weak typing only: what the graph says is taken at its word where a flag allows that precision."""
    wanted = [*_WEAK_FLAGS.get(plan.precision, ())]
    around = _FLOAT_FLAGS.get(plan.float_type)
    return wanted + ([around] if around and around not in wanted else [])


def _set_flags(vendor: Vendor, config: Any, names: Iterable[str]) -> None:  # noqa: ANN401 - the vendor's
    for name in names:
        if not hasattr(vendor.BuilderFlag, name):
            raise Failure(
                DEVICE, f"this TensorRT cannot build with {name}",
                f"{vendor.__name__} {vendor.__version__} has no such flag",
                "ask for another precision or option in the target profile, or install a later TensorRT",
            )  # fmt: skip
        config.set_flag(getattr(vendor.BuilderFlag, name))


def _across_gpus(vendor: Vendor, config: Any) -> None:  # noqa: ANN401 - the vendor's
    levels: Any = getattr(vendor, "HardwareCompatibilityLevel", None)
    if vendor.__name__ == RTX or not hasattr(levels, "AMPERE_PLUS"):
        raise Failure(
            DEVICE, "this TensorRT builds no hardware-compatible engines", f"{vendor.__name__} {vendor.__version__}",
            "set hardware_compatible = false in the target profile (TensorRT-RTX: name compute_capabilities)",
        )  # fmt: skip
    config.hardware_compatibility_level = levels.AMPERE_PLUS


def _build_for(vendor: Vendor, config: Any, names: list[str]) -> None:  # noqa: ANN401 - the vendor's
    known: Any = getattr(vendor, "ComputeCapability", None)
    missing = [name for name in names if not hasattr(known, name)]
    if missing:
        raise Failure(
            BAD_INPUT, "cannot build for {}".format(", ".join(missing)),
            f"{vendor.__name__} {vendor.__version__} does not know it", "leave compute_capabilities empty",
        )  # fmt: skip
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(known, name), index)


def _profile(builder: Any, network: Any, plan: BuildPlan) -> Any:  # noqa: ANN401 - the vendor's
    """One optimisation profile over all inputs of free size; None where every size is fixed."""
    free = [network.get_input(i) for i in range(network.num_inputs)]
    free = [tensor for tensor in free if -1 in tuple(tensor.shape)]
    if not free:
        return None
    profile = builder.create_optimization_profile()
    for tensor in free:
        wanted, shapes = tuple(tensor.shape), plan.shapes.get(tensor.name)
        if shapes is None:
            raise Failure(
                BAD_INPUT, f"build.json gives no shapes of {tensor.name!r}",
                f"its shape {list(wanted)} is free; TensorRT needs min, opt and max", FIX,
            )  # fmt: skip
        given = [tuple(shapes[name]) for name in ("min", "opt", "max")]
        if not all(_fits(shape, wanted) for shape in given):
            raise Failure(
                BAD_INPUT, f"the shapes of {tensor.name!r} in build.json do not fit the model",
                f"the model has {list(wanted)}, build.json {given}", FIX,
            )  # fmt: skip
        profile.set_shape(tensor.name, *given)
    return profile


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(size in {-1, given} for given, size in zip(shape, wanted))  # noqa: B905
