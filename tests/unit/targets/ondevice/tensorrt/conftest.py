"""A device with a GPU that is none: stand-ins for TensorRT and for the driver, and a bundle that waits to be built."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.engines import engine
from targets.ondevice_pack import FILE_NAME, pack
from targets.options import TensorRtOptions
from targets.profile import TargetProfile, load_profile

STANDINS = Path(__file__).resolve().parents[4] / "standins"
Answer = tuple[int, dict[str, Any], str]
Device = Callable[..., Answer]


@pytest.fixture(scope="session")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stand-in libcuda.so.1."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("NOT TESTED: the TensorRT runner needs a C compiler here, to make the stand-in for libcuda.so.1")
    folder = tmp_path_factory.mktemp("libcuda")
    source, library = STANDINS / "libcuda.c", folder / "libcuda.so.1"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-lpthread"], check=True)
    return folder


@pytest.fixture(scope="session")
def environment(libcuda: Path) -> dict[str, str]:
    """What a process sees that is to find the stand-ins."""
    return {
        **os.environ, "PYTHONPATH": str(STANDINS), "LD_LIBRARY_PATH": str(libcuda), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def device(environment: dict[str, str]) -> Device:
    """Runs a bundle's own ondevice.pyz where the stand-ins are found: exit code, the one JSON document, stderr."""

    def run(bundle: Path, *arguments: str, version: str = "10.3.0", **settings: str) -> Answer:
        done = subprocess.run(
            [sys.executable, str(bundle / FILE_NAME), *arguments],
            capture_output=True, check=False, timeout=120, cwd=bundle.parent,
            env={**environment, "STANDIN_TENSORRT": version, **settings},
        )  # fmt: skip
        assert done.returncode >= 0, f"signal {-done.returncode}\n{done.stderr.decode()}"
        return done.returncode, json.loads(done.stdout), done.stderr.decode()

    return run


def int8_net() -> onnx.ModelProto:
    """Conv in int8 as every TensorRT takes it (Q and DQ on the weight too), Relu, GlobalAveragePool, a float Gemm."""
    rng = np.random.default_rng(7)
    arrays: dict[str, Any] = {
        "s": np.float32(0.03), "z": np.int8(0), "ws": np.full(8, 0.01, np.float32), "wz": np.zeros(8, np.int8),
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32) * 0.3, "b": rng.normal(size=8).astype(np.float32),
        "v": rng.normal(size=(4, 8)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "q_w", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "dq_w", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["h"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def profile(**options: Any) -> TargetProfile:  # noqa: ANN401
    """A target with TensorRT and batches of 1 to 4."""
    section = TensorRtOptions(**{"name": "tensorrt", "batch": (1, 2, 4), **options})
    return load_profile("x86-64-vnni").model_copy(update={"engine": section})


def deliver(place: Path, model: onnx.ModelProto | None = None, precision: str = "int8", **options: Any) -> Path:  # noqa: ANN401
    """A bundle that waits to be built, as it is delivered: model, plan, golden vectors, manifest, program."""
    source, bundle = place / "source.onnx", place / "bundle"
    source.write_bytes((int8_net() if model is None else model).SerializeToString())
    build = engine("tensorrt").build(source, profile(**options), bundle, precision=precision)  # type: ignore[arg-type]
    feed = {
        port.name: np.random.default_rng(1).normal(size=(3, *port.shape[1:])).astype(port.dtype)  # type: ignore[arg-type]
        for port in build.inputs
    }
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [port.name for port in build.outputs]
    outputs = dict(zip(names, session.run(names, feed), strict=True))
    golden = {f"input.{k}": v for k, v in feed.items()} | {f"output.{k}": v for k, v in outputs.items()}
    np.savez(bundle / "golden.npz", **golden)  # type: ignore[arg-type]
    (bundle / FILE_NAME).write_bytes(pack())
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in bundle.iterdir()
    }
    told = {"file": "golden.npz", "samples": 3, "rtol": 1e-4, "atol": dict.fromkeys(names, 1e-5)}
    manifest = {"schema": 1, "files": files, "engine_sha256": build.sha256, "golden": told}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Delivers a bundle."""
    return functools.partial(deliver, tmp_path)


@pytest.fixture(scope="session")
def delivered_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `bundle` copies; no test changes it."""
    return deliver(tmp_path_factory.mktemp("delivered"))


@pytest.fixture(scope="session")
def built_once(delivered_once: Path, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `built` copies; no test changes it."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    shutil.copytree(delivered_once, folder)
    code, document, stderr = device(folder, "build", str(folder))
    assert code == 0, stderr
    assert document["result"]["bytes"]
    return folder


@pytest.fixture
def bundle(delivered_once: Path, tmp_path: Path) -> Path:
    """The int8 net, waiting to be built."""
    return Path(shutil.copytree(delivered_once, tmp_path / "bundle"))


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """The same, built by TensorRT 10.3."""
    return Path(shutil.copytree(built_once, tmp_path / "bundle"))
