"""From a torch model to a table in its own module names: export, quantisation, engine, device, roofline."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, final

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from calibration.child import quantize_in_child
from pipeline.benchmarking import layers, modules, peaks
from pipeline.benchmarking.probes import make_probes
from pipeline.cli.layers import layer_table, summary_lines
from pipeline.cli.layers import layers as command
from pipeline.exporting import export_onnx
from pipeline.graph import count_macs, trace
from targets.devices.base import RawAnswer, Session
from targets.engines import engine
from targets.engines.base import EngineBuild
from targets.errors import DeviceError, InputError
from targets.options import OpenVinoOptions
from targets.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.dw = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.dw(self.act(self.bn1(self.conv1(x)))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.layer1 = nn.Sequential(Block(32), Block(32))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.pool(self.layer1(torch.relu(self.stem(x)))), 1))


OWNERS = {"stem", "layer1.0.conv1", "layer1.0.dw", "layer1.1.conv1", "layer1.1.dw", "head"}
EXAMPLE = {"x": torch.zeros(2, 3, 16, 16)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model's engines by precision, real samples, and torch's own count of its work."""
    folder = tmp_path_factory.mktemp("layers")
    torch.manual_seed(0)
    graph = trace(Net(), EXAMPLE)
    (folder / "fp32").mkdir()
    export_onnx(graph, EXAMPLE, folder / "fp32", opset=18)
    samples = folder / "samples.npz"
    np.savez(samples, x=np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32))
    profile = load_profile("host")
    (folder / "int8").mkdir()
    request = {
        "model": str(folder / "fp32/model.onnx"), "samples": str(samples), "scheme": profile.quantization.scheme,
        "method": "minmax", "threads": 1, "batch_size": 8, "out_folder": str(folder / "int8"),
    }  # fmt: skip
    quantize_in_child(request)
    shutil.copy(folder / "fp32" / modules.MODULES_JSON, folder / "int8")
    builds = {}
    for precision in ("fp32", "int8"):
        source = folder / precision / "model.onnx"
        build = engine("onnxruntime").build(source, profile, folder / f"{precision}-engine", precision=precision)
        modules.note_modules(build.folder, build.file, source)
        builds[precision] = build
    return {"builds": builds, "samples": samples, "macs": count_macs(graph, EXAMPLE), "folder": folder}


def _graph(build: EngineBuild) -> onnx.ModelProto:
    return onnx.load(str(build.folder / build.file))


def _noted(build: EngineBuild) -> dict[str, str]:
    return dict(json.loads((build.folder / "inspect.json").read_text())["modules"])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_node_that_multiplies_carries_its_users_module(made: dict[str, Any], precision: str) -> None:
    """Fusion, folding, blocked layouts and quantisation rename nodes; each still finds the module with its weight."""
    build = made["builds"][precision]
    noted = _noted(build)
    heavy = [node for node in _graph(build).graph.node if "Conv" in node.op_type or "Gemm" in node.op_type]
    assert {noted[node.name] for node in heavy} == OWNERS
    assert len(heavy) == len(OWNERS)


def test_additions_and_pools_carry_the_module_they_were_traced_in(made: dict[str, Any]) -> None:
    """What has no weight comes from torch's own notes: the block for its addition, the pool for the mean."""
    noted = _noted(made["builds"]["int8"])
    by_op = {node.op_type: noted.get(node.name) for node in _graph(made["builds"]["int8"]).graph.node}
    assert by_op["QLinearAdd"] == "layer1.1"
    assert by_op["QLinearGlobalAveragePool"] == "pool"


def test_a_model_without_notes_is_named_by_its_weights(made: dict[str, Any]) -> None:
    """A model that was given as ONNX has no modules.json: weights' names do what they can."""
    found = modules.engine_modules(_graph(made["builds"]["int8"]), {})
    assert set(found.values()) >= OWNERS


def test_the_export_leaves_no_note_of_the_build_machine(made: dict[str, Any]) -> None:
    """modules.json holds names only; the model's own notes are stripped as before."""
    names = modules.read_modules(made["folder"] / "fp32")
    assert set(names.values()) >= OWNERS
    assert not [value for pair in names.items() for value in pair if "/" in value]
    assert not any(node.metadata_props for node in onnx.load(str(made["folder"] / "fp32/model.onnx")).graph.node)


@pytest.mark.parametrize(
    ("reported", "module"),
    [("conv_token_7", "a"), ("conv_nchwc", "a"), ("relu_reorder", "b"), ("x__QuantizeLinear", None)],
)
def test_names_that_a_device_appends_to_are_found(reported: str, module: str | None) -> None:
    """A device that finishes the optimisation itself numbers its nodes otherwise than the build host did."""
    assert modules.module_of(reported, {"conv_token_1": "a", "relu": "b"}) == module


PROFILES: dict[str, dict[str, Any]] = {}  # by engine: each is profiled once


@final
class InProcess(Session):
    """Runs the device program's functions here; its calibration is given."""

    def __init__(self, folder: Path, calibration: dict[str, Any], **changes: Any) -> None:  # noqa: ANN401
        self.folder, self.calibration, self.changes, self.commands = folder, calibration, changes, []

    def _put(self, source: Path, name: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self.folder / name)

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        self.commands.append(command[0])
        result: dict[str, Any] = {"fingerprint": "f", "cpu_model": "made up", "onnxruntime": "1"}
        if command[0] == "calibrate":
            result = self.calibration
        elif command[0] == "layers":
            result = {**self._profile(command), **self.changes}
        nonce = command[command.index("--nonce") + 1]
        document = {"program": "ondevice", "command": command[0], "nonce": nonce, "result": result}
        return RawAnswer(returncode=0, stdout=json.dumps(document).encode(), stderr=b"", wall_s=0.1)

    def _profile(self, command: Sequence[str]) -> dict[str, Any]:
        from targets.ondevice.layers import profile_layers

        engine_sha256 = json.loads((self.folder / "engine" / "engine.json").read_text())["sha256"]
        if engine_sha256 in PROFILES:
            return PROFILES[engine_sha256]
        place = self.folder / "engine" / "engine.json"
        spec = json.loads(place.read_text())
        spec["options"]["denormal_as_zero"] = False  # this process's arithmetic stays as it is
        place.write_text(json.dumps(spec))
        found = profile_layers(self.folder / command[1], str(self.folder / "samples.npz"), 5)
        return PROFILES.setdefault(engine_sha256, found)

    def _fetch(self, name: str, target: Path) -> None:
        raise NotImplementedError


CALIBRATION = {
    "runtime_version": "1",
    "probes": {p.name: {"best_ns": p.operations, "median_ns": p.operations} for p in make_probes()},
    "copies": {level: {"bytes": 1000, "best_ns": 100} for level in ("l2", "llc", "memory")},
    "caches": {"l2": 1 << 20, "llc": 1 << 23, "assumed": False},
    "skipped": {},
}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_operations_of_all_layers_are_those_that_torch_counts(
    made: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    """The roofline's operations rest on shapes of the engine as it ran: together twice the graph's own count."""
    session = InProcess(tmp_path, CALIBRATION)
    found = layers.profile_engine(session, made["builds"][precision].folder, made["samples"])
    counted = sum(layer["operations"] for layer in found["layers"] if layer["kind"])
    assert counted == 2 * made["macs"]
    assert {layer["module"] for layer in found["layers"] if layer["kind"]} == OWNERS
    kinds = {layer["kind"].rpartition(".")[2] for layer in found["layers"] if layer["kind"]}
    assert kinds == ({"f32"} if precision == "fp32" else {"u8s8"})


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers_of_an_openvino_engine(made: dict[str, Any], precision: str, tmp_path: Path) -> None:
    """OpenVINO's counters give the same table: every layer with work in the user's names, as torch counts it."""
    if not engine("openvino").available().ok:
        pytest.skip("openvino is not installed")
    source = made["folder"] / precision / "model.onnx"
    profile = load_profile("host")
    profile = profile.model_copy(update={"engine": OpenVinoOptions(name="openvino")})
    build = engine("openvino").build(source, profile, tmp_path / "built", precision=precision)
    modules.note_modules(build.folder, build.file, source)
    found = layers.profile_engine(InProcess(tmp_path / "device", CALIBRATION), build.folder, made["samples"])
    assert sum(layer["operations"] for layer in found["layers"] if layer["kind"]) == 2 * made["macs"]
    assert {layer["module"] for layer in found["layers"] if layer["kind"]} == OWNERS


def test_the_device_is_calibrated_once(made: dict[str, Any], tmp_path: Path) -> None:
    """A second look at the same device takes what is known of it, until it is 30 days old."""
    session = InProcess(tmp_path / "device", CALIBRATION)
    state = tmp_path / "state"
    for now in (1e9, 1e9 + 60, 1e9 + peaks.VALID_S + 61):
        layers.profile_engine(
            session, made["builds"]["int8"].folder, made["samples"], state=state, clock=lambda now=now: now
        )
    assert session.commands.count("calibrate") == 2
    assert session.commands.count("layers") == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"engine_sha256": "0" * 64},
        {"nodes": []},
        {"nodes": [{"name": "x"}]},
        {"wall_median_ns": -5},
        {"wall_median_ns": "many"},
        {"nodes": [{
            "name": "x", "op": "Conv", "provider": "p", "index": 0, "median_ns": 1, "share_ratio": 7, "inputs": [],
            "outputs": [],
        }]},
    ],
)  # fmt: skip
def test_a_hostile_profile_is_an_error_of_the_device(
    made: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """What the device says is checked before anything is computed from it."""
    with pytest.raises(DeviceError, match="profile"):
        layers.profile_engine(
            InProcess(tmp_path, CALIBRATION, **changes), made["builds"]["int8"].folder, made["samples"]
        )


def test_another_runtime_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    """TensorRT has no such profiler here: said in three lines, nothing is sent."""
    folder = tmp_path / "engine"
    shutil.copytree(made["builds"]["int8"].folder, folder)
    spec = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**spec, "engine": "tensorrt", "runtime": "tensorrt"}))
    session = InProcess(tmp_path / "device", CALIBRATION)
    with pytest.raises(InputError, match="tensorrt"):
        layers.profile_engine(session, folder, made["samples"])
    assert session.commands == []


def test_the_table_and_its_summary_name_modules(made: dict[str, Any], tmp_path: Path) -> None:
    """People see their module names, the slowest first with --top, and the largest losses in words.

    Whether a real node loses anything is for the machine to say on the day, so that part is given one.
    """
    found = layers.profile_engine(InProcess(tmp_path, CALIBRATION), made["builds"]["int8"].folder, made["samples"])
    assert layer_table(found, None).row_count == len(found["layers"])
    assert layer_table(found, 3).row_count == 3
    text = "\n".join(summary_lines(found))
    assert "of attainable" in text
    assert "1 thread)" in text
    loss = {"name": "n", "module": "layer1.0.dw", "op": "Conv", "bound": "memory", "loss_ms": 0.25}
    text = "\n".join(summary_lines({**found, "losses": [loss]}))
    assert "1. layer1.0.dw, Conv: 0.2500 ms over attainable, memory-bound" in text


def test_a_missing_bundle_is_a_usage_error() -> None:
    """The path is checked before any device is touched."""
    done = CliRunner().invoke(command, ["nowhere/bundle"])
    assert done.exit_code == 2
    assert "nowhere/bundle" in done.output


@pytest.mark.parametrize("note", ["[" * 100_000, "(" + "-" * 200_000 + "1,)", "['a'", "f()"])
def test_a_hostile_note_names_no_module(note: str) -> None:
    """Notes come with the user's file: what nests without end or is no list gives no module, and no error."""
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"], "n")
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=note)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    assert modules.source_modules(model) == {}
    del node.metadata_props[:]
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'layer1', 'add']")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    assert modules.source_modules(model)["n"] == "layer1"  # a note as torch writes it is read
