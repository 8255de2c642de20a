"""Promises of sensitivity and mixed precision."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from calibration.child_examine import examine_in_child
from calibration.collect import collect
from calibration.samples import CalibrationSet
from calibration.sensitivity import LayerSensitivity, Sensitivity, mixed_precision, read_sensitivity, sensitivity
from calibration.table import CalibrationTable
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NODES = ["stem", "conv1", "conv2", "head"]


@pytest.fixture
def samples(images: NDArray[np.float32]) -> CalibrationSet:
    return CalibrationSet({"x": images}, batch_size=16)


@pytest.fixture
def table(residual: Path, samples: CalibrationSet) -> CalibrationTable:
    return collect(residual, samples, threads=1)


def spoil(path: Path, weight: str) -> None:
    """One huge value in each channel of a weight leaves few levels for all others."""
    model = onnx.load(path)
    tensor = next(one for one in model.graph.initializer if one.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(len(array), -1)[:, 0] *= 60.0
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    path.write_bytes(model.SerializeToString())


def test_the_spoiled_layer_is_the_sensitive_one(residual: Path, samples: CalibrationSet) -> None:
    """It costs most alone and gives most back; MACs are those of the formula, and are named as the stand-in."""
    spoil(residual, "block.conv2.weight")
    found = sensitivity(residual, collect(residual, samples, threads=1), scheme("ort-x86"), "mse", samples, threads=1)
    assert [layer.node for layer in found.layers] == NODES
    assert [layer.module for layer in found.layers] == ["stem", "block.conv1", "block.conv2", "head"]
    assert min(found.layers, key=lambda layer: layer.alone_db).node == "conv2"
    assert max(found.layers, key=lambda layer: layer.spared_db).node == "conv2"
    assert all(layer.alone_db > found.snr_db for layer in found.layers)
    assert (found.unit, found.samples) == ("MACs", 30)
    assert [layer.cost for layer in found.layers] == [64 * 8 * 27, 16 * 16 * 72, 16 * 16 * 144, 160]


def test_a_latency_table_is_the_cost(residual: Path, samples: CalibrationSet, table: CalibrationTable) -> None:
    """Microseconds take the place of MACs; a table of another model is refused; modules may be named."""
    slow = dict.fromkeys(NODES, 1.0) | {"stem": 7.5}
    found = sensitivity(
        residual, table, scheme("ort-x86"), "mse", samples, threads=1, latency_us=slow, modules={"stem": "net.first"}
    )
    assert (found.unit, found.layers[0].cost, found.layers[0].module) == ("us", 7.5, "net.first")
    with pytest.raises(InputError, match="no row for layer 'conv1'"):
        sensitivity(residual, table, scheme("ort-x86"), "mse", samples, threads=1, latency_us={"stem": 1.0})


def made(*worths: float) -> Sensitivity:
    layers = tuple(
        LayerSensitivity(node=f"n{i}", module="", alone_db=40.0, spared_db=worth, cost=1.0)
        for i, worth in enumerate(worths)
    )
    return Sensitivity(layers=layers, snr_db=20.0, unit="MACs", samples=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 100), min_size=2, max_size=12, unique=True), st.data())
def test_as_few_layers_as_the_floor_needs(worths: list[int], data: st.DataObject) -> None:
    """Where gains add up, no smaller number of layers would do; what is chosen was asked for and meets the floor."""
    gains = {f"n{i}": worth for i, worth in enumerate(worths)}
    most = sum(sorted(worths)[1:])
    floor = data.draw(st.integers(1, most))
    asked: list[frozenset[str]] = []

    def meets(nodes: frozenset[str]) -> bool:
        asked.append(nodes)
        return sum(gains[name] for name in nodes) >= floor

    found = mixed_precision(made(*worths), meets, most_tries=40)
    assert found.float_nodes is not None
    assert frozenset(found.float_nodes) in asked
    fewest = next(k for k in range(1, len(worths)) if sum(sorted(worths, reverse=True)[:k]) >= floor)
    assert sum(gains[name] for name in found.float_nodes) >= floor
    assert len(found.float_nodes) == fewest
    assert [step.met for step in found.curve] == [
        sum(gains[n] for n in step.float_nodes) >= floor for step in found.curve
    ]


def test_needless_layers_go_back_to_int8() -> None:
    """The figures said n0 and n1, the floor needs n1 alone."""
    found = mixed_precision(made(9.0, 5.0, 1.0, 0.5), lambda nodes: "n1" in nodes)
    assert found.float_nodes == ("n1",)


def test_a_dear_layer_that_decides_goes_float() -> None:
    """Promise: the layer of least gain for its cost goes float where the floor needs it, and nothing else does."""
    layers = [
        LayerSensitivity(node=name, module="", alone_db=40.0, spared_db=spared_db, cost=cost)
        for name, spared_db, cost in (("small", 0.5, 1.0), ("middle", 0.7, 10.0), ("dear", 9.0, 1000.0))
    ]
    found = mixed_precision(
        Sensitivity(layers=tuple(layers), snr_db=30.0, unit="MACs", samples=1), lambda nodes: "dear" in nodes
    )
    assert found.float_nodes == ("dear",)


def test_a_floor_out_of_reach_is_said_so() -> None:
    """None, with the tries on the curve; a net of a single layer has nothing to mix; too few tries are refused."""
    found = mixed_precision(made(3.0, 2.0, 1.0), lambda _: False)
    assert (found.float_nodes, [step.float_nodes for step in found.curve]) == (None, [("n0", "n1")])
    assert mixed_precision(made(3.0), lambda _: True).float_nodes is None
    with pytest.raises(InputError, match="most_tries is 1"):
        mixed_precision(made(3.0, 2.0), lambda _: True, most_tries=1)


def test_questions_are_counted() -> None:
    """Never more than allowed, and still an answer that met the floor."""
    asked: list[int] = []
    found = mixed_precision(
        made(*range(64, 0, -1)), lambda nodes: asked.append(len(nodes)) or len(nodes) >= 20, most_tries=5
    )
    assert len(asked) == 5
    assert found.float_nodes is not None
    assert len(found.float_nodes) >= 20


@pytest.fixture
def request_of(
    residual: Path, images: NDArray[np.float32], table: CalibrationTable, tmp_path: Path
) -> dict[str, object]:
    from calibration.child import quantize_in_child

    np.savez(tmp_path / "samples.npz", x=images)
    (out := tmp_path / "out").mkdir()
    request: dict[str, object] = {
        "model": str(residual),
        "samples": str(tmp_path / "samples.npz"),
        "scheme": "ort-x86",
        "method": "mse",
        "threads": 1,
        "batch_size": 16,
        "out_folder": str(out),
    }
    quantize_in_child(request)
    table.save(tmp_path / "table.json")
    return request | {"table": str(tmp_path / "table.json"), "forecast": True}


def test_layers_json_gets_the_sensitivities(request_of: dict[str, object], tmp_path: Path) -> None:
    """Rows with a weight hold them under the user's module names, and come back as they were; the rest is as before."""
    path = tmp_path / "out" / "layers.json"
    before = json.loads(path.read_text())
    found = examine_in_child(request_of | {"sensitivity": "auto", "modules": {"stem": "backbone.stem"}})
    rows = json.loads(path.read_text())
    assert [row["node"] for row in rows if "sensitivity_db" in row] == NODES
    assert rows[0]["module"] == "backbone.stem"
    assert [row["precision"] for row in rows] == [row["precision"] for row in before]
    assert found["sensitivity"] is not None
    assert found["sensitivity"]["unit"] == "us"  # predicted: this dialect has figures
    assert [layer.node for layer in read_sensitivity(path).layers] == NODES
    forecast = found["forecast"]
    assert set(forecast) == {"snr_db", "agreement", "safe", "saturating", "samples"}


def test_what_is_off_is_not_measured(request_of: dict[str, object], tmp_path: Path) -> None:
    """No sensitivities, no forecast where a dialect does not go; asking for them then is an error."""
    found = examine_in_child(request_of | {"sensitivity": "off", "scheme": "ort-arm64"})
    assert found == {"sensitivity": None, "forecast": None}
    with pytest.raises(InputError, match="holds no sensitivities"):
        read_sensitivity(tmp_path / "out" / "layers.json")


def test_a_file_that_multiplies_nothing_in_integers_is_no_error(
    request_of: dict[str, object], residual: Path, tmp_path: Path
) -> None:
    """The forecast is unknown then, and says why."""
    (tmp_path / "out" / "model.onnx").write_bytes(residual.read_bytes())
    found = examine_in_child(request_of | {"sensitivity": "off"})
    assert "multiplies nothing in integers" in found["forecast"]["unknown"]
