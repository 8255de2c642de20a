"""The build on the device, by every generation of the API: flags, DLA, timing cache, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.ondevice.timing_cache import TimingCache, load

Device = Callable[..., tuple[int, dict[str, Any], str]]
VERSIONS = ("8.6.2", "10.3.0", "11.4.1")


def _header(bundle: Path) -> dict[str, Any]:
    """What the stand-in's builder was told."""
    told: dict[str, Any] = json.loads((bundle / "built" / "engine.plan").read_bytes().split(b"\n")[1])
    return told


@pytest.mark.parametrize("version", VERSIONS)
def test_the_plan_reaches_the_builder(make_bundle: Callable[..., Path], device: Device, version: str) -> None:
    """Level, workspace, compatibility, shapes are the profile's; TF32 and refit are off; typing is weak in 8.6 only."""
    bundle = make_bundle(optimization_level=5, workspace_mb=7, version_compatible=True, hardware_compatible=True)
    code, document, stderr = device(bundle, "build", str(bundle), version=version)
    assert code == 0, stderr
    assert document["result"]["inspection"]["inspected"] == ""  # such a plan holds code, and is ours
    told = _header(bundle)
    weak = ["INT8"] if version.startswith("8") else []
    assert told["flags"] == sorted([*weak, "VERSION_COMPATIBLE"])
    assert (told["level"], told["workspace"], told["ampere_plus"], told["detailed"]) == (5, 7 << 20, True, True)
    assert told["profiles"] == [{"x": [[1, 3, 8, 8], [2, 3, 8, 8], [4, 3, 8, 8]]}]


@pytest.mark.parametrize("version", VERSIONS)
def test_kernel_times_are_kept_for_the_same_device_only(bundle: Path, device: Device, version: str) -> None:
    """A second build uses the first one's times; another driver's device, or times that were changed, are not used."""

    def used(**settings: str) -> bool:
        code, document, stderr = device(bundle, "build", str(bundle), version=version, **settings)
        assert code == 0, stderr
        return bool(document["result"]["timing_cache"])

    assert not used()
    assert used()
    assert not used(STANDIN_GPU="Another")
    cache = bundle / "built" / "cache"
    assert len([*cache.glob("*.bin")]) == 2
    for path in cache.glob("*.bin"):
        path.write_bytes(b"times of somebody else")
    assert not used()
    assert device(bundle, "verify", version=version)[0] == 0  # and a bundle with a cache is still whole


class _Config:
    """A builder's configuration that refuses times of another version."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        assert not ignore_mismatch
        self.given.append(cache)
        return cache in {b"", b"fitting"}


@pytest.mark.parametrize("data", [b"", b"fitting", b"of another version"])
def test_times_that_the_builder_refuses_are_not_said_to_be_used(tmp_path: Path, data: bytes) -> None:
    """Known times count as used only where the builder took them; else it begins with none."""
    cache, config = TimingCache(path=tmp_path / "cache" / "timing-x.bin", facts={"device": "Orin"}), _Config()
    if data:
        cache.write(data)
    assert load(config, cache) == (data == b"fitting")
    assert config.given[-1] == (data if data == b"fitting" else b"")


@pytest.mark.parametrize("version", VERSIONS)
def test_silent_float_is_an_error_and_leaves_nothing(bundle: Path, device: Device, version: str) -> None:
    """Asked for int8 and built in float: refused with the counts, and there is no engine to run by mistake."""
    code, document, _ = device(bundle, "build", str(bundle), version=version, STANDIN_SILENT_FLOAT="1")
    assert code == 6
    assert "int8" in document["error"]["what"]
    assert not (bundle / "built" / "engine.plan").exists()
    assert not (bundle / "built" / "engine.json").exists()


def test_nothing_is_built_through_a_link(bundle: Path, device: Device, tmp_path: Path) -> None:
    """Where ``built`` is a link nothing is written to where it leads."""
    (tmp_path / "elsewhere").mkdir()
    (bundle / "built").symlink_to(tmp_path / "elsewhere")
    code, document, _ = device(bundle, "build", str(bundle))
    assert (code, document["error"]["what"]) == (4, "built is a link")
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_dla_falls_back_only_where_that_is_allowed(make_bundle: Callable[..., Path], device: Device) -> None:
    """On the DLA, layers that it does not take run on the GPU and are named; without fallback the build fails."""
    bundle = _dla_bundle(make_bundle)
    code, document, stderr = device(bundle, "build", str(bundle), STANDIN_DLA="1")
    assert code == 0, stderr
    found = document["result"]["inspection"]
    assert "head" in found["fallbacks"]
    assert found["providers"]["DLA"] >= 1
    assert _header(bundle)["flags"] == ["GPU_FALLBACK"]
    assert device(bundle, "verify", STANDIN_DLA="1")[0] == 0
    code, document, _ = device(bundle, "build", str(bundle), STANDIN_DLA="0")
    assert (code, "no DLA core 0" in document["error"]["what"]) == (6, True)
    plan = json.loads((bundle / "build.json").read_text())
    (bundle / "build.json").write_text(json.dumps({**plan, "gpu_fallback": False}))
    code, document, _ = device(bundle, "build", str(bundle), STANDIN_DLA="1")
    assert (code, "fallback is not allowed" in document["error"]["why"]) == (6, True)


def _dla_bundle(make_bundle: Callable[..., Path]) -> Path:
    """A bundle for the DLA; the profile of its GPU has none, so the plan is changed as the pipeline would write it."""
    bundle = make_bundle()
    plan = json.loads((bundle / "build.json").read_text())
    data = json.dumps({**plan, "device": "dla"}).encode()
    (bundle / "build.json").write_bytes(data)
    _reseal(bundle)
    return bundle


def _reseal(bundle: Path) -> None:
    import hashlib

    def told(name: str) -> dict[str, Any]:
        data = (bundle / name).read_bytes()
        return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    spec = json.loads((bundle / "engine.json").read_text())
    spec["files"] = {"build.json": told("build.json")["sha256"]}
    (bundle / "engine.json").write_text(json.dumps(spec))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"].update({name: told(name) for name in ("build.json", "engine.json")})
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_old_typing_says_what_it_cannot(make_bundle: Callable[..., Path], device: Device) -> None:
    """8.6 takes no int8 weight without a QuantizeLinear: the parser's answer names the node, and nothing is built."""
    model = _dequantised_weights()
    bundle = make_bundle(model)
    code, document, _ = device(bundle, "build", str(bundle), version="8.6.2")
    assert (code, "dq_w" in document["error"]["why"]) == (6, True)
    assert 'weights = "float"' in document["error"]["fix"]
    assert not (bundle / "built" / "engine.plan").exists()
    assert device(bundle, "build", str(bundle), version="10.3.0")[0] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_in_float_are_read_by_all(make_bundle: Callable[..., Path], device: Device, version: str) -> None:
    """The same model, delivered with its weights in float, is built by 8.6 too, and gives the same answers."""
    bundle = make_bundle(_dequantised_weights(), weights="float")
    code, document, stderr = device(bundle, "build", str(bundle), version=version)
    assert code == 0, stderr
    assert document["result"]["inspection"]["precisions"]["int8"] == 1
    assert device(bundle, "verify", version=version)[0] == 0


def _dequantised_weights() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "s": np.float32(0.03), "z": np.int8(0), "ws": np.float32(0.01), "wz": np.int8(0),
        "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "dq_w"),
        helper.make_node("Conv", ["xd", "wd"], ["y"], "conv"),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


_EMBEDDING = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[batch, 3] x, int64[batch] ids) => (float[batch, 3] y, int64[batch] twice) <float[4, 3] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, float[3, 3] w = {1, 0, 2, 0, 1, 0, 3, 0, 1}>
{ e = Gather(table, ids)
  s = Add(x, e)
  y = MatMul(s, w)
  twice = Add(ids, ids) }
"""  # noqa: E501


@pytest.mark.parametrize("version", VERSIONS)
def test_integers_keep_the_models_type(make_bundle: Callable[..., Path], device: Device, version: str) -> None:
    """8.6 has no int64 and reads int32: samples and outputs stay int64, as model and golden vectors have them."""
    bundle = make_bundle(onnx.parser.parse_model(_EMBEDDING), precision="fp32")
    assert device(bundle, "build", str(bundle), version=version)[0] == 0
    code, document, stderr = device(bundle, "verify", version=version)
    assert code == 0, stderr
    assert document["result"]["outputs"]["twice"]["worst_error"] == 0
