"""layers: time of each node of what ships, taken once, after the campaign and apart from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import CandidateBuild, DatasetInfo, LayerTimes, Measurement
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from targets.errors import DiskFailure, EdgepressError, Interrupted
from targets.profile import TargetProfile

ITERATIONS: Final = range(10, 201)
LOOP_S: Final = 1.5
_SAMPLES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersInputs:
    """The engine that ships, how long it takes, and data to feed it."""

    data: DatasetInfo
    measurement: Measurement
    build: CandidateBuild


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayersStage(Stage[LayersInputs]):
    """Profiles. It decides nothing: where it fails, the run goes on, and its results say why there are no times.

    Attributes:
        source: The data.
        profile: The target.
        device: Name of the device.
        fingerprint: What that device is.
    """

    name = "layers"
    version = 1
    consumes = LayersInputs
    produces = LayerTimes
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")

    source: DataSource
    profile: TargetProfile
    device: str
    fingerprint: str

    def run(self, src: LayersInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``layers.json``; returns whose layers they are and the sums, or ``why`` there are none."""
        from pipeline.stages.benchmark import candidate_name

        told = {"candidate": candidate_name(src.build), "device": self.device}
        try:
            found = self._profiled(src, told["candidate"], context)
        except (DiskFailure, Interrupted):
            raise
        except EdgepressError as error:
            return {**told, "why": f"{error.what}: {error.why}"}
        (out / "layers.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sums = ("wall_ns", "outside_ns", "pct", "bound_by", "iterations", "calibration_noisy")
        return {**told, "nodes": len(found["layers"]), **{name: found[name] for name in sums}}

    def _profiled(self, src: LayersInputs, name: str, context: Context) -> dict[str, Any]:
        from pipeline.benchmarking.layers import profile_engine
        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import save_inputs
        from targets.devices import device

        data = context.data.checked(self.source, src.data)
        split = bind_to_onnx(data["validation"], src.build.read_json("engine.json"))
        samples = context.scratch / "samples.npz"
        save_inputs(samples, split.take(slice(0, _SAMPLES)))
        context.progress(0.1, f"profiling on {self.device}")
        with device(self.device).session() as session:
            return profile_engine(
                session,
                src.build.folder,
                samples,
                iterations=iterations(src.measurement.results["latencies_ms"].get(name)),
                affinity=self.profile.device.affinity,
                state=context.state,
                brief=True,
            )


def iterations(latency_ms: float | None) -> int:
    """So many inferences that a loop takes about 1.5 s, from 10 to 200."""
    wanted = ITERATIONS[-1] if latency_ms is None else round(LOOP_S * 1e3 / latency_ms)
    return min(ITERATIONS[-1], max(ITERATIONS[0], wanted))
