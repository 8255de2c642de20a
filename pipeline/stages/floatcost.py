"""What leaving a layer in float costs on the target: measured there where that can be, else predicted or counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from targets.errors import DeviceError, EdgepressError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.benchmarking.layercost import MeasuredCosts
    from targets.process import Limits
    from targets.profile import TargetProfile

SAMPLES: Final = 32
MOST_LAYERS: Final = 24
"""Layers that are measured, those first whose float gives back most; all others cost what their work would there."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FloatCost:
    """Measures on the target's device.

    Attributes:
        request: What the model was quantised with.
        limits: Of each child.
        profile: The target, with the one engine.
        device: Name of the device.
        folder: An empty folder for files in passing.
    """

    request: Mapping[str, Any]
    limits: Limits
    profile: TargetProfile
    device: str
    folder: Path

    def measured(
        self, rows: Sequence[Mapping[str, Any]], method: str, on_share: Callable[[float], None]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Microseconds by node for every row with a sensitivity, and what to tell of how they were found.

        Args:
            rows: Of ``layers.json``, sensitivities included; ``cost`` counts work in any one unit.
            method: Range method.
            on_share: Told the share that is done.

        Raises:
            InputError: There is nothing to measure, or the model cannot be built.
            DeviceError: The device cannot be had, or measures nothing.
        """
        asked = [row for row in rows if "sensitivity_db" in row]
        worthy = sorted((row for row in asked if row["spared_db"] > 0), key=lambda row: -row["spared_db"])[:MOST_LAYERS]
        if not worthy:
            raise InputError("no layer gives anything back in float", "nothing is to be measured", "train the model")
        layers = [str(row["node"]) for row in worthy]
        found = self._campaign(layers, spared_nodes(rows), method, on_share)
        costs = {name: cost.us for name, cost in found.layers.items()}
        work = {str(row["node"]): float(row["macs"]) for row in asked}
        rate = max(0.0, sum(costs.values())) / max(1.0, sum(work[name] for name in layers))
        others = {name: round(rate * macs, 3) for name, macs in work.items() if name not in costs}
        told = {
            "device": found.device,
            "blocks": found.blocks,
            "int8_us": found.whole_us,
            "layers": {name: [cost.us, cost.low_us, cost.high_us] for name, cost in found.layers.items()},
            "by_work": sorted(others),
        }
        return costs | others, told

    def _campaign(
        self, layers: Sequence[str], always: Sequence[str], method: str, on_share: Callable[[float], None]
    ) -> MeasuredCosts:
        from pipeline.benchmarking.layercost import measure_costs
        from pipeline.stages.answers import stands_in
        from pipeline.stages.inference import build_engine
        from targets.devices import device
        from targets.process import call_limited

        variants = self.folder / "variants"
        variants.mkdir()
        request = {**self.request, "method": method, "out_folder": str(variants), "layers": [*layers]}
        request["float_nodes"] = sorted(always)
        what = "quantisation with single layers in float"
        made: Mapping[str, Any] = call_limited(
            "calibration.child_variants:variants_in_child", request, limits=self.limits, what=what
        )
        engines: dict[str, Path] = {}
        files: Mapping[str, str] = made["files"]
        for number, (layer, name) in enumerate(files.items()):
            engines[layer] = self.folder / f"variant-{number}"
            build_engine(variants / name, self.profile, "int8", engines[layer])
            on_share(0.5 * (number + 1) / len(files))
            if json.loads((engines[layer] / "engine.json").read_text("utf-8")).get("build_on_device"):
                raise DeviceError(
                    "the engine of each layer would be built on the device",
                    f"{len(layers)} builds of minutes each",
                    "costs are counted in multiply-accumulates instead",
                )
        if self.device == "local" and (why := stands_in(engines["whole"], self.profile)):
            raise DeviceError("the engine does not run here", why, "name a device that runs it: --device NAME")
        whole = engines.pop("whole")
        return measure_costs(
            whole,
            engines,
            self._samples(),
            device(self.device),
            seed=int(str(self.request["seed"])),
            affinity=self.profile.device.affinity,
            memory_limit_mb=self.profile.device.memory_limit_mb,
            on_share=lambda share: on_share(0.5 + 0.5 * share),
        )

    def _samples(self) -> Path:
        """A few samples: what is timed takes as long with any."""
        import numpy as np

        from pipeline.stages.inference import save_arrays

        path = self.folder / "samples.npz"
        with np.load(str(self.request["samples"]), allow_pickle=False) as archive:
            save_arrays(path, {name: archive[name][:SAMPLES] for name in archive.files})
        return path


def spared_nodes(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The nodes that a step before left in float on purpose, by their rows of ``layers.json``."""
    from calibration.rules_reasons import ON_REQUEST

    return tuple(str(row["node"]) for row in rows if row.get("reason") == ON_REQUEST)


def told_of(error: EdgepressError) -> str:
    """Why nothing was measured, in one line."""
    return f"not measured: {error.what} ({error.why})"
