"""TensorRT-RTX builds for real without a GPU; TensorRT makes what its device needs to build; both refuse the same."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from calibration.half import HalfSettings, convert_half
from calibration.qdq import quantize_model
from targets import machine
from targets.engines import engine, tensorrt
from targets.engines.base import EngineBuild
from targets.engines.tensorrt_limits import recurrent_nodes, rtx_limits
from targets.errors import DeviceError, EdgepressError, InputError, RefusedError
from targets.files import sha256_file
from targets.ondevice.build_plan import read_plan
from targets.ondevice.cuda import Gpu
from targets.ondevice.tensorrt_module import driver_answers
from targets.onnxfile import open_onnx
from targets.options import TensorRtOptions
from targets.process import Limits
from targets.profile import TargetProfile, load_profile
from targets.scheme import scheme

_UNIT = Path(__file__).resolve().parents[2]
_HAS_RTX = bool(importlib.util.find_spec("tensorrt_rtx"))
rtx = pytest.mark.skipif(not _HAS_RTX, reason="tensorrt-rtx is not installed: pip install edgepress[tensorrt-rtx]")
without_gpu = pytest.mark.skipif(driver_answers(), reason="an NVIDIA driver answers here: tests/gpu holds this")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


broken = _load(Path(__file__).with_name("broken_qdq.py"))
zoo = _load(_UNIT / "calibration" / "qdq_zoo.py")


def target(name: str = "tensorrt-rtx", **options: Any) -> TargetProfile:  # noqa: ANN401
    """A target of an engine of this file."""
    if name == "tensorrt-rtx":
        options = {"compute_capabilities": ("8.6",), **options}
    section = TensorRtOptions(**{"name": name, "batch": (1, 2, 4), **options})
    return load_profile("x86-64-vnni").model_copy(update={"engine": section})


def net(name: str, kind: str, folder: Path) -> Path:
    """A net of the zoo in a precision, as the pipeline makes it."""
    model, feed = zoo.ZOO[name]()
    source = folder / "float.onnx"
    source.write_bytes(onnx.version_converter.convert_version(model, 20).SerializeToString())
    if kind == "int8":
        quantize_model(source, zoo.table_of(source, feed), scheme("trt"), "minmax", folder / "int8.onnx")
        return folder / "int8.onnx"
    if kind == "int8 in fp16":
        convert_half(net(name, "int8", folder), folder / "mixed.onnx", samples=[feed])
        return folder / "mixed.onnx"
    if kind == "fp16":
        convert_half(source, folder / "fp16.onnx", HalfSettings(dtype="float16"), samples=[feed])
        return folder / "fp16.onnx"
    return source


@rtx
@without_gpu
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int8 in fp16"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "transformer", "recommender"])
def test_rtx_builds_what_the_linter_passes(name: str, kind: str, tmp_path: Path) -> None:
    """Float, float16 and Q/DQ nets (also with 16 bits around Q/DQ) without a fault are built, model and plan beside.

    Nobody can open the engine here: the inspection says so instead of claiming a precision.
    """
    model = net(name, kind, tmp_path)
    trt = engine("tensorrt-rtx")
    assert trt.check(model, target()) == []
    precision = kind.partition(" ")[0]
    build = trt.build(model, target(), tmp_path / "out", precision=precision)  # type: ignore[arg-type]
    assert (build.folder / build.file).stat().st_size > 10_000
    assert sha256_file(build.folder / build.file) == build.sha256
    assert (build.model, build.build_on_device, build.runtime) == ("model.onnx", False, "tensorrt_rtx")
    assert EngineBuild.read(build.folder) == build
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert seen["actual_precision"] == "unknown"
    assert "driver" in seen["inspected"]
    assert seen["precisions"]["unknown"] == seen["compute"]["total"] > 0
    assert seen["compute"]["macs"] > 0
    assert any("computes convolutions in float" in line for line in seen["warnings"]) == (precision == "int8")
    plan = json.loads((build.folder / "build.json").read_text())
    assert plan["float_type"] == ("float16" if "fp16" in kind else "float32")


@rtx
def test_rtx_gives_the_same_bytes_again(tmp_path: Path) -> None:
    """Two builds of one model are equal, as the engine declares."""
    model, trt = net("residual", "int8", tmp_path), engine("tensorrt-rtx")
    first, second = (trt.build(model, target(), tmp_path / name, precision="int8") for name in ("a", "b"))
    assert trt.reproducible
    assert first.sha256 == second.sha256
    assert not engine("tensorrt").reproducible


@rtx
@pytest.mark.parametrize("make", broken.REFUSED_BY_TENSORRT, ids=lambda make: make.__name__)
def test_what_the_vendor_refuses_our_linter_refused_first(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """A graph that breaks a rule is refused with node and rule before the engine sees it; and the vendor refuses it."""
    model = tmp_path / "model.onnx"
    model.write_bytes(make().SerializeToString())
    for name in ("tensorrt-rtx", "tensorrt"):
        with pytest.raises(InputError) as caught:
            engine(name).build(model, target(name), tmp_path / name, precision="int8")
        assert all(fault.where.startswith("node ") for fault in caught.value.faults)
        assert not (tmp_path / name).exists()
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    plan = {"schema": 1, "model": "model.onnx", "sha256": digest, "precision": "int8", "shapes": {}}
    (tmp_path / "build.json").write_text(json.dumps({**plan, "compute_capabilities": ["SM86"]}))
    with pytest.raises(DeviceError, match="TensorRT cannot"):
        tensorrt._run_program("build", tmp_path, "a build")
    assert not (tmp_path / "engine.plan").exists()


@rtx
def test_the_vendor_takes_a_scale_that_a_node_lays_out(tmp_path: Path) -> None:
    """What the linter lets pass there is built: one number along the channels of a weight."""
    import numpy as np

    model = tmp_path / "model.onnx"
    model.write_bytes(broken.laid_out(broken.good(), "dq_w", 1, 4, np.float32(0.01)).SerializeToString())
    build = engine("tensorrt-rtx").build(model, target(), tmp_path / "out", precision="int8")
    assert (build.folder / build.file).stat().st_size > 10_000


@rtx
@without_gpu
def test_rtx_engines_are_not_opened_without_a_gpu(tmp_path: Path) -> None:
    """`runs` says why, opening is refused as an error of the device, and nothing crashes; its plan is no model."""
    trt = engine("tensorrt-rtx")
    answer = trt.runs(target())
    assert (answer.ok, "driver" in answer.why) == (False, True)
    build = trt.build(net("residual", "fp32", tmp_path), target(), tmp_path / "out", precision="fp32")
    with pytest.raises(DeviceError, match="driver"), trt.open(build):
        pass
    with pytest.raises(RefusedError, match="TensorRT plan"):
        open_onnx(build.folder / build.file)


@without_gpu
def test_tensorrt_makes_what_its_device_needs(tmp_path: Path) -> None:
    """Without a GPU the build is model and plan: everything that the profile says, and hashes that fit."""
    model = net("residual", "int8", tmp_path)
    model.write_bytes(_free_batch(onnx.load(str(model))).SerializeToString())
    trt = engine("tensorrt")
    wanted = target("tensorrt", optimization_level=5, workspace_mb=77, cuda_graph=False, version_compatible=True)
    assert trt.available().ok
    build = trt.build(model, wanted, tmp_path / "out", precision="int8")
    assert sorted(path.name for path in build.folder.iterdir()) == [
        "build.json", "engine.json", "inspect.json", "model.onnx",
    ]  # fmt: skip
    assert (build.build_on_device, build.file, build.model) == (True, "model.onnx", "model.onnx")
    assert build.files == {"build.json": sha256_file(build.folder / "build.json")}
    plan = read_plan(build.folder)
    assert (plan.optimization_level, plan.workspace_mb, plan.cuda_graph, plan.version_compatible) == (
        5,
        77,
        False,
        True,
    )
    assert plan.shapes == {"x": {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}}
    assert {item["precision"] for item in plan.compute.values()} <= {"int8", "fp32"}
    said = json.loads((build.folder / "build.json").read_text())
    assert said["timing_cache"] == ["compute_capability", "device", "driver", "tensorrt"]
    assert "ondevice.pyz build" in trt.inspect(build).inspected
    with pytest.raises(DeviceError, match="not built yet"), trt.open(build):
        pass


@without_gpu
@pytest.mark.parametrize("name", ["residual", "transformer", "recommender"])
@pytest.mark.parametrize("kind", ["int8", "int8 in fp16"])
def test_weights_in_float_are_the_same_numbers(name: str, kind: str, tmp_path: Path) -> None:
    """For TensorRT 8.6 each int8 weight becomes a float one that is quantised: linted, counted, the same outputs."""
    import numpy as np
    import onnxruntime

    model, trt = net(name, kind, tmp_path), engine("tensorrt")
    int8, in_float = (
        trt.build(model, target("tensorrt", weights=weights), tmp_path / weights, precision="int8")
        for weights in ("int8", "float")
    )
    found = onnx.load(str(in_float.folder / "model.onnx"))
    onnx.checker.check_model(found, full_check=True)
    weights = {t.name: t.data_type for t in found.graph.initializer}
    assert not [n.name for n in found.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in weights]
    assert trt.check(in_float.folder / "model.onnx", target("tensorrt")) == []
    assert read_plan(in_float.folder).compute == read_plan(int8.folder).compute
    assert read_plan(in_float.folder).weights_bytes > read_plan(int8.folder).weights_bytes
    feed = zoo.ZOO[name]()[1]
    answers = [
        onnxruntime.InferenceSession(build.folder / "model.onnx", providers=["CPUExecutionProvider"]).run(None, feed)
        for build in (int8, in_float)
    ]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_that_do_not_come_back_are_refused(tmp_path: Path) -> None:
    """Weights beyond float16's range would change their integers: an error, and nothing is written."""
    import numpy as np

    model = broken._put(broken.good(), bias=np.zeros(4, np.float16), w_scale=np.full(4, 900, np.float16))
    model = broken._put(model, x_scale=np.float16(0.02))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="cannot be stored in float"):
        engine("tensorrt").build(path, target("tensorrt", weights="float"), tmp_path / "out", precision="int8")
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    ("capability", "arch", "here"), [("9.0", "", True), ("8.7", "", False), ("9.0", "other", False)]
)
def test_only_the_targets_own_gpu_builds_here(
    monkeypatch: pytest.MonkeyPatch, capability: str, arch: str, here: bool  # noqa: FBT001
) -> None:  # fmt: skip
    """A GPU in the build host makes no engine for another GPU or machine: that one's device builds it itself."""
    monkeypatch.setattr(tensorrt, "_version", lambda _: "10.3.0")
    monkeypatch.setattr(tensorrt, "gpu", lambda: Gpu(name="H200", compute_capability="9.0", driver="12.6"))
    plain = target("tensorrt")
    arch = arch or machine.arch()
    hardware = plain.hardware.model_copy(update={"arch": arch, "compute_capability": capability})
    trt = tensorrt.TensorRtEngine()
    assert trt._builds_here(plain.model_copy(update={"hardware": hardware})) == here
    assert "H200" in trt.available().why


@without_gpu
def test_what_the_device_gets_is_the_same_every_time(tmp_path: Path) -> None:
    """Model and plan are equal byte by byte, from any folder, and name no path and no tool."""
    model = net("residual", "int8", tmp_path)
    first, second = (
        engine("tensorrt").build(model, target("tensorrt"), tmp_path / name, precision="int8").folder
        for name in ("a", "b")
    )
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes()


def _free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    return model


@pytest.mark.parametrize(
    ("kind", "precision", "said"),
    [
        ("fp32", "int8", "stayed float"),
        ("fp32", "fp16", "all .* are not"),
        ("int8", "fp32", "are int8"),
        ("fp16", "fp32", "are fp16"),
        ("fp32", "int8-dynamic", "they compute in"),
        ("fp32", "int4-weights", "they compute in"),
    ],
)
@pytest.mark.parametrize("name", ["tensorrt-rtx", "tensorrt"])
def test_a_graph_of_another_precision_is_refused(
    name: str, kind: str, precision: Any, said: str, tmp_path: Path  # noqa: ANN401
) -> None:  # fmt: skip
    """TensorRT computes what the graph says: a graph that says something else than was asked for is an error."""
    with pytest.raises(InputError) as caught:
        engine(name).build(net("residual", kind, tmp_path), target(name), tmp_path / "out", precision=precision)
    assert precision in caught.value.what
    assert re.search(said, caught.value.why)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"batch": (4, 2, 1)}, "engine.batch"),
        ({"compute_capabilities": ("8.7",)}, "engine.compute_capabilities.0"),
        ({"compute_capabilities": ()}, "engine.compute_capabilities"),
        ({"device": "dla", "batch": (1, 1, 1)}, "engine.device"),
        ({"version_compatible": True}, "engine.version_compatible"),
        ({"hardware_compatible": True}, "engine.hardware_compatible"),
        ({"name": "tensorrt", "device": "dla", "batch": (1, 1, 1)}, "engine.device"),
        ({"name": "tensorrt", "compute_capabilities": ("8.7",)}, "engine.compute_capabilities"),
        ({"name": "tensorrt", "batch": (2, 1, 1)}, "engine.batch"),
    ],
)
def test_profiles_that_contradict_themselves(options: dict[str, Any], where: str, tmp_path: Path) -> None:
    """What the engine has not, or what cannot be, is named by its key in the profile, before any build."""
    model = tmp_path / "model.onnx"
    model.write_bytes(broken.good().SerializeToString())
    name = str(options.get("name", "tensorrt-rtx"))
    faults = engine(name).check(model, target(name, **{k: v for k, v in options.items() if k != "name"}))
    assert [fault.where for fault in faults] == [where]
    assert all(fault.fix for fault in faults)


def test_the_hardwares_gpu_is_built_for() -> None:
    """The GPU of the hardware section is the one to build for, where the engine section names none."""
    from targets.engines.tensorrt_check import gpus_of

    wanted = target(compute_capabilities=())
    hardware = wanted.hardware.model_copy(update={"compute_capability": "8.9"})
    assert gpus_of(wanted.model_copy(update={"hardware": hardware}), wanted.engine) == ("8.9",)  # type: ignore[arg-type]


def test_a_crash_of_the_vendors_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that ends its process ends a child only: the signal and the remedy are told."""
    program = "import os; os.kill(os.getpid(), 11)"
    monkeypatch.setattr(tensorrt, "_program", lambda *_: [tensorrt.sys.executable, "-c", program])
    with pytest.raises(DeviceError, match="crashed") as caught:
        tensorrt._run_program("build", tmp_path, "building it")
    assert "signal 11" in caught.value.why


@rtx
@pytest.mark.parametrize("name", ["residual", "recurrent"])
def test_a_build_that_does_not_end_is_given_up(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The compiler may hang: the program ends within the limit; of recurrent nets a node and a way out are named."""
    monkeypatch.setattr(tensorrt, "rtx_limits", lambda _: Limits(timeout_s=1.0))
    waiting = "import time; time.sleep(600)"
    monkeypatch.setattr(tensorrt, "_program", lambda *_: [tensorrt.sys.executable, "-c", waiting])
    model = recurrent("LSTM", tmp_path) if name == "recurrent" else net(name, "fp32", tmp_path)
    with pytest.raises(EdgepressError, match="longer than its limit of 1 s") as caught:
        engine("tensorrt-rtx").build(model, target(), tmp_path / "out", precision="fp32")
    assert ("node 'cell' (LSTM)" in caught.value.why) is (name == "recurrent")
    assert ("[build] candidates" in caught.value.fix) is (name == "recurrent")


def recurrent(op: str, folder: Path, *, steps: int = 4, direction: str = "forward") -> Path:
    """One recurrent layer of 8 units, (batch, steps, 6) to (batch, steps, directions, 8)."""
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    rng = np.random.default_rng(0)
    weights = {"w": (ways, gates * 8, 6), "r": (ways, gates * 8, 8), "b": (ways, gates * 16)}
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        onnx.helper.make_node(op, ["t", *weights], ["s"], name="cell", hidden_size=8, direction=direction),
        onnx.helper.make_node("Transpose", ["s"], ["y"], perm=[2, 0, 1, 3]),
    ]
    graph = onnx.helper.make_graph(
        nodes, "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", steps, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", steps, ways, 8])],
        [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in weights.items()],
    )  # fmt: skip
    path = folder / f"{op}.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@rtx
@without_gpu
@pytest.mark.parametrize(("steps", "direction"), [(1, "forward"), (16, "bidirectional")])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_built(op: str, steps: int, direction: str, tmp_path: Path) -> None:
    """Each in both directions, and of one step: what TensorRT-RTX builds is not warned of."""
    model = recurrent(op, tmp_path, steps=steps, direction=direction)
    assert engine("tensorrt-rtx").warn(model, target()) == []
    build = engine("tensorrt-rtx").build(model, target(), tmp_path / "out", precision="fp32")
    assert (build.folder / build.file).stat().st_size > 0


def test_a_recurrent_net_waits_two_minutes_where_others_wait_ten(tmp_path: Path) -> None:
    """Longer with every node, as a long graph takes longer; and never longer than other nets."""
    plain, short = onnx.load(net("residual", "fp32", tmp_path)), onnx.load(recurrent("GRU", tmp_path))
    assert rtx_limits(plain).timeout_s == 600.0
    assert 120.0 <= rtx_limits(short).timeout_s < 130.0
    short.graph.node.extend([onnx.helper.make_node("Identity", ["y"], [f"y{i}"]) for i in range(1000)])
    assert rtx_limits(short).timeout_s == pytest.approx(220.3)
    short.graph.node.extend([onnx.helper.make_node("Identity", ["y"], [f"z{i}"]) for i in range(9000)])
    assert rtx_limits(short).timeout_s == 600.0
    foreign = onnx.load(recurrent("GRU", tmp_path))
    foreign.graph.node[1].domain = "com.microsoft"
    assert recurrent_nodes(foreign) == []


def test_where_rtx_is_missing_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine that is not installed says which package it lacks, and builds nothing."""
    monkeypatch.setattr(tensorrt, "_version", lambda _: "")
    trt = engine("tensorrt-rtx")
    for answer in (trt.available(), trt.runs(target())):
        assert answer.fix.startswith("pip install 'edgepress[tensorrt-rtx]'")
    with pytest.raises(EdgepressError, match="not available"):
        trt.build(net("residual", "fp32", tmp_path), target(), tmp_path / "out", precision="fp32")
