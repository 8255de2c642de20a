"""The linters name what an engine refuses, and find nothing in what it takes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from targets.engines import engine
from targets.engines.lint_onnxruntime import lint_onnxruntime, warn_onnxruntime
from targets.engines.lint_tensorrt import lint_tensorrt
from targets.errors import InputError
from targets.profile import load_profile


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


broken = _load("broken_qdq")


def _said(faults: list[object]) -> str:
    return "\n".join(str(fault) for fault in faults)


@pytest.mark.parametrize("make", broken.REFUSED_BY_TENSORRT, ids=lambda make: make.__name__)
def test_tensorrt_linter_names_node_and_rule(make: Callable[[], onnx.ModelProto]) -> None:
    """Each graph that TensorRT refuses has a fault that names the node and the rule, and a remedy."""
    faults = lint_tensorrt(make())
    assert re.search(broken.REFUSED_BY_TENSORRT[make], _said([*faults]))
    assert all(fault.fix for fault in faults)


def test_a_good_graph_has_no_fault() -> None:
    """Neither linter says anything about a symmetric graph; its slowness on x86 is a warning, not a fault."""
    model = broken.good()
    onnx.checker.check_model(model, full_check=True)
    assert lint_tensorrt(model) == lint_onnxruntime(model) == []
    said = _said([*warn_onnxruntime(model)])
    assert "activation is int8" in said
    assert "output is float" in said


def test_a_float_graph_has_no_fault() -> None:
    """Without Q/DQ there is nothing to say."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "net",
            [helper.make_tensor_value_info("x", 1, [1])],
            [helper.make_tensor_value_info("y", 1, [1])],
        )
    )
    assert lint_tensorrt(model) == lint_onnxruntime(model) == warn_onnxruntime(model) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (broken.operator_format, "'conv' .*operator format"),
        (broken.dynamic, "'dq' .*its scale is not a constant"),
        (broken.zero_weight_scale, "'dq_w' .*scales must be positive"),
        (broken.scalar_zero_point, "'dq_w' .*zero point has 1"),
    ],
)
def test_onnxruntime_linter(make: Callable[[], onnx.ModelProto], said: str) -> None:
    """Broken numbers and operator format are faults for ONNX Runtime too; other dialects are not."""
    assert re.search(said, _said([*lint_onnxruntime(make())]))


def test_onnxruntime_takes_other_dialects() -> None:
    """Asymmetric activations and integer biases are what ONNX Runtime likes; uint8 weights only warn."""
    assert lint_onnxruntime(broken.asymmetric_unsigned()) == []
    assert lint_onnxruntime(broken.integer_bias()) == []
    assert lint_onnxruntime(broken.unsigned_weight()) == []
    assert "slower than float" in _said([*warn_onnxruntime(broken.unsigned_weight())])


def test_axis_and_pair_must_fit() -> None:
    """Scales along the wrong axis, scales of channels before opset 13 and a reader of another type are faults."""
    wrong = broken.good()
    next(node for node in wrong.graph.node if node.name == "dq_w").attribute[0].i = 1
    assert "4 scales along axis 1 of a tensor of shape [4, 3, 3, 3]" in _said([*lint_onnxruntime(wrong)])
    old = broken.good()
    old.opset_import[0].version = 12
    assert "needs opset 13" in _said([*lint_onnxruntime(old)])
    mixed = broken.good()
    mixed.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "other"))
    next(node for node in mixed.graph.node if node.name == "dq").input[2] = "other"
    assert "it reads uint8, its QuantizeLinear writes int8" in _said([*lint_onnxruntime(mixed)])


def test_missing_zero_point_means_uint8() -> None:
    """TensorRT would take it as int8, ONNX means uint8: the linter asks for it to be written."""
    model = broken.good()
    for node in model.graph.node:
        if node.name in {"q", "dq"}:
            del node.input[2:]
    assert "no zero point" in _said([*lint_tensorrt(model)])


def test_channel_scales_of_activations_are_refused() -> None:
    """TensorRT has one scale for an activation."""
    model = broken.good()
    for tensor in [t for t in model.graph.initializer if t.name.startswith("x_")]:
        model.graph.initializer.remove(tensor)
    model.graph.initializer.append(numpy_helper.from_array(np.full(3, 0.02, np.float32), "x_scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int8), "x_zero"))
    assert "one scale for each channel" in _said([*lint_tensorrt(model)])


def test_a_scale_that_a_node_lays_out_is_a_number() -> None:
    """One number along channels is read as those numbers: taken where it fits, named where it is 0 or too few."""
    good = broken.laid_out(broken.good(), "dq_w", 1, 4, np.float32(0.01))
    onnx.checker.check_model(good, full_check=True)
    assert lint_tensorrt(good) == lint_onnxruntime(good) == []
    assert "scales must be positive" in _said(
        [*lint_tensorrt(broken.laid_out(broken.good(), "dq_w", 1, 4, np.float32(0)))]
    )
    few = broken.laid_out(broken.good(), "dq_w", 1, 3, np.float32(0.01))
    for lint in (lint_tensorrt, lint_onnxruntime):
        assert "3 scales along axis 0 of a tensor of shape [4, 3, 3, 3]" in _said([*lint(few)])
    half = broken.laid_out(broken.good(), "dq", 1, 3, np.float16(0.02))
    said = _said([*lint_tensorrt(half)])
    assert "one scale for each channel" in said
    assert "'conv' (Conv): its inputs are of types float16 and float32" in said


def test_the_engine_refuses_what_its_linter_finds(tmp_path: Path) -> None:
    """`Engine.check` says what the linter finds, and a build stops there."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(broken.operator_format().SerializeToString())
    profile = load_profile("x86-64-vnni")
    assert "operator format" in _said([*engine("onnxruntime").check(path, profile)])
    with pytest.raises(InputError, match="operator format"):
        engine("onnxruntime").build(path, profile, tmp_path / "out", precision="int8")
