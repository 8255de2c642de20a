"""What a precision or a quantisation scheme asks of an engine or of hardware that cannot give it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from targets.contradictions_engine import Choice, on_cpu, on_gpu
from targets.contradictions_tensorrt import version
from targets.errors import Fault, nearest
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, Precision, TensorRtOptions
from targets.scheme import SCHEMES
from targets.sections import Hardware

VNNI: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""x86 CPU features with int8 products that add up in 32 bits; without them pairs saturate in 16."""

# Arithmetic throughput by compute capability, CUDA C++ Programming Guide, "Arithmetic Instructions":
# int8 dot products (dp4a) from 6.1 on, not on 6.2; fp16 from 5.3 on, on 6.1 a 64th of fp32; bf16 from 8.0 on.
_INT8_FROM: Final = (6, 1)
_INT8_NOT: Final = (6, 2)
_FP16_FROM: Final = (5, 3)
_FP16_NOT: Final = (6, 1)
_BF16_FROM: Final = (8, 0)
_FORMATS: Final = {
    "int8-dynamic": "DynamicQuantizeLinear",
    "int8-weights": "MatMulNBits",
    "int4-weights": "MatMulNBits",
}
_QNN: Final = "QNNExecutionProvider"
_DLA_PRECISIONS: Final = frozenset({"fp16", "int8"})
# Features that OpenVINO's CPU plugin computes a 16-bit type with, by architecture; its own answer to
# OPTIMIZATION_CAPABILITIES on a CPU without them is FP32 and INT8 only.
_OPENVINO_HALVES: Final = {
    ("fp16", "x86_64"): ("avx512_fp16", "amx_fp16"),
    ("bf16", "x86_64"): ("avx512_bf16", "amx_bf16"),
    ("fp16", "aarch64"): ("asimdhp",),
    ("bf16", "aarch64"): (),
}
# ONNX Runtime 1.32's CPU provider puts casts to float32 around fp16 operators on x86, and has none for bf16.
_ORT_HALVES: Final = {
    ("fp16", "x86_64"): (),
    ("bf16", "x86_64"): (),
    ("fp16", "aarch64"): ("asimdhp",),
    ("bf16", "aarch64"): (),
}


def scheme_faults(choice: Choice, hardware: Hardware | None) -> Iterator[Fault]:
    """A dialect that is unknown, another engine's, or wrong sums on this CPU."""
    if choice.quantization is None:
        return
    where, name = f"{choice.prefix}quantization.scheme", choice.quantization.scheme
    if name not in SCHEMES:
        yield Fault(where=where, what=f"{name!r} is no known scheme", fix=nearest(name, SCHEMES))
        return
    if choice.engine is None:
        return
    allowed = _schemes(choice.engine, hardware)
    if name not in allowed and SCHEMES[name].activation_bits > 8:  # noqa: PLR2004 - bits
        what = f"{name!r} has 16-bit activations, which {_described(choice.engine)} computes in float or refuses"
        others = f", or providers that begin with {_QNN!r}" if isinstance(choice.engine, OnnxRuntimeOptions) else ""
        yield Fault(where=where, what=what, fix=f"use {' or '.join(repr(item) for item in allowed)}{others}")
    elif name not in allowed:
        on = f" on {hardware.arch}" if hardware is not None and not _wants_trt(choice.engine) else ""
        what = f"{name!r} is not what {_described(choice.engine)} reads{on}"
        yield Fault(where=where, what=what, fix=f"use {' or '.join(repr(item) for item in allowed)}")
    elif _saturates(name, choice.engine, hardware):
        what = f"{name!r} has 8-bit weights, and hardware.isa names no VNNI: sums saturate there, and results are wrong"
        fix = (
            f"use 'ort-x86-avx2' (7-bit weights), or add what the CPU has of {', '.join(sorted(VNNI))} to hardware.isa"
        )
        yield Fault(where=where, what=what, fix=fix)


def _wants_trt(engine: EngineOptions) -> bool:
    return isinstance(engine, TensorRtOptions) or on_gpu(engine)


def _schemes(engine: EngineOptions, hardware: Hardware | None) -> tuple[str, ...]:
    """What an engine reads at full speed, the best first."""
    arch = hardware.arch if hardware is not None else None
    if _wants_trt(engine):
        return ("trt",)
    own = {"x86_64": ("ort-x86", "ort-x86-avx2"), "aarch64": ("ort-arm64",)}
    cpu = own[arch] if arch is not None else (*own["x86_64"], *own["aarch64"])
    if isinstance(engine, OnnxRuntimeOptions) and engine.providers[:1] == (_QNN,):
        return (*cpu, "qnn-a16")
    by_openvino = isinstance(engine, OpenVinoOptions) or engine.providers[:1] == ("OpenVINOExecutionProvider",)  # type: ignore[union-attr]  # TensorRT is told apart above
    return ("openvino", *cpu) if by_openvino else cpu


def _saturates(scheme: str, engine: EngineOptions, hardware: Hardware | None) -> bool:
    if hardware is None or hardware.arch != "x86_64" or not on_cpu(engine) or SCHEMES[scheme].weight_bits == 7:  # noqa: PLR2004 - bits
        return False
    return not VNNI.intersection(hardware.isa)


def _described(engine: EngineOptions) -> str:
    if isinstance(engine, OnnxRuntimeOptions):
        return f"onnxruntime's {engine.providers[0] if engine.providers else 'CPUExecutionProvider'}"
    return engine.name


def precision_faults(choice: Choice, hardware: Hardware | None) -> Iterator[Fault]:
    """Precisions that are there twice, or that the engine or the hardware does not compute in."""
    if choice.quantization is None:
        return
    where, wanted = f"{choice.prefix}quantization.precisions", choice.quantization.precisions
    if not wanted:
        yield Fault(where=where, what="there is nothing to build", fix='name at least one, such as "fp32"')
    for index, precision in enumerate(wanted):
        if precision in wanted[:index]:
            fault = f"{precision} is there twice"
            yield Fault(where=f"{where}.{index}", what=fault, fix="name each precision once")
        elif choice.engine is not None:
            why = _hindrance(choice.engine, hardware, precision)
            if why is not None:
                yield Fault(where=f"{where}.{index}", what=f"{precision}: {why}", fix=f"remove {precision!r}")
    if choice.quantization.float_type != "fp32" and choice.engine is not None:
        yield from _float_type(choice, choice.engine, hardware, choice.quantization.float_type)


def _float_type(
    choice: Choice, engine: EngineOptions, hardware: Hardware | None, float_type: Precision
) -> Iterator[Fault]:
    """16 bits around Q/DQ are for TensorRT, on a GPU that computes in them."""
    where, fix = f"{choice.prefix}quantization.float_type", 'write float_type = "fp32", or leave it out'
    if not isinstance(engine, TensorRtOptions):
        yield Fault(where=where, what=f"{engine.name} wants float32 around Q/DQ", fix=fix)
    elif (why := _hindrance(engine, hardware, float_type)) is not None:
        yield Fault(where=where, what=f"{float_type}: {why}", fix=fix)


def _hindrance(engine: EngineOptions, hardware: Hardware | None, precision: Precision) -> str | None:
    """Why nothing computes in that precision there; None where something does, or nothing is known."""
    if isinstance(engine, TensorRtOptions):
        if precision in _FORMATS:
            return f"its operator {_FORMATS[precision]} is none of TensorRT's"
        if engine.device == "dla":
            return None if precision in _DLA_PRECISIONS else "a DLA computes in fp16 and int8 only"
    if on_gpu(engine):
        if isinstance(engine, OnnxRuntimeOptions) and precision == "int8" and engine.providers[0].startswith("CUDA"):
            return "CUDAExecutionProvider computes models with Q/DQ in float"
        return _on_gpu(hardware, precision)
    if hardware is not None and on_cpu(engine) and precision in {"fp16", "bf16"}:
        return _on_cpu(engine, hardware, precision)
    return None


def _on_gpu(hardware: Hardware | None, precision: Precision) -> str | None:
    if hardware is None or hardware.compute_capability is None:
        return None
    own = version(hardware.compute_capability)
    lacking = {
        "int8": own < _INT8_FROM or own == _INT8_NOT,
        "fp16": own < _FP16_FROM or own == _FP16_NOT,
        "bf16": own < _BF16_FROM,
    }.get(precision, False)
    return f"compute capability {hardware.compute_capability} has no fast {precision} arithmetic" if lacking else None


def _on_cpu(engine: EngineOptions, hardware: Hardware, precision: Precision) -> str | None:
    by_ort = isinstance(engine, OnnxRuntimeOptions) and engine.providers[:1] != ("OpenVINOExecutionProvider",)
    features = (_ORT_HALVES if by_ort else _OPENVINO_HALVES)[precision, hardware.arch]
    if set(features).intersection(hardware.isa):
        return None
    if features:
        return f"hardware.isa names no {' and no '.join(features)}, so {_described(engine)} would compute in fp32"
    return f"{_described(engine)} computes it in fp32 on {hardware.arch}, or not at all"
