"""bundle: the chosen engine with golden vectors, device program and manifest; verified before it counts as made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from pipeline.artifacts import Bundle, CandidateBuild, DatasetInfo
from pipeline.data import DataSource
from pipeline.stages.base import Context, Stage
from pipeline.tasks import TASKS
from targets.profile import TargetProfile

if TYPE_CHECKING:
    import numpy.typing as npt

GOLDEN_SAMPLES: Final = 16
GOLDEN_RTOL: Final = 1e-3
FLOAT_ATOL_OF_RANGE: Final = 1e-4
INT8_STEPS: Final = 2  # other CPUs round a requantisation differently by at most a step; saturation shows as many
INT8_LEVELS: Final = 255
MAX_FOLDER_NAME: Final = 99  # what tar's header holds; and no system likes names that end in a dot


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleInputs:
    """The engine that ships, and data for its golden vectors."""

    data: DatasetInfo
    build: CandidateBuild


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStage(Stage[BundleInputs]):
    """Assembles and verifies. Holds no measurement, so that the same engine gives the same bundle.

    Attributes:
        recipe_name: Name that the manifest carries.
        profile: The target.
        source: The data.
        task: Name of the task.
    """

    name = "bundle"
    version = 1
    consumes = BundleInputs
    produces = Bundle
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnxruntime")

    recipe_name: str
    profile: TargetProfile
    source: DataSource
    task: str

    def run(self, src: BundleInputs, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes ``bundle/`` and ``bundle.tar.gz``."""
        from pipeline.bundling.archive import pack_archive
        from pipeline.bundling.assemble import assemble_bundle
        from pipeline.stages.import_onnx import bind_to_onnx
        from pipeline.stages.inference import run_engine

        engine = src.build.read_json("engine.json")
        data = context.data.checked(self.source, src.data)
        golden = bind_to_onnx(data["validation"], engine).take(slice(0, GOLDEN_SAMPLES))
        outputs = run_engine(src.build.folder, golden, context.scratch, batch_size=1)
        folder = out / "bundle"
        assemble_bundle(
            folder,
            build_folder=src.build.folder,
            golden_inputs=dict(golden.inputs),
            golden_outputs=outputs,
            rtol=GOLDEN_RTOL,
            atol={name: golden_atol(array, engine["precision"]) for name, array in outputs.items()},
            manifest_fields={
                "name": self.recipe_name,
                "target": self.profile.name,
                "precision": engine["precision"],
                "versions": {name: metadata.version(name) for name in ("edgepress", *self.tools)},
                "accuracy": {"metric": TASKS[self.task].metric, "validation": src.build.results["accuracy"]},
                "profile": self.profile.model_dump(mode="json"),
            },
        )
        top = f"{self.recipe_name}-{self.profile.name}"[:MAX_FOLDER_NAME].rstrip(".")
        pack_archive(folder, out / "bundle.tar.gz", top=top)
        size = sum(file.stat().st_size for file in folder.iterdir())
        return {
            "precision": engine["precision"],
            "size_bytes": size,
            "archive_bytes": (out / "bundle.tar.gz").stat().st_size,
        }

    def verify(self, src: BundleInputs, out: Path, results: Mapping[str, Any]) -> None:
        """Verifies the archive as its receiver would: unpacked, re-hashed, run in a fresh process."""
        from pipeline.bundling.verify import verify_bundle

        del src, results
        verify_bundle(out / "bundle.tar.gz")


def golden_atol(outputs: npt.NDArray[Any], precision: str) -> float:
    """The absolute error that an output may have on another machine, from what it is here."""
    import numpy as np

    values = outputs.astype(np.float64)  # an output may be bool, or an integer that overflows
    if precision == "int8":
        return float(INT8_STEPS * (values.max() - values.min()) / INT8_LEVELS)
    return float(FLOAT_ATOL_OF_RANGE * max(1e-6, np.abs(values).max()))
