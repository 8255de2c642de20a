"""Learned rounding and quantisation-aware training give back what coarse weights lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibration.blocks import find_blocks, find_layers
from calibration.collect import collect
from calibration.qat import DistillationSettings, QuantizedStudent
from calibration.qdq import quantize_model
from calibration.quantized import read_quantized
from calibration.rounding import BlockResult, learn_rounding
from calibration.samples import CalibrationSet
from calibration.session import Session
from calibration.torchlearn import float_parent, progress_ratio
from pipeline.data import Split
from pipeline.training import TrainConfig, predict
from pipeline.training.quantized import QatResult, train_quantized
from targets import machine
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path


def test_a_net_that_picks_the_largest_values_learns_too(
    residual: Path, samples: CalibrationSet, tmp_path: Path
) -> None:
    """Behind a TopK, whose positions cannot be fitted, the values are; the file stays what it was but for numbers."""
    model = open_onnx(residual)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3], np.int64), "three"))
    model.graph.node.append(helper.make_node("TopK", ["y", "three"], ["best", "places"], "top"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, ["batch", 3]))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.FLOAT, ["batch", 3]))
    path, out = tmp_path / "top.onnx", tmp_path / "learned.onnx"
    onnx.save(model, path)
    table = collect(path, samples, threads=1, methods=["minmax"])
    quantize_model(path, table, scheme("ort-x86"), "minmax", out)
    before = skeleton(out)
    report = learn_rounding(path, out, samples, out, steps=30)
    assert any(block.kept and block.after_db > block.before_db for block in report.blocks)
    assert skeleton(out) == before


@pytest.fixture
def samples() -> CalibrationSet:
    """Correlated samples, as real ones are: noise of few patterns."""
    return CalibrationSet({"x": patterns(256, 1)}, batch_size=32)


@pytest.fixture
def held() -> np.ndarray:
    """Samples that nothing was learned from."""
    return patterns(256, 2)


@pytest.fixture
def coarse(residual: Path, samples: CalibrationSet, tmp_path: Path) -> Path:
    """The residual net with four-bit weights, one scale a tensor's channels share."""
    table = collect(residual, samples, threads=1, methods=["minmax"])
    out = tmp_path / "coarse.onnx"
    quantize_model(residual, table, scheme("ort-x86"), "minmax", out)
    graph = read_quantized(open_onnx(out))
    for node, weight in graph.weights.items():
        exact = graph.weight_values(node)
        scales = np.full_like(graph.array(weight.scale), np.abs(exact).max() / 7, np.float32)
        graph.write_integers(weight.integers, np.clip(np.rint(exact / scales[0]), -7, 7))
        graph.write_scale(weight.scale, scales)
    graph.save(out)
    return out


def patterns(count: int, seed: int) -> np.ndarray:
    basis = np.random.default_rng(0).standard_normal((12, 3, 8, 8))
    weights = np.random.default_rng(seed).standard_normal((count, 12))
    return np.einsum("np,pchw->nchw", weights, basis).astype(np.float32) / 3


def noise(float_model: Path, quantised: Path, images: np.ndarray) -> float:
    """Mean squared error of the output."""
    outputs = [
        Session(open_onnx(path).SerializeToString(), threads=1, optimize=False).run(None, {"x": images})[0]
        for path in (float_model, quantised)
    ]
    return float(np.mean((outputs[0] - outputs[1]) ** 2))


def skeleton(path: Path) -> list[Any]:
    """All of a file but the numbers that learning may change."""
    model = open_onnx(path)
    tensors = [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    return [model.SerializeToString(deterministic=True), tensors]


def learn(
    float_model: Path,
    quantised: Path,
    images: np.ndarray,
    out: Path,
    *,
    labels: np.ndarray | None = None,
    judged: np.ndarray | None = None,
    settings: DistillationSettings | None = None,
    scale_ratio: float = 0.2,
    label_loss: Any = None,  # noqa: ANN401
    **changes: Any,  # noqa: ANN401 - fields of TrainConfig
) -> QatResult:
    """Trains on the one loop; the best epoch is that with the least noise on ``judged``."""
    plain: dict[str, Any] = {
        "epochs": 1, "batch_size": 32, "optimizer": "adam", "learning_rate": 0.005, "weight_decay": 0.0,
        "seed": 0, "threads": 1, "keep": "best",
    }  # fmt: skip
    seen = Split(inputs={"": images if judged is None else judged}, labels=None)

    def score(student: QuantizedStudent) -> float:
        split = seen.bound(student.inputs)
        exact = student.exact({name: torch.from_numpy(array) for name, array in split.inputs.items()})[0].numpy()
        return -float(np.mean((predict(student, split, threads=1)[0] - exact) ** 2))

    return train_quantized(
        float_model,
        quantised,
        Split(inputs={"": images}, labels=labels),
        out,
        TrainConfig(**plain | changes),
        settings or DistillationSettings(),
        scale_ratio=scale_ratio,
        score=score,
        label_loss=label_loss,
    )


@pytest.mark.parametrize("unit", ["layer", "block"])
def test_learned_rounding_halves_the_noise(
    residual: Path,
    coarse: Path,
    samples: CalibrationSet,
    held: np.ndarray,
    tmp_path: Path,
    unit: Literal["layer", "block"],
) -> None:
    """Promise: on samples it has not seen, the output's squared error falls by half; no integer moves by two.

    A CPU without VNNI rounds the training otherwise, and was seen to leave 0.55.
    """
    out = tmp_path / "rounded.onnx"
    report = learn_rounding(residual, coarse, samples, out, steps=150, unit=unit, learn_biases=True)
    left = 0.5 if machine.cpu_features() & {"avx512_vnni", "avx_vnni"} else 0.6
    assert noise(residual, out, held) <= left * noise(residual, coarse, held)
    assert skeleton(out) == skeleton(coarse)
    before, after = read_quantized(open_onnx(coarse)), read_quantized(open_onnx(out))
    for weight in before.weights.values():
        moved = after.array(weight.integers).astype(int) - before.array(weight.integers)
        assert np.abs(moved).max() <= 1
        assert np.abs(after.array(weight.integers).astype(int)).max() <= 7
    assert [name for block in report.blocks for name in block.nodes] == ["stem", "conv1", "conv2", "head"]
    assert all(block.after_db > block.before_db for block in report.blocks if block.kept)
    assert not report.stopped_early


def test_training_halves_the_noise(
    residual: Path, coarse: Path, samples: CalibrationSet, held: np.ndarray, tmp_path: Path
) -> None:
    """Promise: on samples it has not seen, the output's squared error falls by half; the file keeps its form."""
    out = tmp_path / "trained.onnx"
    images = next(iter(CalibrationSet({"x": patterns(256, 1)}, batch_size=256)))["x"]
    report = learn(residual, coarse, images, out, judged=patterns(64, 3), epochs=20, learning_rate=0.02)
    assert noise(residual, out, held) <= 0.5 * noise(residual, coarse, held)
    assert skeleton(out) == skeleton(coarse)
    graph = read_quantized(open_onnx(out))
    assert all(np.abs(graph.array(weight.integers).astype(int)).max() <= 7 for weight in graph.weights.values())
    best = max(report.curve, key=lambda result: result.score)
    assert report.kept_epoch == best.epoch
    assert 0.0 < report.changed_ratio < 1.0


def test_nothing_learned_gives_the_file_back(residual: Path, coarse: Path, tmp_path: Path) -> None:
    """Promise: with all rates at zero but one that changes nothing, integers and scales stay as they were."""
    out = tmp_path / "same.onnx"
    learn(residual, coarse, patterns(32, 1), out, learning_rate=1e-12, scale_ratio=0.0)
    assert out.read_bytes() == coarse.read_bytes()


@pytest.mark.parametrize("what", ["rounding", "training"])
def test_the_same_seed_gives_the_same_bytes(
    residual: Path, coarse: Path, samples: CalibrationSet, tmp_path: Path, what: str
) -> None:
    """Promise: one thread and one seed give one file; another seed gives another."""
    files = []
    for index, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"{index}.onnx"
        if what == "rounding":
            learn_rounding(residual, coarse, samples, out, steps=12, seed=seed, learn_scales=True, learn_biases=True)
        else:
            learn(residual, coarse, patterns(256, 1), out, seed=seed)
        files.append(out.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_blocks_follow_the_graph(residual: Path, coarse: Path) -> None:
    """Promise: blocks end where everything passes through one tensor; a shortcut keeps its two layers together."""
    graph, parent = read_quantized(open_onnx(coarse)), float_parent(residual)
    blocks = find_blocks(graph, parent)
    assert [block.nodes for block in blocks] == [("stem",), ("conv1", "conv2"), ("head",)]
    assert [block.ends[0][1] for block in blocks] == ["b", "i", "y"]
    assert [block.begin[0][1] for block in blocks] == ["x", "b", "j"]
    assert [layer.ends[0][1] for layer in find_layers(graph, parent)] == ["b", "d", "e", "y"]


def test_the_time_budget_ends_the_work(residual: Path, coarse: Path, samples: CalibrationSet, tmp_path: Path) -> None:
    """Promise: without time no step is made, the file is written all the same, and the reports say so."""
    out = tmp_path / "short.onnx"
    blocks: list[BlockResult] = []
    report = learn_rounding(
        residual, coarse, samples, out, steps=10**9, time_budget_s=0.5, on_progress=lambda b, _i, _n: blocks.append(b)
    )
    assert report.stopped_early
    assert len(blocks) == len(report.blocks)
    assert len(learn(residual, coarse, patterns(32, 1), out, epochs=10**6, time_budget_s=0.5).curve) < 10**6
    read_quantized(open_onnx(out))


def test_labels_and_classes_can_be_used(residual: Path, coarse: Path, tmp_path: Path) -> None:
    """Promise: divergence of class probabilities, labels and bfloat16 arithmetic all train."""
    images = patterns(64, 1)
    labels = np.arange(64) % 10
    settings = DistillationSettings(loss="kl", label_weight=0.5, inner_weight=0.0)
    functional = torch.nn.functional
    report = learn(
        residual, coarse, images, tmp_path / "out.onnx", labels=labels, settings=settings, epochs=3, precision="bf16",
        label_loss=lambda outputs, classes: functional.cross_entropy(outputs[0].float().flatten(1), classes),
    )  # fmt: skip
    assert len(report.curve) == 3
    assert all(np.isfinite(result.loss) for result in report.curve)


def test_a_loss_that_breaks_leaves_no_file(residual: Path, coarse: Path, tmp_path: Path) -> None:
    """Promise: a loss that is not finite ends training with an error and without a file."""
    out = tmp_path / "out.onnx"
    with pytest.raises(InputError, match="became nan"):
        learn(residual, coarse, np.full((4, 3, 8, 8), np.nan, np.float32), out)
    assert not out.exists()


@pytest.mark.parametrize("dialect", ["trt", "ort-arm64", "qnn-a16"])
def test_every_dialect_can_be_learned(
    residual: Path, samples: CalibrationSet, held: np.ndarray, tmp_path: Path, dialect: str
) -> None:
    """Promise: float biases, kept clamps and signed activations learn as well; the result is not worse."""
    table = collect(residual, samples, threads=1, methods=["minmax"])
    start, rounded, trained = (tmp_path / f"{name}.onnx" for name in ("start", "rounded", "trained"))
    quantize_model(residual, table, scheme(dialect), "minmax", start)
    learn_rounding(residual, start, samples, rounded, steps=20, learn_biases=True, learn_scales=True)
    images = patterns(64, 1)
    learn(residual, rounded, images, trained, epochs=5)
    assert skeleton(trained) == skeleton(start)
    assert noise(residual, trained, held) <= 1.05 * noise(residual, start, held)


def test_a_weight_of_two_nodes_stays_one(save: Callable[..., Path], tmp_path: Path) -> None:
    """Promise: a weight that two layers share is stored once, learned once, and moves by at most one step."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "w"], ["y"], "second"),
    ]
    model = save(nodes, {"w": weight}, inputs={"x": ["batch", 8]}, outputs={"y": ["batch", 8]})
    samples = CalibrationSet({"x": rng.standard_normal((64, 8)).astype(np.float32)}, batch_size=32)
    table = collect(model, samples, threads=1, methods=["minmax"])
    start, out = tmp_path / "start.onnx", tmp_path / "out.onnx"
    quantize_model(model, table, scheme("ort-x86"), "minmax", start)
    before = read_quantized(open_onnx(start))
    assert [weight.source for weight in before.weights.values()] == ["w", "w"]
    assert len(before.stored_weights()) == 1
    learn_rounding(model, start, samples, out, steps=30)
    after = read_quantized(open_onnx(out))
    for name in before.stored_weights():
        assert np.abs(after.array(name).astype(int) - before.array(name)).max() <= 1
    learn(model, out, next(iter(samples))["x"], out, epochs=3)
    read_quantized(open_onnx(out))


def test_the_clock_counts_only_when_time_runs_short() -> None:
    """Work that ends within its budget follows the steps alone, however fast the machine; over it, the clock wins."""
    for spent_share in (0.1, 0.5, 1.0):  # of the whole work, on a machine that needs just its budget
        assert progress_ratio(round(100 * spent_share), 100, 60 * spent_share, 60.0) == spent_share
    assert progress_ratio(10, 100, 60.0, 60.0) == 1.0
    assert progress_ratio(10, 100, 1e9, None) == 0.1
    assert progress_ratio(0, 100, 0.0, 0.0) < 1.0 <= progress_ratio(0, 100, 1.0, 0.0)
