"""Engines of OpenVINO on the device: right for every batch size, in place, in streams, and through every command."""

from __future__ import annotations

import gc
import importlib.util
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets.engines import engine
from targets.ondevice import openvino_runner
from targets.ondevice.failure import DEVICE, Failure
from targets.ondevice.openvino_module import CACHE_VARIABLE
from targets.ondevice.openvino_runner import OpenVinoRunner
from targets.ondevice.runner import load_runtime, open_runner
from targets.ondevice.session import read_spec
from targets.ondevice_pack import FILE_NAME, pack
from targets.options import OpenVinoOptions
from targets.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
tiny ({inputs}) => (float[{batch}, 4] y, float[{batch}, 3] z)
    <float[3, 4] w = {{1, 2, 3, 4, -1, 2, 0.5, 1, 0, 1, -3, 2}}>
{{
    s = Add(a, b)
    h = MatMul(s, w)
    y = Tanh(h)
    z = Relu(s)
}}
"""
FREE = MODEL.format(inputs="float[batch, 3] b, float[batch, 3] a", batch="batch")
FIXED = MODEL.format(inputs="float[2, 3] b, float[2, 3] a", batch="2")


def build(folder: Path, text: str = FREE, **options: object) -> Path:
    """Builds an engine; beside it lies model.onnx. Subnormals are kept, since what is opened here computes here."""
    folder.mkdir()
    onnx.save(onnx.parser.parse_model(text), str(folder / "model.onnx"))
    chosen = OpenVinoOptions.model_validate({"name": "openvino", "denormal_as_zero": False, **options})
    profile = load_profile("host").model_copy(update={"engine": chosen, "alternatives": ()})
    engine("openvino").build(folder / "model.onnx", profile, folder / "e", precision="fp32")
    return folder / "e"


def opened(folder: Path) -> OpenVinoRunner:
    runner = open_runner(folder, read_spec(folder))
    assert isinstance(runner, OpenVinoRunner)
    return runner


def feed(seed: int, batch: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((batch, 3)).astype(np.float32) for name in ("a", "b")}


def wanted(folder: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the ONNX reference implementation gives."""
    found: list[np.ndarray] = ReferenceEvaluator(onnx.load(str(folder.parent / "model.onnx"))).run(None, given)
    return found


def close(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_every_batch_size_is_right_and_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of each batch size are the reference's, in the engine's order, and each size is compiled once."""
    folder = build(tmp_path / "m")
    runner, compiled = opened(folder), []
    original = openvino_runner.compile_for

    def counting(core: Any, path: str, shapes: Any, wanted: Any) -> Any:  # noqa: ANN401
        compiled.append(shapes["a"][0])
        return original(core, path, shapes, wanted)

    monkeypatch.setattr(openvino_runner, "compile_for", counting)
    for seed, batch in enumerate([1, 3, 1, 7, 3, 1]):
        given = feed(seed, batch)
        close(runner.run(given), wanted(folder, given))
    assert compiled == [1, 3, 7]
    assert (runner.providers, runner.runtime_version.count(".")) == (["CPU"], 2)


def test_results_of_one_call_outlive_the_next(tmp_path: Path) -> None:
    """What a call gave is a copy: the next call does not change it."""
    runner = opened(build(tmp_path / "m"))
    first = runner.run(feed(0, 2))
    kept = [array.copy() for array in first]
    runner.run(feed(1, 2))
    close(first, kept)


def test_bound_calls_write_where_they_were_told(tmp_path: Path) -> None:
    """Each bound feed has its own outputs, which are the reference's, also after the caller's arrays are forgotten."""
    folder = build(tmp_path / "m")
    runner = opened(folder)
    feeds = [feed(seed, 2) for seed in range(3)]
    expected = [wanted(folder, given) for given in feeds]
    bound = runner.bind(feeds, runner.run(feeds[0]))
    del feeds
    gc.collect()
    held = [np.full(1000, 7, np.float32) for _ in range(200)]  # what a freed array's memory would be used for
    for index in range(6):
        bound.call(index)
    assert all((array == 7).all() for array in held)
    for got, row in zip(bound.outputs(), expected, strict=True):
        close(got, row)


def test_streams_run_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bindings share one model compiled for two streams with the threads of each, and both are right."""
    folder = build(tmp_path / "m")
    runner, asked = opened(folder), []
    original = openvino_runner.compile_for

    def watching(core: Any, path: str, shapes: Any, given: Any) -> Any:  # noqa: ANN401
        asked.append((given["NUM_STREAMS"], given["INFERENCE_NUM_THREADS"]))
        return original(core, path, shapes, given)

    like = runner.run(feed(0, 1))
    monkeypatch.setattr(openvino_runner, "compile_for", watching)
    streams = [[feed(10 * stream + i, 1) for i in range(2)] for stream in range(2)]
    bounds = [runner.bind(feeds, like) for feeds in streams]
    threads = [
        threading.Thread(target=lambda bound=bound: [bound.call(i) for i in range(20)])  # type: ignore[misc]
        for bound in bounds[1:]
    ]
    bounds[0].call(0)
    for thread in threads:
        thread.start()
    for index in range(20):
        bounds[0].call(index)
    for thread in threads:
        thread.join()
    assert asked == [("2", 2)]
    for feeds, bound in zip(streams, bounds, strict=True):
        for given, got in zip(feeds, bound.outputs(), strict=True):
            close(got, wanted(folder, given))


def test_few_compiled_models_are_kept(tmp_path: Path) -> None:
    """Ten batch sizes do not hold ten compiled models in memory, and all are right."""
    folder = build(tmp_path / "m")
    runner = opened(folder)
    for batch in range(1, 11):
        given = feed(batch, batch)
        close(runner.run(given), wanted(folder, given))
    assert len(runner._compiled) == len(runner._requests) == 4


def test_a_fixed_batch_size_is_kept(tmp_path: Path) -> None:
    """A model of batch 2 runs batches of 2; another size is the runtime's error, not a wrong answer."""
    folder = build(tmp_path / "m", FIXED)
    runner = opened(folder)
    close(runner.run(feed(0, 2)), wanted(folder, feed(0, 2)))
    with pytest.raises(openvino_runner.openvino_errors()):
        runner.run(feed(0, 3))


def test_another_precision_than_asked_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plugin would compute fp32 in bf16, the engine is not opened: fp32 is fp32."""
    folder = build(tmp_path / "m")
    monkeypatch.setattr(openvino_runner, "_short", lambda _: "bf16")
    with pytest.raises(Failure, match="does not compute in f32") as caught:
        opened(folder).prepare(feed(0, 1))
    assert (caught.value.exit_code, "bf16" in caught.value.why) == (DEVICE, True)


def test_a_file_that_openvino_cannot_read_is_a_failure(tmp_path: Path) -> None:
    """A file that is no model fails on opening, with the version of OpenVINO that built it in the remedy."""
    folder = build(tmp_path / "m")
    spec = read_spec(folder)
    (folder / "engine.onnx").write_bytes(b"\x08\x0a" + b"junk" * 40)
    with pytest.raises(Failure, match="cannot open the engine") as caught:
        open_runner(folder, spec).prepare(feed(0, 1))
    assert spec["runtime_version"] in caught.value.fix


def test_compiled_models_are_kept_only_where_that_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable nothing is written; with it the second opening loads what the first compiled, and agrees."""
    folder, cache = build(tmp_path / "m"), tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    opened(folder).run(feed(0, 1))
    assert set(tmp_path.rglob("*")) == before
    monkeypatch.setenv(CACHE_VARIABLE, str(cache))
    loaded = []
    for _ in range(2):
        runner = opened(folder)
        close(runner.run(feed(0, 1)), wanted(folder, feed(0, 1)))
        [compiled] = runner._compiled.values()
        loaded.append(compiled.get_property("LOADED_FROM_CACHE"))
    assert loaded == [False, True]
    for blob in cache.iterdir():  # one that was cut off is compiled again
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    close(opened(folder).run(feed(0, 1)), wanted(folder, feed(0, 1)))


@pytest.fixture
def openvino_bundle(tmp_path: Path, reseal: Callable[[Path], None]) -> Path:
    """A bundle whose engine is OpenVINO's, with golden samples of ONNX's reference implementation."""
    folder = build(tmp_path / "m")
    given = feed(5, 4)
    y, z = wanted(folder, given)
    arrays = {f"input.{name}": value for name, value in given.items()}
    np.savez(folder / "golden.npz", **arrays, **{"output.y": y, "output.z": z})
    (folder / FILE_NAME).write_bytes(pack())
    reseal(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["golden"]["atol"] = {"y": 1e-5, "z": 1e-5}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_device_program_verifies_and_infers(
    openvino_bundle: Path, program: Callable[..., Any], tmp_path: Path
) -> None:
    """`verify` reproduces the golden samples and names the runtime; `infer` gives the same for batches of 3."""
    code, answer, said = program(openvino_bundle, "verify", str(openvino_bundle))
    assert code == 0, answer
    assert "openvino 20" in said
    samples, out = tmp_path / "s.npz", tmp_path / "o.npz"
    given = feed(5, 4)
    np.savez(samples, **given)
    options = ["--inputs", str(samples), "--out", str(out), "--batch", "3"]
    code, answer, _ = program(openvino_bundle, "infer", str(openvino_bundle), *options)
    assert code == 0, answer
    with np.load(out) as arrays:
        close([arrays["y"], arrays["z"]], wanted(openvino_bundle, given))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--scenario", "cold"],
        ["--scenario", "throughput", "--batch", "2", "--concurrency", "2"],
    ],
)
def test_the_device_program_measures(openvino_bundle: Path, program: Callable[..., Any], options: list[str]) -> None:
    """Every kind of scenario gives a row with right outputs, the plugin as provider, and a load before the run."""
    golden = str(openvino_bundle / "golden.npz")
    timing = ["--min-s", "0.05", "--min-iterations", "5", "--warmup-s", "0.05"]
    code, answer, _ = program(
        openvino_bundle, "measure", str(openvino_bundle), "--samples", golden, "--expected", golden, *timing, *options
    )
    assert code == 0, answer
    row = answer["result"]
    assert (row["outputs_ok"], row["providers"]) == (True, ["CPU"])
    assert row["load_ns"] > 0 < row["first_ns"]


def test_the_device_program_times_each_layer(openvino_bundle: Path, program: Callable[..., Any]) -> None:
    """`layers` gives each node that ran, named as in the ONNX file, with shapes, and shares that add up to 1."""
    golden = str(openvino_bundle / "golden.npz")
    code, answer, _ = program(openvino_bundle, "layers", str(openvino_bundle), "--samples", golden, "--iterations", "5")
    assert code == 0, answer
    nodes = answer["result"]["nodes"]
    [product] = [node for node in nodes if node["op"] == "Gemm"]
    assert (product["outputs"], product["calls"], product["provider"]) == ([["float", [1, 4]]], 5, "CPU")
    assert product["inputs"][0] == ["float", [1, 3]]
    assert sum(node["share_ratio"] for node in nodes) == pytest.approx(1)
    assert answer["result"]["engine_sha256"] == read_spec(openvino_bundle)["sha256"]


def test_the_device_program_names_the_plugins(openvino_bundle: Path, program: Callable[..., Any]) -> None:
    """`facts` says which OpenVINO is there, and the devices whose plugins work."""
    code, answer, _ = program(openvino_bundle, "facts")
    assert code == 0
    assert answer["result"]["openvino"].startswith("20")
    assert "CPU" in answer["result"]["openvino_devices"]


def test_energy_runs_or_says_that_there_is_no_sensor(openvino_bundle: Path, program: Callable[..., Any]) -> None:
    """`energy` opens the engine; without a sensor it says so and invents nothing."""
    golden = str(openvino_bundle / "golden.npz")
    lengths = ["--windows", "1", "--window-s", "0.1", "--idle-s", "0.1"]
    code, answer, _ = program(openvino_bundle, "energy", str(openvino_bundle), "--samples", golden, *lengths)
    assert code == 0, answer
    assert answer["result"]["providers"] == ["CPU"]


def test_an_engine_that_is_not_built_yet_says_how() -> None:
    """A folder from which the device builds its engine cannot be run before: bad input with the command to build."""
    for name in ("tensorrt", "openvino"):
        with pytest.raises(Failure, match="not built on this device yet") as caught:
            load_runtime({"engine": name, "build_on_device": True})
        assert "ondevice.pyz build" in caught.value.fix


def test_an_unknown_engine_is_no_onnxruntime() -> None:
    """An engine.json of a later version is refused, never opened by the runtime that happens to be there."""
    with pytest.raises(Failure, match="no engine is called 'tvm'"):
        load_runtime({"engine": "tvm"})
