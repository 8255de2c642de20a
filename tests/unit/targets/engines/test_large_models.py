"""Models that no single protobuf can hold: weights stay outside the graph, contained, checked and hashed."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets import onnxfile
from targets.engines import engine
from targets.engines.base import EngineBuild
from targets.engines.onnxweights import Graph, write_graph
from targets.errors import InputError, RefusedError
from targets.options import OnnxRuntimeOptions
from targets.profile import TargetProfile, load_profile

WIDTH = 160  # 100 KiB a layer, above the size that is read in any case
LAYERS = 3
GIB = 1024**3


def _profile(target: str = "host", **options: object) -> TargetProfile:
    chosen = OnnxRuntimeOptions(name="onnxruntime", **options)
    return load_profile(target).model_copy(update={"engine": chosen, "alternatives": ()})


def _weights(width: int, layers: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((width, width), np.float32) / np.float32(width**0.5) for _ in range(layers)]


def _outside(path: Path, weights: list[np.ndarray]) -> Path:
    """A chain of products whose weights lie in one file beside the graph."""
    width = len(weights[0])
    names = ["x", *(f"h{i}" for i in range(1, len(weights))), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"n{i}") for i in range(len(weights))]
    tensors, offset = [], 0
    with path.with_name("weights.bin").open("wb") as stream:
        for i, array in enumerate(weights):
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=array.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=value)
            offset += array.nbytes
            array.tofile(stream)
            tensors.append(tensor)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return _outside(tmp_path / "in" / "chain.onnx", _weights(WIDTH, LAYERS))


@pytest.fixture
def small_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over 100 KiB counts as too large for one file."""
    monkeypatch.setattr(onnxfile, "ONE_FILE_BYTES", 100 * 1024)


@pytest.mark.usefixtures("small_border")
@pytest.mark.parametrize("target", ["host", "raspberry-pi-5"])
def test_weights_stay_beside_the_engine(chain: Path, tmp_path: Path, target: str) -> None:
    """A model beyond the border builds: a small engine file, its weights beside it and hashed, the same answers."""
    build = engine("onnxruntime").build(chain, _profile(target), tmp_path / "e", precision="fp32")
    assert [*build.files] == ["engine.onnx.data"]
    assert (build.folder / build.file).stat().st_size < 10_000
    assert sorted(path.name for path in build.folder.iterdir()) == [
        "engine.json", "engine.onnx", "engine.onnx.data", "inspect.json",
    ]  # fmt: skip
    x = np.random.default_rng(1).standard_normal((4, WIDTH), np.float32)
    wanted = x
    for weight in _weights(WIDTH, LAYERS):
        wanted = wanted @ weight
    with engine("onnxruntime").open(build) as runner:
        np.testing.assert_allclose(runner.infer({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)
    seen = engine("onnxruntime").inspect(build)
    assert seen.compute["macs"] == LAYERS * WIDTH**2
    assert seen.weights_bytes == LAYERS * WIDTH**2 * 4
    assert EngineBuild.read(build.folder) == build


@pytest.mark.usefixtures("small_border")
def test_the_same_model_gives_the_same_files(chain: Path, tmp_path: Path) -> None:
    """Two builds are equal byte by byte, the file of weights too."""
    first, second = (
        engine("onnxruntime").build(chain, _profile(), tmp_path / name, precision="fp32") for name in ("a", "b")
    )
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes(), path.name


@pytest.mark.usefixtures("small_border")
def test_untouched_graphs_keep_their_weights_outside_too(chain: Path, tmp_path: Path) -> None:
    """Where the provider wants the graph as it is, its weights are copied beside the engine, bit for bit."""
    profile = _profile(providers=("QNNExecutionProvider", "CPUExecutionProvider"))
    build = engine("onnxruntime").build(chain, profile, tmp_path / "e", precision="fp32")
    found = onnx.load(str(build.folder / build.file))
    for weight, tensor in zip(_weights(WIDTH, LAYERS), found.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), weight)


@pytest.mark.usefixtures("small_border")
def test_changed_weights_are_not_opened(chain: Path, tmp_path: Path) -> None:
    """One flipped bit in the weights beside the engine, or no such file: refused before the runtime starts."""
    build = engine("onnxruntime").build(chain, _profile(), tmp_path / "e", precision="fp32")
    path = build.folder / "engine.onnx.data"
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(RefusedError, match="not the one"), engine("onnxruntime").open(build):
        pass
    path.unlink()
    with pytest.raises(InputError, match="missing"), engine("onnxruntime").open(build):
        pass


@pytest.mark.usefixtures("small_border")
@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "link.bin"])
def test_weights_of_another_folder_are_refused(chain: Path, tmp_path: Path, location: str) -> None:
    """The large road is as narrow as the other: parents, absolute paths and links are refused."""
    (chain.parent / "link.bin").symlink_to(chain.parent / "weights.bin")
    model = onnx.load(str(chain), load_external_data=False)
    next(e for e in model.graph.initializer[1].external_data if e.key == "location").value = location
    chain.write_bytes(model.SerializeToString())
    with pytest.raises(RefusedError, match="external data"):
        engine("onnxruntime").build(chain, _profile(), tmp_path / "e", precision="fp32")


@pytest.mark.usefixtures("small_border")
def test_values_outside_are_checked(chain: Path, tmp_path: Path) -> None:
    """NaN in weights that are never read into the graph is found all the same, with tensor and index."""
    values = np.fromfile(chain.parent / "weights.bin", np.float32)
    values[WIDTH * WIDTH + 7] = np.nan
    values.tofile(chain.parent / "weights.bin")
    with pytest.raises(InputError, match=r"'w1'.*1 NaN.*\[0, 7\]"):
        engine("onnxruntime").build(chain, _profile(), tmp_path / "e", precision="fp32")


def test_there_is_a_limit(chain: Path) -> None:
    """Weights outside count to a limit of their own."""
    with pytest.raises(InputError, match="bytes of weights"):
        onnxfile.open_stored(chain, max_bytes=100_000)


def test_one_file_and_two_hold_the_same_model(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's single file and its pair of files both load with ONNX's own reader as the model they came from."""
    model = onnx.load(str(chain), load_external_data=False)
    write_graph(Graph(path=chain, model=model), tmp_path / "one.onnx")
    monkeypatch.setattr(onnxfile, "ONE_FILE_BYTES", 0)
    digests = write_graph(Graph(path=chain, model=model), tmp_path / "two.onnx")
    assert [*digests] == ["two.onnx", "two.onnx.data"]
    for name in ("one.onnx", "two.onnx"):
        onnx.checker.check_model(str(tmp_path / name))
        found = onnx.load(str(tmp_path / name))
        assert [*found.graph.node] == [*model.graph.node]
        assert [*found.opset_import] == [*model.opset_import]
        for weight, tensor in zip(_weights(WIDTH, LAYERS), found.graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), weight)


@pytest.mark.long
def test_a_model_over_two_gib(tmp_path: Path) -> None:
    """A real model of 2.25 GiB builds, runs and stays under 24 GiB of memory."""
    width, layers = 12_288, 4
    (tmp_path / "in").mkdir()
    model = _outside(tmp_path / "in" / "m.onnx", _weights(width, layers))
    assert (tmp_path / "in" / "weights.bin").stat().st_size > 2 * GIB
    build = engine("onnxruntime").build(model, _profile(), tmp_path / "e", precision="fp32")
    with engine("onnxruntime").open(build) as runner:
        answer = runner.infer({"x": np.ones((1, width), np.float32)})["y"]
    assert np.isfinite(answer).all()
    assert json.loads((build.folder / "inspect.json").read_text())["weights_bytes"] == layers * width**2 * 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 24 * GIB
