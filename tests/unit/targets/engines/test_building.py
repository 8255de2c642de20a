"""What a build does beside its work: hashing, syncing, and looking at weights, before its engine counts."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets import files, onnxbytes, onnxsplit
from targets.engines import engine, hashing, syncing
from targets.engines.hashing import HashedFile
from targets.errors import EnvironmentFailure, InputError
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.profile import TargetProfile, load_profile

OPTIONS: tuple[EngineOptions, ...] = (
    OnnxRuntimeOptions(name="onnxruntime"),
    OnnxRuntimeOptions(name="onnxruntime", format="ort"),
    OpenVinoOptions(name="openvino"),
    TensorRtOptions(name="tensorrt-rtx", compute_capabilities=("8.6",)),
)
NAMES = [f"{each.name}-{getattr(each, 'format', '')}".strip("-") for each in OPTIONS]
WIDTH = 160


def _profile(options: EngineOptions) -> TargetProfile:
    host = load_profile("host")
    hardware = host.hardware.model_copy(update={"compute_capability": "8.6"})
    return host.model_copy(update={"engine": options, "hardware": hardware, "alternatives": ()})


def _write(path: Path, weight: np.ndarray) -> Path:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.long] if name in {"onnxruntime-ort", "tensorrt-rtx"} else [])
        for options, name in zip(OPTIONS, NAMES, strict=True)
    ],
)
def test_weights_that_stay_in_the_file_change_no_byte(
    options: EngineOptions, weight: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine of a model that was taken apart is that of the model read whole: every file, byte by byte."""
    model, built = _write(tmp_path / "m.onnx", weight), engine(options.name)
    if not built.available().ok:
        pytest.skip(built.available().why)
    whole = built.build(model, _profile(options), tmp_path / "whole", precision="fp32")
    monkeypatch.setattr(onnxbytes, "_SPLIT", 0)
    monkeypatch.setattr(onnxsplit, "SMALL_BYTES", 1000)
    apart = built.build(model, _profile(options), tmp_path / "apart", precision="fp32")
    for path in whole.folder.iterdir():
        assert path.read_bytes() == (apart.folder / path.name).read_bytes(), path.name


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_weights_that_are_no_numbers_give_no_engine(options: EngineOptions, weight: np.ndarray, tmp_path: Path) -> None:
    """NaN is found beside the build, outdoes whatever the build says, and leaves no engine behind."""
    weight[3, 5] = np.nan
    model, built = _write(tmp_path / "m.onnx", weight), engine(options.name)
    if not built.available().ok:
        pytest.skip(built.available().why)
    with pytest.raises(InputError, match=r"'w' .* has 1 NaN or Inf \(first at \[3, 5\]\)"):
        built.build(model, _profile(options), tmp_path / "e", precision="fp32")
    assert not (tmp_path / "e" / "engine.json").exists()


def test_a_disk_that_fails_late_gives_no_engine(
    weight: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine file is synced beside the inspection; if that fails, three lines and no engine.json."""

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    model = _write(tmp_path / "m.onnx", weight)
    monkeypatch.setattr(syncing.os, "fsync", broken)
    with pytest.raises(EnvironmentFailure, match="Input/output error"):
        engine("onnxruntime").build(model, _profile(OPTIONS[0]), tmp_path / "e", precision="fp32")
    assert not (tmp_path / "e" / "engine.json").exists()


def test_an_engine_counts_only_when_all_of_it_is_on_the_disk(
    weight: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """engine.json gets its name after the engine file, inspect.json and itself were synced."""
    synced: list[int] = []
    real, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def renamed(self: Path, target: Path) -> Path:
        if target.name == "engine.json":
            assert {path.stat().st_ino for path in self.parent.iterdir()} <= {*synced}
            assert self.stat().st_ino in synced
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    build = engine("onnxruntime").build(
        _write(tmp_path / "m.onnx", weight), _profile(OPTIONS[0]), tmp_path / "e", precision="fp32"
    )
    assert (build.folder / build.file).stat().st_ino in synced
    assert build.folder.stat().st_ino in synced


def test_the_hash_is_of_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts and long copies in any order: the stream holds them, and the hash is theirs."""
    monkeypatch.setattr(hashing, "_BUFFER_BYTES", 100)
    random, out, wanted = np.random.default_rng(0), io.BytesIO(), b""
    with HashedFile(out) as file:
        for size in (0, 1, 99, 100, 101, 999, 30, 0, 1234):
            data = random.bytes(size)
            wanted += data
            if size % 2:
                file.put(data)
            else:
                file.copy(io.BytesIO(data + b"more"), size)
        found = file.sha256()
    assert out.getvalue() == wanted
    assert found == hashlib.sha256(wanted).hexdigest()


def test_a_source_that_ends_early_is_no_file() -> None:
    """Bytes that are missing are never made up."""
    with pytest.raises(EOFError), HashedFile(io.BytesIO()) as file:
        file.copy(io.BytesIO(b"abc"), 4)


def test_files_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the second cannot be written the first is not there either, and nothing else is left."""
    real = files.write_new
    calls: list[Path] = []

    def second(path: Path, data: bytes, mode: int = 0o644) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(path, data, mode)

    monkeypatch.setattr(files, "write_new", second)
    with pytest.raises(EnvironmentFailure, match="No space left"):
        files.write_together(tmp_path, {"a": b"1", "b": b"2"})
    assert [*tmp_path.iterdir()] == []
    monkeypatch.setattr(files, "write_new", real)
    files.write_together(tmp_path, {"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}
