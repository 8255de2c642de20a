"""benchmark: one interleaved campaign over all candidates, each run in a fresh process of the device program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

from pipeline.artifacts import CandidateBuild, DatasetInfo, Measurement
from pipeline.candidates import profile_of
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from targets.errors import DeviceError
from targets.profile import TargetProfile

if TYPE_CHECKING:
    from pipeline.benchmarking.devicebuild import Made
    from pipeline.benchmarking.request import Entrant
    from pipeline.data import Split
    from targets.devices.base import Device

SAMPLES: Final = 64
_ACCURACY_SHARE: Final = 0.3  # of the progress shown


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkInputs:
    """The engines in order of challenge, the uncompressed one first, and data to feed them."""

    data: DatasetInfo
    builds: tuple[CandidateBuild, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkStage(Stage[BenchmarkInputs]):
    """Measures. Its outcome is a measurement: kept, reused, and different on every device.

    A device that is lost ends the stage; what it had finished is kept, and the next run goes on from there.

    Attributes:
        source: The data.
        profile: The target.
        task: What the model is for.
        device: Name of the device that is measured.
        fingerprint: What that device is.
        mode: How thorough.
        budget_s: Wall clock of the campaign.
        accuracy_on_device: Whether the validation split is scored there too.
        seed: Seed of the order within blocks.
        required: Candidates that the recipe names: all of them must be measured.
        ceilings: What the gate looks at beside accuracy and latency: ``memory``, ``size``, ``tail``, ``energy``.
        energy: Whether joules are measured too, after the campaign.
    """

    name = "benchmark"
    version = 4
    consumes = BenchmarkInputs
    produces = Measurement
    measured = True
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime", "numpy")

    source: DataSource
    profile: TargetProfile
    task: Task
    device: str
    fingerprint: str
    mode: Literal["quick", "default", "rigorous"]
    budget_s: float
    accuracy_on_device: bool
    seed: int
    required: tuple[str, ...] = ()
    ceilings: tuple[str, ...] = ()
    energy: bool = False

    def run(self, src: BenchmarkInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``benchmark.json`` and all raw samples; its ``unmeasured`` says which candidates are not, and why."""
        from pipeline.benchmarking.campaign import run_campaign
        from pipeline.benchmarking.request import CampaignOptions
        from pipeline.stages.import_onnx import bind_to_onnx
        from targets.devices import device
        from targets.devices.held import HeldDevice

        data = context.data.checked(self.source, src.data)
        split = bind_to_onnx(data["validation"], src.builds[0].read_json("engine.json"))
        target = device(self.device)
        builds, unmeasured = self._measurable(src.builds, target)
        comparable = self.task.needs_labels or builds[0] is src.builds[0]
        if self.accuracy_on_device and not comparable:
            context.warn(
                f"{self.task.metric} is not measured on {self.device}: the engine to compare with does not run there"
            )
        wanted = self.accuracy_on_device and comparable
        made: Made = {}
        with target.session() as session:  # one for both: what the device builds for the first serves the second
            held = HeldDevice(target, session)
            accuracy = self._accuracy(builds, split, held, context, made) if wanted else {}
            begin = _ACCURACY_SHARE if accuracy else 0.0
            entrants = self._entrants(builds, split, context.scratch, accuracy)
            campaign = run_campaign(
                entrants,
                held,
                CampaignOptions(
                    budget_s=self.budget_s,
                    seed=self.seed,
                    mode=self.mode,
                    affinity=self.profile.device.affinity,
                    memory_limit_mb=self.profile.device.memory_limit_mb,
                ),
                state=context.state,
                raw_path=out / "raw.json.gz",
                required=self.required,
                made=made,
                on_progress=lambda at: context.progress(
                    min(1.0, begin + (1 - begin) * at.elapsed_s / at.budget_s), f"block {at.block + 1}: {at.engine}"
                ),
            )
        unmeasured |= campaign.get("unmeasured", {})
        for name, found in unmeasured.items():
            context.warn(f"{name} is not measured: {found['what']}: {found['why']}; {found['fix']}")
        for name, engine in campaign["engines"].items():
            for text in engine.get("built_on_device", {}).get("warnings", ()):
                context.warn(f"{name} as built on {self.device}: {text}")
        energy = self._energy(entrants, target, context) if self.energy else {}
        document = {**campaign, "accuracy_on_device": accuracy, "unmeasured": unmeasured, "energy": energy}
        (out / "benchmark.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return {
            "device": self.device,
            "mode": self.mode,
            "blocks": campaign["campaign"]["blocks"],
            "stop": campaign["campaign"]["stop"],
            "quality": campaign["quality"]["grade"],
            "latencies_ms": {name: result["latency_ms"]["value"] for name, result in campaign["results"].items()},
            "accuracies_on_device": {name: found["value"] for name, found in accuracy.items()},
            "unmeasured": {name: f"{found['what']}: {found['why']}" for name, found in unmeasured.items()},
        }

    def _measurable(
        self, builds: Sequence[CandidateBuild], target: Device
    ) -> tuple[list[CandidateBuild], dict[str, dict[str, str]]]:
        """The engines that run on the device, and of the others what, why and fix, by name.

        Raises:
            DeviceError: One that the recipe names does not run there, or none does.
        """
        from pipeline.benchmarking.measurable import why_not

        missing = why_not(builds, self.profile, target)
        for name, found in missing.items():
            if name in self.required or len(missing) == len(builds):
                raise DeviceError(found["what"], found["why"], found["fix"])
        return [build for build in builds if candidate_name(build) not in missing], missing

    def _accuracy(
        self, builds: Sequence[CandidateBuild], split: Split, target: Device, context: Context, made: Made
    ) -> dict[str, dict[str, Any]]:
        from pipeline.benchmarking.accuracy import Labelled, score_on_device

        return score_on_device(
            {candidate_name(build): build.folder for build in builds},
            Labelled(inputs=split.inputs, labels=split.labels),
            self.task,
            target,
            context.scratch,
            required=self.required,
            made=made,
            on_share=lambda done, name: context.progress(_ACCURACY_SHARE * done, f"scoring {name} on {self.device}"),
        )

    def _energy(self, entrants: Sequence[Entrant], target: Device, context: Context) -> dict[str, dict[str, Any]]:
        """Joules of one inference of each engine; without a sensor the reason."""
        from pipeline.benchmarking.energy import measure_energy

        found = {}
        for number, entrant in enumerate(entrants):
            context.progress(number / len(entrants), f"energy of {entrant.name}")
            found[entrant.name] = measure_energy(entrant, target, affinity=self.profile.device.affinity)
            if found[entrant.name]["grade"] == "E":
                context.warn(f"no energy of {entrant.name} on {self.device}: {found[entrant.name]['reason']}")
                break  # one device, one sensor
        return found

    def _entrants(
        self,
        builds: Sequence[CandidateBuild],
        split: Split,
        scratch: Path,
        scored: Mapping[str, Mapping[str, Any]],
    ) -> list[Entrant]:
        from pipeline.benchmarking.request import Entrant, Standing
        from pipeline.stages.expected import write_expected
        from pipeline.stages.inference import save_inputs

        timed = split.take(slice(0, SAMPLES))
        samples = scratch / "samples.npz"
        save_inputs(samples, timed)
        entrants = []
        for index, build in enumerate(builds):
            expected = scratch / f"expected-{index}.npz"
            own = profile_of(candidate_name(build), build.results["precision"], self.profile)
            write_expected(build, timed, own, scratch, expected)
            name = candidate_name(build)
            standing = Standing(
                accuracy=float(scored[name]["value"] if name in scored else build.results["accuracy"]),
                size_bytes=int(build.results["size_bytes"]) if "size" in self.ceilings else 0,
                memory_counts="memory" in self.ceilings,
                may_leave=index > 0 and name not in self.required and not {"tail", "energy"} & set(self.ceilings),
            )
            entrants.append(
                Entrant(name=name, folder=build.folder, samples=samples, expected=expected, standing=standing)
            )
        return entrants


def candidate_name(build: CandidateBuild) -> str:
    """``int8`` for the node ``build:int8``."""
    return build.node.partition(":")[2]
