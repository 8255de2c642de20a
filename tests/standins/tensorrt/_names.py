"""What a version of the stand-in has: enumerations, flags, types, and classes that take no unknown attribute."""

from __future__ import annotations

import ctypes
import enum
import os
from typing import Any

import numpy as np

__version__ = os.environ.get("STANDIN_TENSORRT", "10.3.0")
_MAJOR = int(__version__.split(".", maxsplit=1)[0])
_MAGIC = b"standin plan\n"
_STRONG = _MAJOR >= 10
_TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 9: "BOOL", 7: "INT64", 2: "UINT8", 16: "BF16"}
_NUMPY = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool", "INT64": "int64"}
_FORMATS = {"int8": "Thirty-two wide channel vectorized row major Int8 format", "fp16": "Row major linear FP16 format",
            "fp32": "Row major linear FP32"}  # fmt: skip


def _names(name: str, *members: str) -> Any:  # noqa: ANN401
    return enum.IntEnum(name, list(members), start=0)


def _cuda() -> Any:  # noqa: ANN401
    library = ctypes.CDLL("libcuda.so.1")
    for name in ("cuLaunchHostFunc", "cuStreamIsCapturing"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p][
            : 3 if name == "cuLaunchHostFunc" else 2
        ]
    return library


def _driver_is_dead() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0))
    except OSError:
        return True


_WEAK = () if _MAJOR >= 11 else ("FP16", "INT8", *(("BF16",) if _STRONG else ()))
BuilderFlag = _names("BuilderFlag", *_WEAK, "TF32", "GPU_FALLBACK", "REFIT", "VERSION_COMPATIBLE", "SPARSE_WEIGHTS")
NetworkDefinitionCreationFlag = _names(
    "NetworkDefinitionCreationFlag",
    *({8: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED")}.get(_MAJOR, ("STRONGLY_TYPED",))),
)
ProfilingVerbosity = _names("ProfilingVerbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED")
MemoryPoolType = _names("MemoryPoolType", "WORKSPACE", "DLA_MANAGED_SRAM")
HardwareCompatibilityLevel = _names("HardwareCompatibilityLevel", "NONE", "AMPERE_PLUS")
DeviceType = _names("DeviceType", "GPU", "DLA")
TensorIOMode = _names("TensorIOMode", "NONE", "INPUT", "OUTPUT")
LayerInformationFormat = _names("LayerInformationFormat", "ONELINE", "JSON")
DataType = _names(
    "DataType", *("FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"), *(("BF16", "INT64") if _STRONG else ())
)
if _STRONG:
    OnnxParserFlag = _names("OnnxParserFlag", "NATIVE_INSTANCENORM", *(("ADJUST_FOR_DLA",) if _MAJOR >= 11 else ()))


def nptype(kind: Any) -> Any:  # noqa: ANN401
    """Numpy's type for one of ours."""
    if kind.name not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return np.dtype(_NUMPY[kind.name]).type


class ILogger:
    Severity = _names("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

    def __init__(self) -> None:
        pass


class _Strict:
    """Takes only the attributes that the vendor's class has, as bindings do."""

    _settable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name not in self._settable:
            raise AttributeError(f"{type(self).__name__} of {__version__} has no {name}")
        object.__setattr__(self, name, value)
