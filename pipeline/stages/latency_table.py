"""latency_table: what the model takes on the target at other widths, measured on few whole nets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

from pipeline.artifacts import DatasetInfo, LatencyTable, TorchModel
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.usercode import FactoryRef
from targets.profile import TargetProfile

TIMED_ENGINES: Final = ("onnxruntime", "openvino")
"""Engines whose runtime times its layers."""

_BUILDING, _TIMING = 0.5, 0.9  # of the progress shown
_SAMPLES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTableInputs:
    """The model before pruning, and data to time it on."""

    data: DatasetInfo
    model: TorchModel


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTableStage(Stage[LatencyTableInputs]):
    """Measures. It depends on no target of pruning: one table serves all of them.

    Attributes:
        factory: Makes the model.
        source: The data.
        profile: The target; its engine of first choice is measured.
        precision: What ships.
        nets: How many nets are measured.
        protect: Module paths whose channels stay.
        statistics: Whether channels under a statistic may go.
        opset: ONNX operator set.
        device: Name of the device that is measured.
        fingerprint: What that device is.
        seed: Of the widths measured and their order.
        threads: torch threads.
    """

    name = "latency_table"
    version = 2
    consumes = LatencyTableInputs
    produces = LatencyTable
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("torch", "numpy", "onnx", "onnxruntime")

    factory: FactoryRef
    source: DataSource
    profile: TargetProfile
    precision: Literal["fp32", "int8"]
    nets: int
    protect: tuple[str, ...]
    statistics: Literal["whole", "leave_out"]
    opset: int
    device: str
    fingerprint: str
    seed: int
    threads: int

    def run(self, src: LatencyTableInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``table.json``: widths and times of all nets, the model fitted to them, and how well it fits."""
        import time

        import numpy as np

        from pipeline.latency.design import design
        from pipeline.latency.layers import anatomy
        from pipeline.latency.measure import measure_nets
        from pipeline.latency.model import errors, fit, held_out_errors, model_to_json
        from pipeline.latency.nets import NetBuilder
        from pipeline.pruning import find_groups, prunable_groups, width_choices
        from pipeline.torchmodel import example_inputs, load_model
        from targets.devices import device

        begin_s = time.monotonic()
        plain = self.profile.choices()[""]
        gm, specs, _ = load_model(src.model, self.factory, self.seed)
        graph = find_groups(gm, statistics=self.statistics)
        alignment = self.profile.pruning.channel_alignment
        choices = {group.name: width_choices(group, alignment) for group in prunable_groups(graph, self.protect)}
        shape, nets = anatomy(gm, graph, choices), design(choices, self.nets, self.seed)
        data = context.data.checked(self.source, src.data)
        samples = data["validation"].bound(tuple(spec.name for spec in specs)).take(slice(0, _SAMPLES))
        builder = NetBuilder(
            gm=gm, graph=graph, example=example_inputs(specs, batch=1), samples=samples.inputs,
            profile=plain, precision=self.precision, opset=self.opset, scratch=context.scratch,
        )  # fmt: skip
        engines = builder.build_all(
            nets,
            lambda done: context.progress(_BUILDING * done / len(nets), f"building net {done} of {len(nets)}"),
        )
        with device(self.device).session() as session:
            times, kinds = measure_nets(
                session, engines, nets, builder.samples_npz, affinity=self.profile.device.affinity, seed=self.seed,
                on_done=lambda done, runs: context.progress(
                    _BUILDING + (_TIMING - _BUILDING) * done / runs, f"timing nets, run {done} of {runs}"
                ),
            )  # fmt: skip
        model = fit(shape, times, kinds)
        held = np.abs(held_out_errors(shape, times, kinds))
        own = np.abs(errors(model, times))
        document = {
            "schema": 1,
            "precision": self.precision,
            "nets": [{"widths": n.widths, "layers_ms": n.layers_ms, "total_ms": n.total_ms} for n in times],
            "kinds": kinds,
            "model": model_to_json(model),
        }
        (out / "table.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return {
            "precision": self.precision,
            "device": self.device,
            "nets": len(nets),
            "dense_ms": times[0].total_ms,
            "least_ms": times[1].total_ms,
            "fit_error_mean_ratio": round(float(own.mean()), 4),
            "unseen_error_mean_ratio": round(float(held.mean()), 4),
            "unseen_error_worst_ratio": round(float(held.max()), 4),
            "measuring_s": round(time.monotonic() - begin_s, 1),
        }
