"""benchmark: one interleaved campaign over all candidates, each run in a fresh process of the device program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

from pipeline.artifacts import CandidateBuild, DatasetInfo, Measurement
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from targets.profile import TargetProfile

SAMPLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkInputs:
    """The engines, and data to feed them."""

    data: DatasetInfo
    builds: tuple[CandidateBuild, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkStage(Stage[BenchmarkInputs]):
    """Measures. Its outcome is a measurement: kept, reused, and different on every machine.

    Attributes:
        source: The data.
        profile: The target.
        budget_s: Wall clock of the campaign.
        seed: Seed of the order within blocks.
        device: Fingerprint of the machine that is measured.
    """

    name = "benchmark"
    version = 1
    consumes = BenchmarkInputs
    produces = Measurement
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")

    source: DataSource
    profile: TargetProfile
    budget_s: float
    seed: int
    device: str

    def run(self, src: BenchmarkInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``benchmark.json`` and all raw samples."""
        from pipeline.benchmarking.protocol import run_campaign
        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import save_inputs
        from targets.devices import device

        data = context.data.checked(self.source, src.data)
        samples = context.scratch / "samples.npz"
        split = bind_to_onnx(data["validation"], src.builds[0].read_json("engine.json"))
        save_inputs(samples, split.take(slice(0, SAMPLES)))
        campaign = run_campaign(
            {candidate_name(build): build.folder for build in src.builds},
            samples,
            device(self.profile.device.kind),
            budget_s=self.budget_s,
            seed=self.seed,
            raw_path=out / "raw.json.gz",
            on_progress=lambda at: context.progress(
                min(1.0, at.elapsed_s / at.budget_s), f"block {at.block + 1}: {at.engine}"
            ),
        )
        (out / "benchmark.json").write_text(json.dumps(campaign, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return {
            "blocks": campaign["campaign"]["blocks"],
            "stop": campaign["campaign"]["stop"],
            "quality": campaign["quality"]["grade"],
            "latencies_ms": {name: result["latency_ms"]["value"] for name, result in campaign["results"].items()},
        }


def candidate_name(build: CandidateBuild) -> str:
    """``int8`` for the node ``build:int8``."""
    return build.node.partition(":")[2]
