"""TensorRT and TensorRT-RTX on a real GPU: build, inspect, load, run against ONNX Runtime, measure."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from calibration.half import HalfSettings, convert_half
from calibration.qdq import quantize_model
from targets import machine
from targets.contradictions_tensorrt import rtx_runs
from targets.engines import engine
from targets.engines.base import EngineBuild
from targets.engines.tensorrt_files import waiting_build, write_plan
from targets.ondevice.cuda import gpu
from targets.ondevice.tensorrt_module import driver_answers
from targets.options import TensorRtOptions
from targets.profile import TargetProfile, load_profile
from targets.scheme import scheme

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not driver_answers(), reason="no NVIDIA driver answers here (cuInit of libcuda.so.1)"),
]
# Of the largest output: float kernels differ by order of sums, float16 has 11 bits, int8 rounds ties by the kernel.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "int8": 5e-2}
NETS = ("residual", "depthwise")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load(Path(__file__).resolve().parents[1] / "unit" / "calibration" / "qdq_zoo.py")


def _net(name: str, kind: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    model, feed = zoo.ZOO[name]()
    source = folder / "float.onnx"
    source.write_bytes(onnx.version_converter.convert_version(model, 20).SerializeToString())
    if kind == "int8":
        quantize_model(source, zoo.table_of(source, feed), scheme("trt"), "minmax", folder / "int8.onnx")
    if kind == "fp16":
        convert_half(source, folder / "fp16.onnx", HalfSettings(dtype="float16"), samples=[feed])
    return (source if kind == "fp32" else folder / f"{kind}.onnx"), feed


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def target(request: pytest.FixtureRequest) -> TargetProfile:
    """A profile of this machine and its GPU, for an engine that is installed."""
    name, found = request.param, gpu()
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed here")
    if name == "tensorrt-rtx" and not rtx_runs(found.compute_capability, named=True):
        pytest.skip(f"TensorRT-RTX does not run on {found.name} (compute capability {found.compute_capability})")
    plain = load_profile("x86-64-vnni")
    hardware = plain.hardware.model_copy(
        update={"arch": machine.arch(), "isa": (), "compute_capability": found.compute_capability}
    )
    named = (found.compute_capability,) if name == "tensorrt-rtx" else ()
    options = TensorRtOptions(name=name, compute_capabilities=named)  # type: ignore[arg-type]
    return plain.model_copy(update={"hardware": hardware, "engine": options})


def _reference(build: EngineBuild, feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(build.folder / build.model), providers=["CPUExecutionProvider"])
    return list(session.run([port.name for port in build.outputs], feed))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", NETS)
def test_build_run_and_measure(
    target: TargetProfile, name: str, kind: Any, tmp_path: Path, results: list[str]  # noqa: ANN401
) -> None:  # fmt: skip
    """What was built computes what ONNX Runtime computes from the same graph, in the asked precision; and how fast."""
    model, feed = _net(name, kind, tmp_path)
    trt = engine(target.engine.name)
    assert trt.runs(target).ok, trt.runs(target)
    build = trt.build(model, target, tmp_path / "engine", precision=kind)
    seen = trt.inspect(build)
    assert seen.inspected == "", seen.inspected
    wanted = _reference(build, feed)
    with trt.open(build) as runner:
        got = runner.infer(feed)
    for port, expected in zip(build.outputs, wanted, strict=True):
        error = np.abs(got[port.name].astype(np.float64) - expected.astype(np.float64)).max()
        assert error <= TOLERANCES[kind] * np.abs(expected).max(), (port.name, float(error))
    stages = _measured(build.folder, feed, tmp_path)
    found = ", ".join(f"{count} {word}" for word, count in seen.precisions.items() if count)
    facts = gpu()
    results.append(
        f"| {facts.name} ({facts.compute_capability}), CUDA {facts.driver} | {build.runtime} {build.runtime_version} "
        f"| {name} | {kind} | {found} | {seen.reformats} | {stages['compute']['median_ns'] / 1e3:.1f} "
        f"| {stages['latency']['median_ns'] / 1e3:.1f} | {stages['cuda_graph']} |"
    )


def test_a_delivered_folder_is_built_by_the_device_program(target: TargetProfile, tmp_path: Path) -> None:
    """Model and plan, as they travel to a device, become an engine there; a second build knows the kernels' times."""
    if target.engine.name != "tensorrt":
        pytest.skip("TensorRT-RTX builds ahead of time")
    model, feed = _net("residual", "int8", tmp_path)
    folder = tmp_path / "delivered"
    folder.mkdir()
    assert isinstance(target.engine, TensorRtOptions)
    build = waiting_build(folder, write_plan(model, target, target.engine, "int8", folder), "int8")
    build.write()
    assert _program("build", str(folder))["timing_cache"] is False
    assert _program("build", str(folder))["timing_cache"] is True
    np.savez(tmp_path / "feed.npz", **feed)
    batch = str(len(next(iter(feed.values()))))
    _program("infer", str(folder), "--inputs", str(tmp_path / "feed.npz"), "--out", str(tmp_path / "o.npz"), "--batch",
             batch)  # fmt: skip
    got, wanted = np.load(tmp_path / "o.npz"), _reference(build, feed)
    for port, expected in zip(build.outputs, wanted, strict=True):
        assert np.abs(got[port.name] - expected).max() <= TOLERANCES["int8"] * np.abs(expected).max()


def _measured(folder: Path, feed: dict[str, Any], scratch: Path) -> dict[str, Any]:
    np.savez(scratch / "samples.npz", **feed)
    batch = len(next(iter(feed.values())))
    row = _program(
        "measure", str(folder), "--samples", str(scratch / "samples.npz"), "--scenario", "throughput", "--batch",
        str(batch), "--warmup-s", "0.2", "--min-s", "0.5",
    )  # fmt: skip
    stages: dict[str, Any] = row["stages"]
    return stages


def _program(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-m", "targets.ondevice", *arguments], capture_output=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)["result"]
    return answer
