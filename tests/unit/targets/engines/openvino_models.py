"""Small ONNX models, a profile and a build, for what is told of OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from targets import machine
from targets.engines.base import EngineBuild
from targets.options import OpenVinoOptions, Precision
from targets.profile import TargetProfile, load_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

Shape = list[int | str]


def profile(target: str = "host", **options: object) -> TargetProfile:
    """A bundled profile with OpenVINO as its engine; subnormals are kept, since what is opened here computes here."""
    engine = OpenVinoOptions.model_validate({"name": "openvino", "denormal_as_zero": False, **options})
    return load_profile(target).model_copy(update={"engine": engine, "alternatives": ()})


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], shapes: dict[str, Shape], opset: int = 18, **constants: np.ndarray
) -> Path:
    """Writes a float model; the last of ``shapes`` is its output, the others are inputs."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([*nodes], "g", values[:-1], values[-1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def normal(seed: int, *shape: int) -> np.ndarray:
    """Normally distributed float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tiny(path: Path, batch: int | str = "batch") -> Path:
    """A convolution and a matrix product."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="head", transB=1),
    ]
    weights = {"w": normal(1, 8, 3, 3, 3), "b": normal(2, 8), "v": normal(3, 4, 8)}
    return save(path, nodes, {"x": [batch, 3, 8, 8], "y": [batch, 4]}, **weights)


def described(precision: Precision, device: str = "CPU") -> EngineBuild:
    """What engine.json would say."""
    return EngineBuild(
        folder=Path("nowhere"),
        engine="openvino",
        file="engine.onnx",
        runtime="openvino",
        runtime_version="2026.4.1",
        precision=precision,
        options={"device": device, "precision": "f32", "arch": machine.arch(), "isa": []},
        inputs=(),
        outputs=(),
        sha256="",
    )


def computes_in(dtype: str) -> bool:
    """Whether OpenVINO computes in ``dtype`` (``BF16``, ``FP16``) on this CPU."""
    from targets.ondevice.openvino_module import import_openvino

    return dtype in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
