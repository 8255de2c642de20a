"""What brings an int8 model back above its accuracy floor: training it, then single layers in float."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from targets.errors import DiskFailure, EdgepressError
from targets.words import counted

if TYPE_CHECKING:
    from calibration.sensitivity import Unit
    from pipeline.artifacts import OnnxModel
    from pipeline.data import Dataset
    from pipeline.recipe import QatSection, QuantizeSection
    from pipeline.stages.base import Context
    from pipeline.tasks import Task
    from targets.process import Limits
    from targets.profile import TargetProfile


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Judges an int8 model on the validation split, by the engine that would ship.

    Attributes:
        request: What the model was quantised with, as `calibration.child.quantize_in_child` takes it.
        limits: Of each child.
        section: What may be done.
        accuracy_drop: Largest loss against the reference.
        profile: The target.
        task: What the model is for.
        reference: The uncompressed float model.
        data: The data set.
        context: Of the stage.
        modules: Node or tensor -> the user's module, where known.
        device: Name of the device that tells what float costs in a layer; None where nothing is to be measured.
    """

    request: Mapping[str, Any]
    limits: Limits
    section: QuantizeSection
    accuracy_drop: float
    profile: TargetProfile
    task: Task
    reference: OnnxModel
    data: Dataset
    context: Context
    modules: Mapping[str, str]
    device: str | None = None

    def run(self, folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Scores the model in ``folder`` and, where it misses the floor, replaces it by a better one.

        Args:
            folder: What `calibration.child.quantize_in_child` wrote.
            summary: What it returned.

        Returns:
            ``accuracy``; where it could miss the floor, also ``accuracy_floor`` and ``recovery``: what was tried; and
            figures of ``summary`` that training or mixed precision changed.
        """
        accuracy = self._score(folder / "model.onnx", "int8")
        asked = self.section.qat == "on"
        if not asked and (self._cannot_miss(accuracy) or {self.section.qat, self.section.mixed_precision} == {"off"}):
            return self.task.named(accuracy)
        floor = self._reference_accuracy() - self.accuracy_drop
        tried: list[dict[str, Any]] = []
        changed: dict[str, Any] = {}
        lost = accuracy < floor and self._float_is_below(floor)  # training and layers in float lead to that model
        if asked or (
            self.section.qat == "auto" and accuracy < floor and (not lost or self.section.training.label_weight)
        ):
            accuracy, changed = self._train(folder, accuracy, floor, tried)
        elif lost and self.section.qat == "auto":
            tried.append(_skipped("qat", accuracy))
        if self.section.mixed_precision == "auto" and accuracy < floor:
            if lost:
                tried.append(_skipped("mixed_precision", accuracy))
            else:
                mixed = self._mix(folder, summary, accuracy, floor, tried)
                accuracy, changed = mixed.get("accuracy", accuracy), changed | mixed
        return {**self.task.named(accuracy), "accuracy_floor": round(floor, 6), "recovery": tried} | changed

    def _float_is_below(self, floor: float) -> bool:
        """Whether the model that is quantised misses the floor itself; then it says so."""
        own = self._own_float_accuracy()
        if own < floor:
            text = f"the float model itself is below the floor {floor:.4f}: no int8 file of it is looked for"
            self.context.progress(0.8, text, **{self.task.metric: own})
        return own < floor

    def _cannot_miss(self, accuracy: float) -> bool:
        """Neither does the reference exceed what no model can: then it need not be run."""
        return accuracy >= self.task.best - self.accuracy_drop

    def examine(self, folder: Path, method: str, *, forecast: bool, sensitivity: str | None = None) -> dict[str, Any]:
        """Adds sensitivities to ``layers.json``; those and the forecast as `examine_in_child` gives them."""
        from targets.process import call_limited

        request = {
            **self.request,
            "method": method,
            "modules": dict(self.modules),
            "out_folder": str(folder),
            "sensitivity": sensitivity or self.section.sensitivity,
            "forecast": forecast,
        }
        what = "measuring the sensitivity of layers"
        return call_limited("calibration.child_examine:examine_in_child", request, limits=self.limits, what=what)

    def _mix(
        self, folder: Path, summary: Mapping[str, Any], before: float, floor: float, tried: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """Mixed precision: the fewest layers in float that meet the floor; made with the same method and algorithms."""
        from calibration.sensitivity import mixed_precision, read_sensitivity

        self.context.progress(
            0.85, f"looking for layers to leave float: {self.task.metric} {before:.4f}, floor {floor:.4f}"
        )
        examined = self.examine(folder, summary["method"], forecast=False, sensitivity="on")
        unit, told = self._cost(folder, str(summary["method"]), examined["sensitivity"])
        made: dict[frozenset[str], tuple[Path, float, dict[str, Any]]] = {}

        def meets(float_nodes: frozenset[str]) -> bool:
            out = self.context.scratch / f"mixed-{len(made)}"
            out.mkdir()
            found = self._quantized(out, summary, float_nodes)
            accuracy = self._score(out / "model.onnx", out.name)
            made[float_nodes] = out, accuracy, found
            text = f"{counted(len(float_nodes), 'layer')} in float"
            self.context.progress(0.9, text, **{self.task.metric: accuracy})
            return accuracy >= floor

        found = mixed_precision(read_sensitivity(folder / "layers.json", unit=unit), meets)
        chosen = None if found.float_nodes is None else made[frozenset(found.float_nodes)]
        tried.append(
            {
                "step": "mixed_precision",
                "accuracy_before": before,
                "accuracy": chosen[1] if chosen else max((one[1] for one in made.values()), default=before),
                "kept": chosen is not None,
                "float_layers": [self.modules.get(name, name) for name in found.float_nodes or ()],
                "unit": found.unit,
                **told,
                "curve": [
                    {"float_layers": len(step.float_nodes), "cost": step.cost, "accuracy": made_with[1]}
                    for step in found.curve
                    if (made_with := made.get(frozenset(step.float_nodes)))
                ],
            }
        )
        if chosen is None:
            return {}
        for name in ("model.onnx", "io.json", "calibration.json", "layers.json"):
            shutil.copyfile(chosen[0] / name, folder / name)
        return {"accuracy": chosen[1], **chosen[2]}

    def _cost(self, folder: Path, method: str, looked: Mapping[str, Any]) -> tuple[Unit, dict[str, Any]]:
        """Puts measured costs into ``layers.json`` where the device tells them; the unit, and how they were found."""
        from pipeline.stages.floatcost import FloatCost, told_of

        plain = {"costs": looked["costs"]}
        if self.device is None:
            return looked["unit"], plain
        (work := self.context.scratch / "costs").mkdir()
        rows = json.loads((folder / "layers.json").read_text("utf-8"))
        cost = FloatCost(
            request=self.request, limits=self.limits, profile=self.profile, device=self.device, folder=work
        )
        text = f"measuring what float costs in each layer on {self.device}"
        try:
            costs, measured = cost.measured(
                rows, method, lambda share: self.context.progress(0.82 + 0.05 * share, text)
            )
        except EdgepressError as error:
            if isinstance(error, DiskFailure):
                raise
            self.context.warn(f"mixed precision takes costs that are {looked['costs']}: {told_of(error)}")
            return looked["unit"], plain | {"why": told_of(error)}
        rows = [row | ({"cost": costs[row["node"]]} if row["node"] in costs else {}) for row in rows]
        (folder / "layers.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", "utf-8")
        return "us", {"costs": "measured", "measured": measured}

    def _quantized(self, out: Path, summary: Mapping[str, Any], float_nodes: frozenset[str]) -> dict[str, Any]:
        from targets.process import call_limited

        request = {
            **self.request,
            "method": summary["method"],
            "algorithms": summary["algorithms"],
            "float_nodes": sorted(float_nodes),
            "out_folder": str(out),
        }
        what = "quantisation with layers in float"
        found = call_limited("calibration.child:quantize_in_child", request, limits=self.limits, what=what)
        return {name: found[name] for name in ("int8_nodes", "float_nodes", "output_snr_db", "agreement")}

    def _train(
        self, folder: Path, before: float, floor: float, tried: list[dict[str, Any]]
    ) -> tuple[float, dict[str, Any]]:
        """Quantisation-aware training; kept when it learned something and accuracy does not fall."""
        from pipeline.stages.watching import Watch, hearing
        from targets.process import call_limited

        self.context.progress(0.8, f"training the int8 model: {self.task.metric} {before:.4f}, floor {floor:.4f}")
        out = self.context.scratch / "trained.onnx"
        section = self.section.training
        if self.section.qat_epochs is not None:
            section = section.model_copy(update={"epochs": self.section.qat_epochs})
        summary: dict[str, Any] = call_limited(
            "pipeline.training.quantized:train_in_child",
            {
                **self.request,
                "parent": self.request["float_out"],
                "quantized": str(folder / "model.onnx"),
                "training": str(self._samples("train", shuffled=True)),
                "validation": str(self._samples("validation", shuffled=False)),
                "task": self.task.name,
                "metric": "" if self.task.metric in self.task.functions else self.task.metric,
                "section": section.model_dump(mode="json"),
                "checkpoints": self._checkpoints(folder / "model.onnx"),
                "out": str(out),
            },
            limits=self.limits,
            what="quantisation-aware training",
            hear=hearing(
                lambda begin: Watch(
                    self.context, epochs=begin["epochs"], steps=begin["steps"], metric=begin["metric"],
                    name="training the int8 model, ", share=(0.8, 0.85),
                )
            ),
        )  # fmt: skip
        learned = summary["kept_epoch"] != 0
        accuracy = self._score(out, "trained") if learned else before
        kept = learned and accuracy >= before
        asked = {"epochs": section.epochs, "stopped": self._stopped(summary["epochs_run"], section)}
        tried.append({"step": "qat", "accuracy_before": before, "accuracy": accuracy, "kept": kept, **asked, **summary})
        if not kept:
            return before, {}
        shutil.copyfile(out, folder / "model.onnx")
        return accuracy, {name: summary[name] for name in ("output_snr_db", "agreement")}

    def _stopped(self, epochs_run: int, section: QatSection) -> str:
        """Why training ended before its epochs, which it then also tells; empty where it did not."""
        if epochs_run >= section.epochs:
            return ""
        why = "patience" if section.patience is not None else f"quantize.time_budget_s = {self.section.time_budget_s:g}"
        self.context.progress(0.85, f"training ended after {epochs_run} of {section.epochs} epochs: {why}")
        return why

    def _checkpoints(self, quantized: Path) -> str:
        """Of the training of this very file: what quantised it within a time budget may give another next time."""
        from targets.files import sha256_file

        if self.context.unfinished is None:
            return ""
        return str(self.context.unfinished / f"qat-{sha256_file(quantized)[:16]}")

    def _samples(self, name: str, *, shuffled: bool) -> Path:
        """A split with its labels; the calibration samples, which have none there, where there is no train split."""
        import numpy as np

        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import save_arrays

        if name == "train" and name not in self.data.splits:
            return Path(self.request["samples"])
        split = bind_to_onnx(self.data[name], self.reference.read_json("io.json"))
        if shuffled:
            split = split.take(np.random.default_rng(self.request["seed"]).permutation(len(split)))
        path = self.context.scratch / f"{name}-labelled.npz"
        labels = {} if split.labels is None else {"labels.": split.labels}
        save_arrays(path, {**split.inputs, **labels})
        return path

    def _reference_accuracy(self) -> float:
        return self._float_accuracy(self.reference.model, "reference")

    def _own_float_accuracy(self) -> float:
        """Of the model that is quantised, which may be a pruned one."""
        return self._float_accuracy(Path(str(self.request["model"])), "own-float")

    def _float_accuracy(self, model: Path, name: str) -> float:
        from pipeline.stages.inference import build_engine

        engine = self.context.scratch / name
        if not engine.exists():
            build_engine(model, self.profile, "fp32", engine)
        return self._evaluate(engine)

    def _score(self, model: Path, name: str) -> float:
        from pipeline.stages.inference import build_engine

        engine = self.context.scratch / f"engine-{name}"
        build_engine(model, self.profile, "int8", engine)
        return self._evaluate(engine)

    def _evaluate(self, engine: Path) -> float:
        from pipeline.stages.evaluate import evaluate

        return evaluate(engine, "validation", self.reference, self.profile, self.task, self.data, self.context.scratch)


def _skipped(step: str, accuracy: float) -> dict[str, Any]:
    return {
        "step": step,
        "accuracy_before": accuracy,
        "kept": False,
        "reason": "the float model itself is below the floor",
    }
