"""The engine inspector's JSON in the forms of 8.6, 10 and 11, and what is made of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from targets.ondevice import tensorrt_inspect
from targets.ondevice.build_plan import BuildPlan
from targets.ondevice.failure import DEVICE, Failure
from targets.ondevice.tensorrt_layers import read_layers, tensor_kind

_EIGHT = {
    "Layers": [
        {
            "Name": "conv + relu", "LayerType": "CaskConvolution", "TacticName": "sm86_xmma_fprop",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        },
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv", "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
        },
        {
            "Name": "head", "LayerType": "CaskGemmMatrixMultiply",
            "Inputs": [{"Name": "f", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
    ],
    "Bindings": ["x", "y"],
}  # fmt: skip
_ELEVEN = {
    "Layers": [
        {
            "Name": "__myl_Conv_0", "LayerType": "conv", "Metadata": "[ONNX Layer: conv]\u001e[ONNX Layer: relu]",
            "Inputs": [{"Name": "x", "Format": "Row major linear", "DataType": "Int8"}],
        },
        {
            "Name": "__myl_MatMul_1", "LayerType": "gemm", "Metadata": "[ONNX Layer: head]",
            "Inputs": [{"Name": "f", "Format": "Row major linear", "DataType": "Half"}],
        },
        {"Name": "r", "LayerType": "Reformat", "Inputs": [{"Name": "x", "Format": "N/A", "DataType": "Float"}]},
    ],
    "I/O Tensors": [{"Name": "x"}, {"Name": "y"}],
}  # fmt: skip


def plan(**changes: Any) -> BuildPlan:  # noqa: ANN401
    """A plan of a net with one convolution and one product."""
    compute = {
        "conv": {"operator": "Conv", "precision": "int8", "macs": 90},
        "head": {"operator": "Gemm", "precision": "fp16", "macs": 10},
    }
    values: dict[str, Any] = {
        "model": "model.onnx", "sha256": "", "precision": "int8", "shapes": {}, "engine": "tensorrt",
        "optimization_level": 3, "workspace_mb": 1, "device": "gpu", "dla_core": 0, "gpu_fallback": True,
        "version_compatible": False, "hardware_compatible": False, "cuda_graph": True, "compute_capabilities": [],
        "sparsity": [], "inputs": [], "outputs": [], "compute": compute, "float_type": "float16", "weights_bytes": 5,
    }  # fmt: skip
    return BuildPlan(**{**values, **changes})


@pytest.mark.parametrize("told", [_EIGHT, _ELEVEN], ids=["8.6", "11"])
def test_old_and_new_forms_say_the_same(told: dict[str, Any]) -> None:
    """The same engine, told in the words of 8.6 and of 11, is inspected to the same counts."""
    found = tensorrt_inspect.from_engine(plan(), json.dumps(told), "tensorrt")
    assert found["precisions"] == {"fp32": 0, "fp16": 1, "bf16": 0, "int8": 1, "unknown": 0}
    assert (found["compute"]["total"], found["compute"]["int8"]) == (2, 1)
    assert (found["actual_precision"], found["reformats"], found["inspected"]) == ("mixed", 1, "")
    assert found["fallbacks"] == []  # the model itself asks for fp16 there
    asked = {name: {**item, "precision": "int8"} for name, item in plan().compute.items()}
    assert tensorrt_inspect.from_engine(plan(compute=asked), json.dumps(told), "tensorrt")["fallbacks"] == ["head"]
    assert found["weights_bytes"] == 5


def test_work_is_counted_by_node() -> None:
    """Where the engine names ONNX nodes, int8 work is a share of multiply-accumulates."""
    found = tensorrt_inspect.from_engine(plan(), json.dumps(_ELEVEN), "tensorrt")
    assert found["compute"] == {"total": 2, "int8": 1, "macs": 100, "int8_macs": 90}
    assert found["int8_mac_ratio"] == 0.9


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Four wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Two wide channel vectorized row major FP16 format"}, "fp16"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, "unknown"),
        ({"Format": "Row major linear", "DataType": "BFloat16"}, "bf16"),
        ({"Format": "Row major linear", "DataType": "FP8"}, "fp8"),
        ({"Format": "Thirty-two wide channel vectorized", "DataType": "Half"}, "fp16"),
        ({"Format": "Row major linear", "DataType": "Int32"}, "other"),
        ({}, "unknown"),
        ("x", "unknown"),
    ],
)
def test_types_of_tensors(said: object, kind: str) -> None:
    """Every word that the versions have for a type is known; what says none is unknown, not float."""
    assert tensor_kind(said) == kind


def test_a_subgraph_hides_its_products() -> None:
    """An opaque subgraph tells nothing of what is inside: its products are unknown, and that is no verdict."""
    told = {
        "Layers": [
            {
                "Name": "{ForeignNode[conv...head]}", "LayerType": "Myelin",
                "Metadata": "[ONNX Layer: conv]\u001e[ONNX Layer: head]",
                "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
            }
        ]
    }  # fmt: skip
    found = tensorrt_inspect.from_engine(plan(), json.dumps(told), "tensorrt")
    assert found["precisions"]["unknown"] == 2
    assert found["actual_precision"] == "unknown"
    tensorrt_inspect.check(found, "model.onnx")


@pytest.mark.parametrize("text", ["{}", "[]", '{"Layers": []}', '{"Layers": ["conv", "head"]}', "no json"])
def test_what_says_nothing_of_layers_is_no_inspection(text: str) -> None:
    """Names alone, nothing at all or no JSON: an error that is said, instead of an inspection of nothing."""
    with pytest.raises(ValueError, match=r"."):
        read_layers(text)


def test_nothing_in_the_asked_precision_is_an_error() -> None:
    """Asked for int8 and given float throughout: refused, with the counts."""
    told = json.loads(json.dumps(_EIGHT).replace("Int8", "FP32"))
    with pytest.raises(Failure, match="int8") as caught:
        tensorrt_inspect.check(tensorrt_inspect.from_engine(plan(), json.dumps(told), "tensorrt"), "model.onnx")
    assert caught.value.exit_code == DEVICE
    assert "1 in fp32" in caught.value.why


def test_what_leaves_the_dla_is_named() -> None:
    """Layers on the GPU are fallbacks of a build for the DLA; nothing on the DLA is an error."""
    layers = [{**_ELEVEN["Layers"][0], "LayerType": "DLA"}, _ELEVEN["Layers"][1]]  # type: ignore[index]
    found = tensorrt_inspect.from_engine(plan(device="dla"), json.dumps({"Layers": layers}), "tensorrt", ["softmax"])
    assert found["providers"] == {"GPU": 1, "DLA": 1}
    assert found["compute"]["elsewhere"] == 1
    assert "__myl_MatMul_1" in found["fallbacks"]
    assert "softmax" in found["fallbacks"]
    tensorrt_inspect.check(found, "model.onnx")
    nothing = tensorrt_inspect.from_engine(plan(device="dla"), json.dumps(_ELEVEN), "tensorrt")
    with pytest.raises(Failure, match="DLA"):
        tensorrt_inspect.check(nothing, "model.onnx")


def test_rtx_claims_no_int8_convolution() -> None:
    """What TensorRT-RTX is asked in int8 is told, what it does with convolutions warned of, and no share claimed."""
    found = tensorrt_inspect.from_graph(plan(), "no GPU", "tensorrt_rtx")
    assert (found["actual_precision"], found["int8_mac_ratio"], found["inspected"]) == ("unknown", 0.0, "no GPU")
    assert "computes convolutions in float" in found["warnings"][0]
    assert tensorrt_inspect.from_graph(plan(), "no GPU", "tensorrt")["warnings"] == []
