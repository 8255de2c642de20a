"""Promises of the calibration doctor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import helper

from calibration.collect import collect
from calibration.doctor import diagnose
from calibration.samples import CalibrationSet
from calibration.shift import input_shifts, ks_distance
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from calibration.doctor import Finding


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings}


@pytest.fixture
def healthy(residual: Path) -> tuple[Path, CalibrationSet]:
    return residual, CalibrationSet({"x": images(120)}, batch_size=32)


def test_good_samples_give_no_finding(healthy: tuple[Path, CalibrationSet]) -> None:
    """Enough samples of every class, prepared as evaluation's: nothing is found with a method that clips little."""
    model, samples = healthy
    table = collect(model, samples, threads=1)
    labels = np.arange(120) % 10
    validation = CalibrationSet({"x": images(50, seed=5)}, batch_size=32)
    assert diagnose(table, samples, model, validation, labels, method="percentile") == []


def test_few_samples_say_how_far_scales_move(residual: Path) -> None:
    """Fewer than `min_samples` is a finding, with the bootstrap spread of the worst scale; more are none."""
    samples = CalibrationSet({"x": images(12)}, batch_size=4)
    table = collect(residual, samples, threads=1)
    (found,) = [one for one in diagnose(table, samples, residual, method="minmax") if one.code == "C-FEW"]
    assert found.severity == "warning"
    assert found.evidence["scale_spread_ratio"] == max(f.scale_spread_ratio for f in table.facts.values())
    assert 0.05 < found.evidence["scale_spread_ratio"] < 1.0
    assert "C-FEW" not in codes(diagnose(table, samples, residual, min_samples=12, method="minmax"))


def test_missing_classes_and_repeated_samples(residual: Path) -> None:
    """Classes without a sample are listed; copies of one sample do not count as many."""
    samples = CalibrationSet({"x": np.repeat(images(10), 12, axis=0)}, batch_size=32)
    table = collect(residual, samples, threads=1, methods=["minmax"])
    labels = np.repeat([0, 1, 2, 4, 6] * 2, 12)
    findings = {one.code: one for one in diagnose(table, samples, residual, labels=labels)}
    assert findings["C-CLASSES"].evidence["missing"] == [3, 5]
    assert findings["C-DUPLICATES"].evidence == {"samples": 120, "different": 10}
    wanted = np.arange(9)
    (found,) = [
        one
        for one in diagnose(table, samples, residual, labels=labels, validation_labels=wanted)
        if one.code == "C-CLASSES"
    ]
    assert found.evidence["missing"] == [3, 5, 7, 8]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: x * np.float32(255.0), "255"),
        (lambda x: x[:, ::-1] + 0, "reversed order"),
        (lambda x: x * np.float32(1.5), "very code of evaluation"),
        (lambda x: x + np.float32(1.0), "very code of evaluation"),
        (lambda x: np.sign(x - 1.0) + 1.0, "very code of evaluation"),
    ],
)
def test_preprocessing_unlike_evaluation(
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]], remedy: str, residual: Path
) -> None:
    """Other scale, channel order, offset or shape of the distribution is found, and the likely cause is named."""
    means = np.array([0.0, 1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
    samples = CalibrationSet({"x": change(images(120) + means).astype(np.float32)}, batch_size=32)
    validation = CalibrationSet({"x": images(80, seed=3) + means}, batch_size=16)
    table = collect(residual, samples, threads=1, methods=["minmax"])
    (found,) = [one for one in diagnose(table, samples, residual, validation) if one.code == "C-SHIFT"]
    assert found.tensor == "x"
    assert remedy in found.fix


def test_equal_distributions_are_no_shift() -> None:
    """Twenty pairs of small sets of one distribution, each image with a brightness of its own, give no finding."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sets = [
            CalibrationSet({"x": (images(n, seed * 2 + n) + rng.normal(size=(n, 1, 1, 1))).astype("f4")}, batch_size=8)
            for n in (20, 33)
        ]
        assert [*input_shifts(*sets)] == []


def test_ks_distance_is_the_definition() -> None:
    """The largest gap of two step functions: 0 for the same values, 1 for separate ones."""
    rng = np.random.default_rng(0)
    first, second = np.sort(rng.normal(size=50)), np.sort(rng.normal(0.5, size=70))
    slow = max(abs(np.mean(first <= x) - np.mean(second <= x)) for x in [*first, *second])
    assert ks_distance(first, second) == pytest.approx(slow)
    assert ks_distance(first, first) == 0.0
    assert ks_distance(first, first + 100.0) == 1.0


def test_what_no_data_reach_is_not_dead(save: Callable[..., Path]) -> None:
    """Zeros that the graph makes for a shape are meant to be zero: nobody is told to prune them."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("Add", ["a", "zeros"], ["y"]),
    ]
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    path = save(nodes, {"w": weight}, outputs={"y": ["batch", 4, 6, 6]})
    samples = CalibrationSet({"x": images(120)}, batch_size=32)
    table = collect(path, samples, threads=1)
    assert table.facts["zeros"].high == 0.0
    assert not {"C-DEAD", "C-CONSTANT"} & codes(diagnose(table, samples, path, method="percentile"))


def test_dead_and_constant_activations_are_named(save: Callable[..., Path]) -> None:
    """An activation that is zero everywhere, and one that is another constant, are both named."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "cold"], ["a"]),
        helper.make_node("Relu", ["a"], ["dead"]),
        helper.make_node("Conv", ["dead", "v", "b"], ["y"]),
    ]
    constants = {
        "w": np.full((4, 3, 1, 1), 0.01, np.float32),
        "cold": np.full(4, -9.0, np.float32),
        "v": np.ones((2, 4, 1, 1), np.float32),
        "b": np.full(2, 0.5, np.float32),
    }
    path = save(nodes, constants, outputs={"y": ["batch", 2, 8, 8]})
    samples = CalibrationSet({"x": images(100)}, batch_size=50)
    findings = diagnose(collect(path, samples, threads=1), samples, path, method="minmax")
    assert {(one.code, one.tensor) for one in findings} >= {("C-DEAD", "dead"), ("C-CONSTANT", "y")}


def test_saturation_names_the_share_and_a_gentler_method(healthy: tuple[Path, CalibrationSet]) -> None:
    """A range that leaves out more than 1 % of the values is found, and a method that clips less is offered."""
    model, samples = healthy
    table = collect(model, samples, threads=1)
    facts = replace(table.facts["b"], outside_ratio={**table.facts["b"].outside_ratio, "mse": 0.04})
    table = replace(table, facts={**table.facts, "b": facts})
    (found,) = [one for one in diagnose(table, samples, model, method="mse") if one.code == "C-SATURATED"]
    assert (found.tensor, found.severity) == ("b", "warning")
    assert "4.0%" in found.text
    assert "minmax" in found.fix
    assert "C-SATURATED" not in codes(diagnose(table, samples, model, method="minmax"))


def test_another_model_or_other_samples_are_refused(healthy: tuple[Path, CalibrationSet]) -> None:
    """The doctor judges a table only beside its own model and samples."""
    model, samples = healthy
    table = collect(model, samples, threads=1, methods=["minmax"])
    with pytest.raises(InputError, match="another set of samples"):
        diagnose(table, CalibrationSet({"x": images(5)}, batch_size=5), model)
    with pytest.raises(InputError, match="another model"):
        diagnose(replace(table, model_sha256="00" * 32), samples, model)
