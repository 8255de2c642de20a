"""bundle: the chosen engine with golden vectors, device program and manifest; verified before it counts as made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import Bundle, CandidateBuild, DatasetInfo
from pipeline.candidates import profile_of, runtime_version
from pipeline.data import DataSource
from pipeline.lineage import Ancestor
from pipeline.stages.base import Context, Stage
from pipeline.tasks import Task
from targets.profile import TargetProfile

if TYPE_CHECKING:
    import numpy.typing as npt

GOLDEN_SAMPLES: Final = 16
GOLDEN_RTOL: Final = 1e-3
FLOAT_ATOL_OF_RANGE: Final = 1e-4
INT8_STEPS: Final = 2  # other CPUs round a requantisation differently by at most a step; saturation shows as many
INT8_LEVELS: Final = 255
HALF_ATOL_OF_RANGE: Final = {
    "fp16": 5e-3,
    "bf16": 4e-2,
}  # 11 and 8 bits of significand, summed over some tens of layers
MAX_FOLDER_NAME: Final = 99  # what tar's header holds; and no system likes names that end in a dot


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleInputs:
    """The engine that ships, where it comes from, and data for its golden vectors."""

    data: DatasetInfo
    build: CandidateBuild
    lineage: tuple[Ancestor, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStage(Stage[BundleInputs]):
    """Assembles and verifies. Holds no measurement, so that the same engine gives the same bundle.

    Attributes:
        recipe_name: Name that the manifest carries.
        profile: The target.
        source: The data.
        task: What the model is for.
    """

    name = "bundle"
    version = 5
    consumes = BundleInputs
    produces = Bundle
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnxruntime")

    recipe_name: str
    profile: TargetProfile
    source: DataSource
    task: Task

    def run(self, src: BundleInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``bundle/`` and ``bundle.tar.gz``."""
        from pipeline.bundling.archive import pack_archive
        from pipeline.bundling.assemble import assemble_bundle
        from pipeline.bundling.bom import BOM_NAME, bom_bytes
        from pipeline.bundling.provenance import PROVENANCE_NAME, provenance_bytes
        from pipeline.stages.answers import answered_by, answers, stands_in
        from pipeline.stages.import_onnx import bind_to_onnx

        engine = src.build.read_json("engine.json")
        data = context.data.checked(self.source, src.data)
        golden = bind_to_onnx(data["validation"], engine).take(slice(0, GOLDEN_SAMPLES))
        profile = profile_of(src.build.node.partition(":")[2], engine["precision"], self.profile)
        instead = stands_in(src.build.folder, profile)
        outputs = answers(src.build.folder, golden, profile, context.scratch, batch_size=1)
        folder = out / "bundle"
        fields = {
            "name": self.recipe_name,
            "target": self.profile.name,
            "precision": engine["precision"],
            "versions": self._versions(str(engine["engine"])),
            "accuracy": {
                "metric": self.task.metric,
                "validation": src.build.results["accuracy"],
                **({"answers_by": src.build.results["answers_by"]} if src.build.results["answers_by"] else {}),
            },
            "profile": profile.model_dump(mode="json"),
        }
        shares = len(data["validation"]) if self.task.metric == "accuracy" else None
        assemble_bundle(
            folder,
            build_folder=src.build.folder,
            golden_inputs=dict(golden.inputs),
            golden_outputs=outputs,
            rtol=GOLDEN_RTOL,
            atol={name: golden_atol(array, engine["precision"]) for name, array in outputs.items()},
            manifest_fields=fields,
            papers=lambda files: {
                PROVENANCE_NAME: provenance_bytes(files, src.lineage, name=self.recipe_name, target=self.profile.name),
                BOM_NAME: bom_bytes(files, src.lineage, engine=engine, fields=fields, samples=shares),
            },
            answers_by=answered_by(src.build.folder, profile),
        )
        top = f"{self.recipe_name}-{self.profile.name}"[:MAX_FOLDER_NAME].rstrip(".")
        pack_archive(folder, out / "bundle.tar.gz", top=top)
        size = sum(file.stat().st_size for file in folder.iterdir())
        return {
            "precision": engine["precision"],
            "engine": engine["engine"],
            "build_on_device": bool(engine.get("build_on_device")),
            "not_run_here": instead,
            "size_bytes": size,
            "archive_bytes": (out / "bundle.tar.gz").stat().st_size,
        }

    def _versions(self, engine: str) -> dict[str, str]:
        found = {name: metadata.version(name) for name in ("edgepress", *self.tools)}
        runtime = runtime_version(engine)
        return {**found, engine: runtime} if runtime else found

    def verify(self, src: BundleInputs, out: Path, results: Mapping[str, Any]) -> None:
        """Verifies the archive as its receiver would: unpacked, re-hashed, and where it runs here, run."""
        from pipeline.bundling.verify import verify_bundle

        own = {str(src.build.read_json("engine.json")["sha256"])}
        verify_bundle(out / "bundle.tar.gz", run_engine=not results["not_run_here"], trusted=own)


def golden_atol(outputs: npt.NDArray[Any], precision: str) -> float:
    """The absolute error that an output may have on another machine, from what it is here."""
    import numpy as np

    values = outputs.astype(np.float64)  # an output may be bool, or an integer that overflows
    if precision.startswith("int"):
        return float(INT8_STEPS * (values.max() - values.min()) / INT8_LEVELS)
    share = HALF_ATOL_OF_RANGE.get(precision, FLOAT_ATOL_OF_RANGE)
    return float(share * max(1e-6, np.abs(values).max()))
