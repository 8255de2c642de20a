"""The OpenVINO engine: what it writes, what it refuses, and that it leaves this process as it was."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.engines import engine
from targets.engines import openvino as openvino_engine
from targets.errors import DeviceError, InputError
from targets.ondevice.openvino_module import import_openvino

if TYPE_CHECKING:
    from targets.engines.base import Engine


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = _load("openvino_models")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture
def openvino() -> Engine:
    return engine("openvino")


def test_the_engine_file_is_the_model_without_texts(openvino: Engine, tmp_path: Path) -> None:
    """Comments, paths and names of tools do not reach the engine, and the graph is the one that was given."""
    source = onnx.load(str(small.tiny(tmp_path / "m.onnx")))
    source.doc_string = source.producer_name = source.graph.doc_string = "/home/someone/secret"
    source.graph.node[0].doc_string = 'File "/home/someone/model.py", line 3'
    source.graph.node[0].metadata_props.add(key="path", value="/home/someone")
    source.metadata_props.add(key="who", value="someone")
    onnx.save(source, str(tmp_path / "m.onnx"))
    build = openvino.build(tmp_path / "m.onnx", small.profile(), tmp_path / "e", precision="fp32")
    data = (build.folder / build.file).read_bytes()
    assert b"someone" not in data
    built = onnx.load_from_string(data)
    assert [node.name for node in built.graph.node] == [node.name for node in source.graph.node]
    assert {path.name for path in build.folder.iterdir()} == {"engine.onnx", "engine.json", "inspect.json"}


def test_every_option_is_in_engine_json(openvino: Engine, tmp_path: Path) -> None:
    """Device, threads, precision and subnormals are fixed in the engine; only asked-for fp16 and bf16 are not f32."""
    if not small.computes_in("BF16"):
        pytest.skip("this CPU does not compute in bf16")
    target = small.profile(threads=2, denormal_as_zero=False)
    build = openvino.build(small.tiny(tmp_path / "m.onnx"), target, tmp_path / "e", precision="bf16")
    options = json.loads((build.folder / "engine.json").read_text())["options"]
    assert {key: options[key] for key in ("device", "threads", "precision", "denormal_as_zero")} == {
        "device": "CPU", "threads": 2, "precision": "bf16", "denormal_as_zero": False,
    }  # fmt: skip
    assert options["arch"] == target.hardware.arch
    fp32 = openvino.build(tmp_path / "m.onnx", target, tmp_path / "f", precision="fp32")
    assert fp32.options["precision"] == "f32"


def test_an_engine_of_a_device_that_is_not_here_is_built_and_says_so(openvino: Engine, tmp_path: Path) -> None:
    """For an NPU elsewhere the bundle holds a model for ONNX Runtime, nothing is said of what runs, none is opened."""
    target = small.profile(device="NPU")
    if openvino.runs(target).ok:
        pytest.skip("this machine has an NPU")
    assert "finds no NPU here" in openvino.runs(target).why
    build = openvino.build(small.tiny(tmp_path / "m.onnx"), target, tmp_path / "e", precision="fp32")
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert (build.model, seen["actual_precision"]) == ("engine.onnx", "unknown")
    assert "finds no NPU here" in seen["inspected"]
    assert seen["float_compute"] == ["conv", "head"]
    with pytest.raises(DeviceError, match="no NPU"), openvino.open(build):
        pass


def test_half_precision_that_the_cpu_lacks_is_refused(openvino: Engine, tmp_path: Path) -> None:
    """fp16 on a CPU that would compute in fp32 is an error that says so, not an fp32 engine called fp16."""
    capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "FP16" in capabilities:
        pytest.skip("this CPU computes in fp16")
    with pytest.raises(InputError, match="does not compute in f16") as caught:
        openvino.build(small.tiny(tmp_path / "m.onnx"), small.profile(), tmp_path / "e", precision="fp16")
    assert "f32" in caught.value.why


def test_this_process_computes_on_as_before(openvino: Engine, tmp_path: Path) -> None:
    """An engine that flushes subnormals is built, inspected, opened and run; this thread still computes them."""
    tiny_numbers = np.full(4, 1e-40, np.float32)
    flushing = small.profile(denormal_as_zero=True)
    build = openvino.build(small.tiny(tmp_path / "m.onnx"), flushing, tmp_path / "e", precision="fp32")
    assert build.options["denormal_as_zero"]
    with openvino.open(build) as runner:
        runner.infer({"x": small.normal(0, 2, 3, 8, 8)})
    assert (tiny_numbers * np.float32(1) != 0).all()


def test_subnormals_are_flushed_where_the_profile_says_so(openvino: Engine, tmp_path: Path) -> None:
    """The same sum of subnormal numbers is 0 with the option and exact without it."""
    node = helper.make_node("Add", ["x", "x"], ["y"], name="add")
    model = small.save(tmp_path / "m.onnx", [node], {"x": ["batch", 4], "y": ["batch", 4]})
    found = {}
    for flush in (True, False):
        build = openvino.build(model, small.profile(denormal_as_zero=flush), tmp_path / str(flush), precision="fp32")
        with openvino.open(build) as runner:
            found[flush] = runner.infer({"x": np.full((1, 4), 1e-39, np.float32)})["y"]
    assert (found[True] == 0).all()
    np.testing.assert_array_equal(found[False], np.full((1, 4), 1e-39, np.float32) * 2)


def test_what_the_reader_refuses_names_the_node(openvino: Engine, tmp_path: Path) -> None:
    """An operator that OpenVINO cannot read is a fault at its node, with the version that refused it."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Foo", ["r"], ["s"], name="first", domain="acme"),
        helper.make_node("Foo", ["s"], ["y"], domain="acme"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "m.onnx"))
    faults = openvino.check(tmp_path / "m.onnx", small.profile())
    assert [fault.where for fault in faults] == ["node 'first'", "node 'y'"]
    assert all("acme.Foo" in fault.what and "openvino 20" in fault.what for fault in faults)


def test_shapes_that_do_not_fit_name_the_node(openvino: Engine, tmp_path: Path) -> None:
    """A matrix product of shapes that do not fit is refused by the reader, and the fault says at which node."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="/block/product")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(small.normal(0, 4, 3), "w")],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(tmp_path / "m.onnx"))
    [fault] = openvino.check(tmp_path / "m.onnx", small.profile())
    assert "refuses it" in fault.what
    assert fault.where in {"node '/block/product'", "graph"}


@pytest.mark.parametrize("opset", [13, 16, 19, 21, 23])
def test_opsets_that_are_exported_can_be_read(openvino: Engine, tmp_path: Path, opset: int) -> None:
    """Every operator set from 13 on, which exporters write, is read and computes what ONNX Runtime computes."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
        helper.make_node("Sigmoid", ["h"], ["y"], name="act"),
    ]
    shapes: dict[str, list[int | str]] = {"x": ["batch", 3, 6, 6], "y": ["batch", 4, 4, 4]}
    model = small.save(tmp_path / "m.onnx", nodes, shapes, opset=opset, w=small.normal(1, 4, 3, 3, 3))
    build = openvino.build(model, small.profile(), tmp_path / "e", precision="fp32")
    feed = {"x": small.normal(2, 3, 3, 6, 6)}
    wanted = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).run(None, feed)[0]
    with openvino.open(build) as runner:
        np.testing.assert_allclose(runner.infer(feed)["y"], wanted, atol=1e-5)


def test_a_broken_plugin_of_another_device_does_not_matter(openvino: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose driver answers nothing but its name is no reason why the CPU should not run an engine."""

    class Core:
        available_devices = ("CPU", "GPU")

        def get_property(self, device: str, name: str) -> str:
            raise RuntimeError(f"{device} does not tell {name}")

    there = SimpleNamespace(Core=Core, __version__="2026.4.1-1-x")
    monkeypatch.setattr(openvino_engine, "import_openvino", lambda: there)
    assert openvino.runs(small.profile()).ok
