"""How each runtime is opened on a target: one section a runtime, each with the keys that runtime has."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-weights", "int4-weights"]
"""What a candidate computes in: ``int8`` is static Q/DQ, ``-dynamic`` quantises activations as it runs, ``-weights``
only stores the weights so."""

ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]
Provider = Literal[
    "CPUExecutionProvider",
    "XnnpackExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
    "OpenVINOExecutionProvider",
    "QNNExecutionProvider",
    "CoreMLExecutionProvider",
    "NnapiExecutionProvider",
]


class Section(BaseModel):
    """A table of a profile: frozen, nothing unknown, no value bent into another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@final
class OnnxRuntimeOptions(Section):
    """ONNX Runtime.

    Attributes:
        name: The engine.
        providers: Execution providers, in order of preference; what none of the first ones takes, the last one runs.
        provider_options: Options of a provider, by its name: texts, as ONNX Runtime takes them.
        threads: Threads inside one operator.
        allow_spinning: Whether idle worker threads spin (lower latency, more energy).
        memory_pattern: Whether the runtime plans one block for all activations.
        arena: Whether the runtime keeps freed memory for the next inference.
        denormal_as_zero: Whether subnormal numbers are flushed.
        format: ``onnx``, or ``ort`` for builds of the runtime that hold only the operators of this model.
    """

    name: Literal["onnxruntime"]
    providers: tuple[Provider, ...] = ("CPUExecutionProvider",)
    provider_options: dict[Provider, dict[str, str]] = {}
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    allow_spinning: bool = True
    memory_pattern: bool = True
    arena: bool = True
    denormal_as_zero: bool = True
    format: Literal["onnx", "ort"] = "onnx"


@final
class OpenVinoOptions(Section):
    """OpenVINO.

    Attributes:
        name: The engine.
        device: The plugin that runs it.
        threads: Threads of the CPU plugin.
        denormal_as_zero: Whether subnormal numbers are flushed.
    """

    name: Literal["openvino"]
    device: Literal["CPU", "GPU", "NPU"] = "CPU"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    denormal_as_zero: bool = True


@final
class TensorRtOptions(Section):
    """TensorRT, built on the device; or TensorRT-RTX, built ahead of time on any host.

    Attributes:
        name: The engine.
        device: ``dla`` for the deep-learning accelerator of a Jetson.
        dla_core: Which of them.
        gpu_fallback: Whether the GPU runs what the DLA does not.
        optimization_level: How long the builder searches: 0 to 5, 3 is TensorRT's default.
        workspace_mb: Scratch memory that a layer may use, in MiB.
        batch: Smallest, usual and largest batch size of the optimisation profile.
        cuda_graph: Whether an inference is replayed from a captured graph.
        version_compatible: Whether later versions of TensorRT may load the engine (needs the lean runtime).
        hardware_compatible: Whether other GPUs of Ampere and later may load it (costs speed).
        compute_capabilities: GPUs that a TensorRT-RTX engine is built for.
        weights: How those of int8 models lie in the graph: ``int8`` behind DequantizeLinear, which TensorRT reads from
            10 on, or ``float`` behind QuantizeLinear too, four times as large and all that 8.6 reads.
        sparsity: Patterns of zeros in weights that the GPU multiplies faster, and the builder may make use of.
    """

    name: Literal["tensorrt", "tensorrt-rtx"]
    device: Literal["gpu", "dla"] = "gpu"
    dla_core: Annotated[int, Field(ge=0, le=7)] = 0
    gpu_fallback: bool = True
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    workspace_mb: Annotated[int, Field(gt=0)] = 1024
    batch: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (1, 1, 1)
    cuda_graph: bool = True
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: tuple[ComputeCapability, ...] = ()
    weights: Literal["int8", "float"] = "int8"
    sparsity: Annotated[tuple[Literal["2:4"], ...], Field(max_length=1)] = ()


EngineOptions = Annotated[OnnxRuntimeOptions | OpenVinoOptions | TensorRtOptions, Field(discriminator="name")]
