"""What providers of a profile become: the graph each wants, options that the device honours, and plain refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnx
import pytest

from targets.engines import engine
from targets.engines.onnxruntime_providers import RULES, is_tuned_here, session_fields
from targets.errors import InputError
from targets.ondevice import providers, session
from targets.ondevice.failure import Failure
from targets.ondevice.placement import placement
from targets.options import OnnxRuntimeOptions, Provider
from targets.profile import TargetProfile, load_profile

CPU = "CPUExecutionProvider"
QDQ = """
<ir_version: 10, opset_import: ["" : 19]>
net (float[batch, 3, 8, 8] x) => (float[batch, 4, 6, 6] y)
<float s = {0.1}, uint8 z = {128}, int8[4, 3, 3, 3] w, float sw = {0.02}, int8 zw = {0}, float[4] b>
{
    xq = QuantizeLinear (x, s, z)
    xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, sw, zw)
    h = Conv (xd, wd, b)
    hq = QuantizeLinear (h, s, z)
    y = DequantizeLinear (hq, s, z)
}
"""


def _model(path: Path) -> Path:
    model = onnx.parser.parse_model(QDQ)
    rng = np.random.default_rng(0)
    values = {"w": rng.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8), "b": rng.normal(size=4).astype(np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in values.items())
    onnx.save(model, str(path))
    return path


def _profile(target: str = "host", **options: object) -> TargetProfile:
    loaded = load_profile(target)
    chosen = OnnxRuntimeOptions(name="onnxruntime", **options)
    return loaded.model_copy(update={"engine": chosen, "alternatives": ()})


def test_every_provider_of_a_profile_is_known() -> None:
    """What a profile may name has a rule, and a package that holds it."""
    assert set(get_args(Provider)) == set(RULES) == set(providers.WHERE)


@pytest.mark.parametrize("name", [name for name in RULES if name != CPU])
def test_other_providers_get_standard_operators_with_qdq(name: str, tmp_path: Path) -> None:
    """For a provider other than the CPU's, the engine holds ONNX operators only, and its Q/DQ pairs."""
    profile = _profile(providers=(name, CPU))
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), profile, tmp_path / "e", precision="int8")
    graph = onnx.load(str(build.folder / build.file)).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert [node.op_type for node in graph.node].count("DequantizeLinear") >= 3
    assert build.model == build.file


def test_compiling_providers_get_the_graph_untouched(tmp_path: Path) -> None:
    """TensorRT, OpenVINO and QNN read float biases and every node as the quantiser wrote it."""
    for name in ("TensorrtExecutionProvider", "OpenVINOExecutionProvider", "QNNExecutionProvider"):
        model = _model(tmp_path / f"{name}.onnx")
        build = engine("onnxruntime").build(model, _profile(providers=(name, CPU)), tmp_path / name, precision="int8")
        built, source = (onnx.load(str(path)).graph for path in (build.folder / build.file, model))
        assert sorted(node.op_type for node in built.node) == sorted(node.op_type for node in source.node)
        assert {t.name: t.raw_data for t in built.initializer} == {t.name: t.raw_data for t in source.initializer}


def test_a_provider_that_is_not_here_is_said(tmp_path: Path) -> None:
    """Where this runtime lacks the provider, the inspection says so, counts what the graph asks for, and warns."""
    profile = _profile(providers=("QNNExecutionProvider", CPU))
    answer = engine("onnxruntime").runs(profile)
    assert not answer.ok
    assert "QNNExecutionProvider" in answer.why
    assert "onnxruntime-qnn" in answer.fix
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), profile, tmp_path / "e", precision="int8")
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert "QNNExecutionProvider" in seen["inspected"]
    assert (seen["compute"]["int8"], seen["compute"]["total"]) == (1, 1)
    assert seen["compute"]["int8_macs"] == 4 * 36 * 27
    assert any("nobody has seen" in line for line in seen["warnings"])


def test_a_float_graph_for_an_int8_provider_is_refused(tmp_path: Path) -> None:
    """Int8 asked of a provider that nobody can look into: a graph that asks for none is an error all the same."""
    model = tmp_path / "float.onnx"
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> f (float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {1, 2, 3, 4}>'
    )
    onnx.save(onnx.parser.parse_model(text + "{ y = MatMul (x, w) }"), str(model))
    profile = _profile(providers=("QNNExecutionProvider", CPU))
    with pytest.raises(InputError, match="int8"):
        engine("onnxruntime").build(model, profile, tmp_path / "e", precision="int8")


def test_contradictions_of_the_section_are_named_together(tmp_path: Path) -> None:
    """Options of a provider that is not used, and a list without a last resort, are both faults."""
    profile = _profile(
        providers=("CUDAExecutionProvider",), provider_options={"QNNExecutionProvider": {"backend_path": "x"}}
    )
    where = [fault.where for fault in engine("onnxruntime").check(_model(tmp_path / "m.onnx"), profile)]
    assert where == ["engine.providers", "engine.provider_options.QNNExecutionProvider"]


def test_xnnpack_has_threads_of_its_own() -> None:
    """With XNNPACK the profile's threads are XNNPACK's too, and ONNX Runtime's idle threads do not spin beside them."""
    fields = session_fields(_profile("raspberry-pi-5", providers=("XnnpackExecutionProvider", CPU), threads=3))
    assert fields["provider_options"] == {"XnnpackExecutionProvider": {"intra_op_num_threads": "3"}}
    assert fields["allow_spinning"] is False


@pytest.mark.parametrize("value", [True, False])
def test_the_device_honours_every_option(*, value: bool) -> None:
    """Threads, spinning, arena, memory pattern and denormals of the profile reach the session options."""
    profile = _profile(threads=2, arena=value, memory_pattern=value, allow_spinning=value, denormal_as_zero=value)
    settings = session.session_options(session.import_runtime(), session_fields(profile))
    assert settings.intra_op_num_threads == 2
    assert settings.enable_cpu_mem_arena is value
    assert settings.enable_mem_pattern is value
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == str(int(value))
    assert settings.get_session_config_entry("session.set_denormal_as_zero") == str(int(value))


def test_a_missing_provider_names_the_package_that_has_it(tmp_path: Path) -> None:
    """On the device, a provider that this onnxruntime lacks is a failure that says which wheel or AAR holds it."""
    profile = _profile(providers=("NnapiExecutionProvider", CPU))
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), profile, tmp_path / "e", precision="int8")
    with pytest.raises(Failure) as caught:
        session.open_session(build.folder, session.read_spec(build.folder))
    assert caught.value.exit_code == 6
    assert "NnapiExecutionProvider" in caught.value.what
    assert "AAR com.microsoft.onnxruntime:onnxruntime-android" in caught.value.fix


def test_a_provider_that_the_runtime_drops_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is built in and cannot start is dropped by the runtime in silence: here that is a failure."""
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), _profile(), tmp_path / "e", precision="int8")
    spec = session.read_spec(build.folder)
    runtime = session.import_runtime()
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(
        runtime, "InferenceSession", lambda *_args, **_kwargs: SimpleNamespace(get_providers=lambda: [CPU])
    )
    spec["options"]["providers"] = ["CUDAExecutionProvider", CPU]
    with pytest.raises(Failure, match="could not start CUDAExecutionProvider") as caught:
        session.open_session(build.folder, spec)
    assert "onnxruntime-gpu" in caught.value.fix


def test_options_of_another_type_are_refused(tmp_path: Path) -> None:
    """An engine.json whose options are of another type is refused by name; one without the newer ones is opened."""
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), _profile(), tmp_path / "e", precision="int8")
    data = json.loads((build.folder / "engine.json").read_text())
    del data["options"]["arena"], data["options"]["provider_options"]
    (build.folder / "engine.json").write_text(json.dumps(data))
    assert session.read_spec(build.folder)["sha256"] == build.sha256
    data["options"]["arena"] = "yes"
    (build.folder / "engine.json").write_text(json.dumps(data))
    with pytest.raises(Failure, match="not valid") as caught:
        session.read_spec(build.folder)
    assert "arena" in caught.value.why


def test_the_device_counts_nodes_by_provider(tmp_path: Path) -> None:
    """One profiled inference on the device says which provider runs how many nodes, as the inspection here does."""
    build = engine("onnxruntime").build(_model(tmp_path / "m.onnx"), _profile(), tmp_path / "e", precision="int8")
    found = placement(build.folder, session.read_spec(build.folder))
    seen = json.loads((build.folder / "inspect.json").read_text())
    assert found["providers"] == [CPU]
    if is_tuned_here(_profile()):
        assert found["nodes"] == seen["providers"]
        assert found["operators"] == {CPU: seen["nodes"]}
