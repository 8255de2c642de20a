"""The device program with TensorRT, end to end on stand-ins: build, inspect, open, run, measure, verify."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.ondevice import tensorrt_runner
from targets.ondevice.runner import load_runtime

Device = Callable[..., tuple[int, dict[str, Any], str]]
VERSIONS = ("8.6.2", "10.3.0", "11.4.1")


@pytest.mark.parametrize("version", VERSIONS)
def test_build_verify_measure_infer(bundle: Path, device: Device, tmp_path: Path, version: str) -> None:
    """A delivered bundle is built, verified against its golden vectors, measured and run, by every generation."""
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    code, document, stderr = device(bundle, "build", str(bundle), version=version)
    assert code == 0, stderr
    built = document["result"]
    assert built["version"] == version
    assert built["inspection"]["precisions"] == {"fp32": 1, "fp16": 0, "bf16": 0, "int8": 1, "unknown": 0}
    assert built["inspection"]["inspected"] == ""
    code, document, stderr = device(bundle, "verify", version=version)
    assert code == 0, stderr
    verified = document["result"]
    assert verified["outputs"]["y"]["worst_error"] < 1e-5
    assert verified["built_sha256"] == built["sha256"]
    assert f"tensorrt {version}" in stderr
    code, document, stderr = device(
        bundle, "measure", "--warmup-s", "0.01", "--min-s", "0.01", "--engine-sha256", built["sha256"], version=version
    )
    assert code == 0, stderr
    row = document["result"]
    assert row["providers"] == ["TensorRT:GPU"]
    assert row["stages"]["cuda_graph"] is True
    assert {"h2d", "compute", "d2h", "enqueue", "latency"} <= set(row["stages"])
    assert row["stages"]["memory"]["activations_bytes"] == 4096
    out = tmp_path / "out.npz"
    code, _, stderr = device(
        bundle, "infer", str(bundle), "--inputs", str(bundle / "golden.npz"), "--out", str(out), "--batch", "2",
        version=version,
    )  # fmt: skip
    assert code == 0, stderr
    np.testing.assert_allclose(np.load(out)["y"], np.load(bundle / "golden.npz")["output.y"], rtol=1e-4, atol=1e-5)
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("command", [["verify"], ["measure"], ["infer", "--inputs", "golden.npz", "--out", "o.npz"]])
def test_before_it_is_built_the_remedy_is_named(bundle: Path, device: Device, command: list[str]) -> None:
    """A folder whose engine the device has yet to make is not run; the command that builds it is the remedy."""
    arguments = [command[0], str(bundle), *(str(bundle / word) if "." in word else word for word in command[1:])]
    code, document, _ = device(bundle, *arguments)
    assert code == 3
    assert "not built on this device yet" in document["error"]["what"]
    assert f"build {bundle}" in document["error"]["fix"]


def test_another_version_is_refused_before_it_is_opened(built: Path, device: Device) -> None:
    """Built with one version, opened with another: both are named, and how to build again."""
    code, document, _ = device(built, "verify", version="10.13.0")
    assert code == 6
    assert "10.3.0" in document["error"]["why"]
    assert "10.13.0" in document["error"]["why"]
    assert document["error"]["fix"] == f"python ondevice.pyz build {built}"


@pytest.mark.parametrize("setting", [{"STANDIN_GPU": "Other"}, {"STANDIN_CC": "8.6"}])
def test_another_gpu_is_refused_before_it_is_opened(built: Path, device: Device, setting: dict[str, str]) -> None:
    """Built on one GPU, opened on another: both are named, and how to build again."""
    code, document, _ = device(built, "verify", **setting)
    assert code == 6
    assert "another GPU" in document["error"]["what"]
    assert "Stand-in Orin" in document["error"]["why"]
    assert "build" in document["error"]["fix"]


def test_a_later_version_may_open_what_was_built_for_that(make_bundle: Callable[..., Path], device: Device) -> None:
    """A version-compatible plan passes our check within one major version, and none of an older TensorRT does."""
    bundle = make_bundle(version_compatible=True)
    assert device(bundle, "build", str(bundle), version="10.3.0")[0] == 0
    code, document, _ = device(bundle, "verify", version="10.13.0")
    assert "cannot open the engine" in document["error"]["what"]  # the stand-in's own refusal: ours let it pass
    for version in ("10.0.1", "11.4.1"):
        code, document, _ = device(bundle, "verify", version=version)
        assert (code, document["error"]["what"]) == (6, "the engine is of another version of TensorRT")


def test_a_plan_that_is_not_ours_is_not_opened(built: Path, device: Device) -> None:
    """A plan is code: one whose hash engine.json does not hold, or whose engine.json none of us wrote, is refused."""
    plan = built / "built" / "engine.plan"
    data = plan.read_bytes()
    plan.write_bytes(data + b" ")
    code, document, _ = device(built, "verify")
    assert (code, "not the one that was built" in document["error"]["what"]) == (4, True)
    plan.write_bytes(data)
    spec = json.loads((built / "built" / "engine.json").read_text())
    (built / "built" / "engine.json").write_text(json.dumps({**spec, "runtime": "somebody"}))
    code, document, _ = device(built, "verify")
    assert (code, document["error"]["what"]) == (4, "this plan is not one of ours")
    (built / "built" / "engine.json").write_text(json.dumps({**spec, "source_sha256": "0" * 64}))
    code, document, _ = device(built, "verify")
    assert (code, "of another model" in document["error"]["what"]) == (4, True)


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("verify", {"LD_LIBRARY_PATH": ""}),
        ("build", {"LD_LIBRARY_PATH": ""}),
        ("measure", {"STANDIN_CUINIT": "100"}),
        ("build", {"STANDIN_CUINIT": "100"}),
        ("verify", {"STANDIN_GPUS": "0"}),
        ("build", {"STANDIN_GPUS": "0"}),
    ],
)
def test_without_a_driver_nothing_crashes(built: Path, device: Device, command: str, setting: dict[str, str]) -> None:
    """Where no driver answers, or it shows no GPU, the program says so; TensorRT, which would crash, is not started."""
    code, document, _ = device(built, command, str(built), **setting)
    assert code == 6
    assert "driver" in document["error"]["what"] + document["error"]["why"]


def test_a_batch_beyond_the_profile_is_refused(built: Path, device: Device) -> None:
    """An input shape outside the optimisation profile is named, with the profile's key to change."""
    code, document, _ = device(
        built, "measure", "--scenario", "throughput", "--batch", "8", "--warmup-s", "0.01", "--min-s", "0.01"
    )
    assert code == 3
    assert "[8, 3, 8, 8]" in document["error"]["why"]
    assert "engine.batch" in document["error"]["fix"]


def test_two_streams_at_once(built: Path, device: Device, tmp_path: Path) -> None:
    """Each concurrent caller has buffers of its own: all outputs are right, in batches too."""
    golden = dict(np.load(built / "golden.npz"))
    np.savez(tmp_path / "expected.npz", **{k: v for k, v in golden.items() if k.startswith("output.")})
    code, document, stderr = device(
        built, "measure", "--scenario", "throughput", "--batch", "2", "--concurrency", "3", "--warmup-s", "0.01",
        "--min-s", "0.05", "--expected", str(tmp_path / "expected.npz"),
    )  # fmt: skip
    assert code == 0, stderr
    assert document["result"]["outputs_ok"] is True


@pytest.mark.parametrize("option", [{"cuda_graph": False}, {}])
def test_without_a_graph_it_runs_too(make_bundle: Callable[..., Path], device: Device, option: dict[str, Any]) -> None:
    """Switched off by the profile, or refused by the driver, an inference is enqueued each time; the row says so."""
    bundle = make_bundle(**option)
    device(bundle, "build", str(bundle))
    code, document, stderr = device(
        bundle, "measure", "--warmup-s", "0.01", "--min-s", "0.01", STANDIN_NO_GRAPH="0" if option else "1"
    )
    assert code == 0, stderr
    assert document["result"]["stages"]["cuda_graph"] is False


def test_too_little_memory_is_said(built: Path, device: Device) -> None:
    """Buffers that do not fit into the GPU are an error of the environment, not a bug."""
    code, document, _ = device(built, "measure", "--warmup-s", "0.01", "--min-s", "0.01", STANDIN_MEMORY="10")
    assert code == 5
    assert "memory" in document["error"]["what"]


_INSPECT = """
import sys
from pathlib import Path
from targets.ondevice.build import inspect_engine
from targets.ondevice.failure import Failure
try:
    print(0, inspect_engine(Path(sys.argv[1]))["inspected"])
except Failure as failure:
    print(failure.exit_code, failure.what)
"""


def test_a_plan_that_is_not_ours_is_not_opened_to_look_at_it(built: Path, environment: dict[str, str]) -> None:
    """An inspection opens the plan, which is code: it refuses what running it refuses."""
    folder = built / "built"
    for name in ("build.json", "model.onnx"):
        shutil.copy(built / name, folder / name)

    def inspected() -> str:
        command = [sys.executable, "-c", _INSPECT, str(folder)]
        return subprocess.run(command, capture_output=True, check=True, timeout=60, env=environment).stdout.decode()

    assert inspected() == "0 \n"
    plan, spec = folder / "engine.plan", json.loads((folder / "engine.json").read_text())
    data = plan.read_bytes()
    plan.write_bytes(data + b" ")
    assert inspected().startswith("4 the engine file engine.plan is not the one that was built")
    plan.write_bytes(data)
    (folder / "engine.json").write_text(json.dumps({**spec, "runtime": "somebody"}))
    assert inspected() == "4 this plan is not one of ours\n"


_FAILS = """
import ctypes, sys
from pathlib import Path
from targets.ondevice import cuda
from targets.ondevice.failure import Failure
from targets.ondevice.session import read_spec
from targets.ondevice.tensorrt_runner import open_tensorrt
folder = Path(sys.argv[1])
live = ctypes.CDLL("libcuda.so.1").standin_live
live.restype = ctypes.c_long
spec = read_spec(folder)
try:
    open_tensorrt(folder, {**spec, "outputs": [{**item, "name": "z"} for item in spec["outputs"]]})
except Failure as failure:
    assert "other inputs and outputs" in failure.what, failure.what
else:
    raise AssertionError("opened")
assert live() == 0, live()
context = cuda.Context()
stream = cuda.Stream()
def enqueue():
    raise ValueError("it cannot be enqueued")
try:
    stream.capture(enqueue)
except ValueError:
    pass
stream.close()
context.close()
assert live() == 0, live()
"""


def test_what_fails_half_way_leaves_nothing(built: Path, environment: dict[str, str]) -> None:
    """An engine that is refused once it is open, and a capture that breaks off, free what they took."""
    command = [sys.executable, "-c", _FAILS, str(built / "built")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr.decode()


def test_the_runtime_that_built_the_engine_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both of the vendor's modules are installed, the engine's own is loaded before loading is timed."""
    asked: list[Any] = []
    monkeypatch.setattr(tensorrt_runner.cuda, "driver", lambda: None)
    monkeypatch.setattr(tensorrt_runner, "import_vendor", asked.append)
    load_runtime({"engine": "tensorrt-rtx", "runtime": "tensorrt_rtx"})
    assert asked == ["tensorrt_rtx"]


_LEAKS = """
import ctypes, sys
from pathlib import Path
import numpy as np
from targets.ondevice.session import read_spec
from targets.ondevice.tensorrt_runner import open_tensorrt
folder = Path(sys.argv[1])
live = ctypes.CDLL("libcuda.so.1").standin_live
live.restype = ctypes.c_long
runner = open_tensorrt(folder, read_spec(folder))
for size in (1, 3, 2, 1):
    feed = {"x": np.ones((size, 3, 8, 8), np.float32)}
    first = runner.run(feed)[0]
    kept = first.copy()
    runner.run({"x": np.zeros((size, 3, 8, 8), np.float32)})
    assert (first == kept).all(), "an output is a view of a buffer"
    bound = runner.bind([feed, feed], [first])
    bound.call(0), bound.call(1)
    assert (bound.outputs()[1][0] == first).all()
runner.stages(feed)
assert live() > 10
runner.close()
assert live() == 0, live()
"""


def test_shapes_come_and_go_and_nothing_is_left(built: Path, environment: dict[str, str]) -> None:
    """Every new shape gets buffers and a graph of its own, outputs are copies, and closing frees all of it."""
    done = subprocess.run(
        [sys.executable, "-c", _LEAKS, str(built / "built")], capture_output=True, check=False, timeout=60,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
