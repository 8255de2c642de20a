"""What happens below the accuracy floor: training, then layers in float, and only as much as is needed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.data import Dataset, Split
from pipeline.recipe import QuantizeSection
from pipeline.stages.floatcost import FloatCost
from pipeline.stages.recover import Recovery
from pipeline.tasks import Classification
from targets import process
from targets.errors import DeviceLost
from targets.process import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


SUMMARY = {"method": "mse", "algorithms": ["bias"]}
LAYERS = [
    {"node": f"n{i}", "module": f"m{i}", "sensitivity_db": 40.0, "spared_db": float(3 - i), "cost": 10.0}
    for i in range(4)
]
SPLIT = Split(inputs={"x": np.arange(20, dtype=np.float32)[:, None]}, labels=np.zeros(20, np.int64))
FILES = ("model.onnx", "io.json", "calibration.json", "layers.json")


class World:
    """Children that write what they are told: accuracy by the text of the model."""

    def __init__(self, accuracy: Mapping[str, float]) -> None:
        self.accuracy = accuracy
        self.kept_epoch = 3
        self.requests: list[tuple[str, Mapping[str, Any]]] = []
        self.warnings: list[str] = []

    def call_limited(self, function: str, request: Mapping[str, Any], **_: object) -> dict[str, Any]:
        name = function.partition(":")[2]
        self.requests.append((name, request))
        if name == "train_in_child":
            Path(request["out"]).write_text("trained", encoding="utf-8")
            return {"epochs_run": 3, "kept_epoch": self.kept_epoch, "output_snr_db": 41.0, "agreement": 0.99}
        folder = Path(request["out_folder"])
        if name == "examine_in_child":
            (folder / "layers.json").write_text(json.dumps(LAYERS), encoding="utf-8")
            return {"sensitivity": {"unit": "MACs", "costs": "counted", "snr_db": 30.0, "samples": 8}, "forecast": None}
        for file in FILES:
            (folder / file).write_text("+".join(request["float_nodes"]), encoding="utf-8")
        return {"int8_nodes": 1, "float_nodes": 2, "output_snr_db": 30.0, "agreement": 0.9, "other": 1}

    def called(self, name: str) -> list[Mapping[str, Any]]:
        return [request for called, request in self.requests if called == name]


def recover(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    splits: tuple[str, ...] = ("train",),
    device: str | None = None,
    **section: object,
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    for file in FILES:
        (folder / file).write_text("int8", encoding="utf-8")
    monkeypatch.setattr(process, "call_limited", world.call_limited)
    monkeypatch.setattr(Recovery, "_score", lambda _, model, __: world.accuracy[model.read_text(encoding="utf-8")])
    monkeypatch.setattr(Recovery, "_reference_accuracy", lambda _: world.accuracy["float"])
    monkeypatch.setattr(Recovery, "_own_float_accuracy", lambda _: world.accuracy.get("own", world.accuracy["float"]))
    description: Any = SimpleNamespace(
        read_json=lambda _: {"inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 1]}]}
    )
    nobody: Any = None
    context: Any = SimpleNamespace(
        scratch=tmp_path, progress=lambda *_, **__: None, warn=world.warnings.append, unfinished=tmp_path / "unfinished"
    )
    recovery = Recovery(
        request={"samples": str(tmp_path / "samples.npz"), "float_out": "parent.onnx", "seed": 3},
        limits=Limits(timeout_s=1.0),
        section=QuantizeSection.model_validate(section),
        accuracy_drop=0.01,
        profile=nobody,
        task=Classification(),
        reference=description,
        data=Dataset(splits=dict.fromkeys((*splits, "validation"), SPLIT)),
        context=context,
        modules={"n0": "net.first"},
        device=device,
    )
    return recovery.run(folder, SUMMARY), folder


def test_what_meets_the_floor_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No child is started; where the floor cannot be missed, the reference is not even run."""
    world = World({"int8": 0.9, "float": 0.905})
    found, _ = recover(world, tmp_path, monkeypatch)
    assert found == {"accuracy": 0.9, "metric": "accuracy", "accuracy_floor": 0.895, "recovery": []}
    assert not world.requests
    found, _ = recover(World({"int8": 0.995}), tmp_path / "out", monkeypatch)
    assert found == {"accuracy": 0.995, "metric": "accuracy"}


def test_training_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the floor the file is trained on the shuffled train split, against the model that it was made from."""
    world = World({"int8": 0.8, "float": 0.9, "trained": 0.9})
    found, folder = recover(world, tmp_path, monkeypatch, qat_epochs=2)
    assert (found["accuracy"], [step["step"] for step in found["recovery"]]) == (0.9, ["qat"])
    assert (folder / "model.onnx").read_text(encoding="utf-8") == "trained"
    assert (found["output_snr_db"], found["agreement"]) == (41.0, 0.99)
    (request,) = world.called("train_in_child")
    assert (request["parent"], request["section"]["epochs"]) == ("parent.onnx", 2)
    with np.load(request["training"]) as archive:
        assert sorted(archive["x"][:, 0]) == [*range(20)]
        assert [*archive["x"][:, 0]] != [*range(20)]
        assert archive["labels."].shape == (20,)
    with np.load(request["validation"]) as archive:
        assert [*archive["x"][:, 0]] == [*range(20)]


@pytest.mark.parametrize(
    ("epochs", "section", "stopped"),
    [(3, {}, ""), (5, {}, "quantize.time_budget_s = 300"), (5, {"patience": 1}, "patience")],
)
def test_training_that_ends_early_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, section: dict[str, object], stopped: str
) -> None:
    """Promise: fewer epochs than were asked for are no secret, nor is what ended them."""
    world = World({"int8": 0.8, "float": 0.9, "trained": 0.9})
    found, _ = recover(world, tmp_path, monkeypatch, training={"epochs": epochs, **section})
    (step,) = found["recovery"]
    assert (step["epochs_run"], step["epochs"], step["stopped"]) == (3, epochs, stopped)


def test_without_a_train_split_the_calibration_samples_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distillation needs no labels."""
    world = World({"int8": 0.8, "float": 0.9, "trained": 0.9})
    recover(world, tmp_path, monkeypatch, splits=())
    assert world.called("train_in_child")[0]["training"] == str(tmp_path / "samples.npz")


def test_training_that_makes_it_worse_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked for though nothing was wrong: the file stays, and the record says so."""
    world = World({"int8": 0.9, "float": 0.9, "trained": 0.85})
    found, folder = recover(world, tmp_path, monkeypatch, qat="on")
    assert (found["accuracy"], found["recovery"][0]["kept"], found["recovery"][0]["accuracy"]) == (0.9, False, 0.85)
    assert (folder / "model.onnx").read_text(encoding="utf-8") == "int8"


def test_training_that_learned_nothing_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no epoch was better than the file as it came, that file stays, unscored, as not trained."""
    world = World({"int8": 0.9, "float": 0.9})
    world.kept_epoch = 0
    found, folder = recover(world, tmp_path, monkeypatch, qat="on")
    assert (found["accuracy"], found["recovery"][0]["kept"]) == (0.9, False)
    assert "output_snr_db" not in found
    assert (folder / "model.onnx").read_text(encoding="utf-8") == "int8"


def test_the_fewest_layers_go_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers are enough; files, figures and names are those of that model."""
    world = World({"int8": 0.7, "trained": 0.75, "float": 0.9, "n0": 0.8, "n1": 0.8, "n0+n1": 0.895, "n0+n1+n2": 0.9})
    found, folder = recover(world, tmp_path, monkeypatch)
    assert [step["step"] for step in found["recovery"]] == ["qat", "mixed_precision"]
    mixed = found["recovery"][1]
    assert (mixed["kept"], mixed["float_layers"], mixed["unit"]) == (True, ["net.first", "n1"], "MACs")
    assert mixed["costs"] == "counted"
    assert [point["accuracy"] for point in mixed["curve"]][:2] == [0.9, 0.8]
    assert {(folder / file).read_text(encoding="utf-8") for file in FILES} == {"n0+n1"}
    assert (found["accuracy"], found["float_nodes"], found["output_snr_db"]) == (0.895, 2, 30.0)
    assert "other" not in found
    assert all(r["method"] == "mse" and r["algorithms"] == ["bias"] for r in world.called("quantize_in_child"))


def test_a_floor_out_of_reach_keeps_what_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even three layers in float suffice: the int8 file stays, and what was tried is told."""
    world = World({"int8": 0.7, "float": 0.9, "n0+n1+n2": 0.71})
    found, folder = recover(world, tmp_path, monkeypatch, qat="off")
    assert (folder / "model.onnx").read_text(encoding="utf-8") == "int8"
    assert (found["accuracy"], found["recovery"][0]["kept"], found["recovery"][0]["accuracy"]) == (0.7, False, 0.71)


def test_a_float_model_below_the_floor_starts_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: layers in float cannot give what the float model does not have; no minutes are spent on it."""
    world = World({"int8": 0.7, "float": 0.9, "own": 0.8})
    found, folder = recover(world, tmp_path, monkeypatch, qat="off")
    assert (folder / "model.onnx").read_text(encoding="utf-8") == "int8"
    assert "float model itself" in found["recovery"][0]["reason"]
    assert not world.requests


def test_a_float_model_below_the_floor_is_not_trained_for_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: training that learns to be like a model below the floor is not begun, and the record says why."""
    world = World({"int8": 0.7, "float": 0.9, "own": 0.8})
    found, _ = recover(world, tmp_path, monkeypatch)
    assert [(step["step"], "float model itself" in step["reason"]) for step in found["recovery"]] == [
        ("qat", True), ("mixed_precision", True),
    ]  # fmt: skip
    assert not world.requests


@pytest.mark.parametrize("section", [{"qat": "on"}, {"training": {"label_weight": 0.5}}])
def test_training_that_may_pass_its_float_model_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, object]
) -> None:
    """What was asked for by name, and what learns from labels too, may exceed that model."""
    world = World({"int8": 0.7, "float": 0.9, "own": 0.8, "trained": 0.9})
    found, _ = recover(world, tmp_path, monkeypatch, **section)
    assert (found["accuracy"], len(world.called("train_in_child"))) == (0.9, 1)


def test_nothing_is_done_where_nothing_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both off: no floor is looked at."""
    found, _ = recover(World({"int8": 0.1}), tmp_path, monkeypatch, qat="off", mixed_precision="off")
    assert found == {"accuracy": 0.1, "metric": "accuracy"}


MIXED = {"int8": 0.7, "float": 0.9, "n3": 0.9, "n0": 0.9, "n0+n1": 0.9, "n0+n1+n2": 0.9, "n0+n3": 0.9, "n0+n1+n3": 0.9}


def test_layers_are_ordered_by_what_the_device_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: measured microseconds take the place of counted work, and the record says where they are from."""
    asked: list[tuple[str, str]] = []

    def measured(
        self: FloatCost, rows: list[dict[str, object]], method: str, on_share: Callable[[float], None]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        asked.append((self.device, method))
        assert [row["node"] for row in rows] == [layer["node"] for layer in LAYERS]
        on_share(1.0)
        return {"n0": 50.0, "n1": 40.0, "n2": 30.0, "n3": -1.0}, {"device": "pi5", "blocks": 3}

    monkeypatch.setattr(FloatCost, "measured", measured)
    rows = [{**layer, "spared_db": 1.0} for layer in LAYERS]
    monkeypatch.setitem(globals(), "LAYERS", rows)
    world = World(MIXED | {"n2+n3": 0.9, "n1+n2+n3": 0.9})
    found, _ = recover(world, tmp_path, monkeypatch, device="pi5", qat="off")
    (mixed,) = found["recovery"]
    assert asked == [("pi5", "mse")]
    assert (mixed["unit"], mixed["costs"], mixed["measured"]["device"]) == ("us", "measured", "pi5")
    assert mixed["float_layers"] == ["n3"]  # free, as measured; by work all would cost the same
    assert not world.warnings


def test_a_device_that_cannot_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: without a measurement the counted work orders the layers, and warning and record say why."""

    def lost(*_: object) -> None:
        raise DeviceLost("device 'pi5' does not answer", "no route to host", "switch it on")

    monkeypatch.setattr(FloatCost, "measured", lost)
    world = World(MIXED)
    found, _ = recover(world, tmp_path, monkeypatch, device="pi5", qat="off")
    (mixed,) = found["recovery"]
    assert (mixed["unit"], mixed["costs"], mixed["kept"]) == ("MACs", "counted", True)
    assert "does not answer" in mixed["why"]
    assert len(world.warnings) == 1
