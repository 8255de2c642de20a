"""The int8 file that was chosen, kept while it is trained: who interrupts that need not choose anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from targets.files import replace_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.stages.base import Context

_FLOAT: Final = "float.onnx"
_SUMMARY: Final = "summary.json"


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """What `calibration.child.quantize_in_child` wrote and returned, in the unfinished folder of its stage.

    The folder is that of the stage's key, hence of this model, these samples and settings; it goes when the stage is
    published.

    Attributes:
        folder: Where it lies, whole or not at all; None where nothing outlives the run.
    """

    folder: Path | None

    @classmethod
    def of(cls, context: Context) -> Chosen:
        """That of a running stage."""
        return cls(None if context.unfinished is None else context.unfinished / "chosen")

    def keep(self, out: Path, float_model: Path, summary: Mapping[str, Any]) -> None:
        """Copies the files of ``out`` and the float model that they were made from."""
        if self.folder is None:
            return
        part = self.folder.with_name(f"{self.folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(out, part / "out")
        shutil.copyfile(float_model, part / _FLOAT)
        (part / _SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
        replace_folder(part, self.folder)

    def restore(self, out: Path, float_model: Path) -> dict[str, Any] | None:
        """Puts the files where they were and returns the summary; None where nothing was kept."""
        if self.folder is None or not self.folder.is_dir():
            return None
        shutil.copytree(self.folder / "out", out, dirs_exist_ok=True)
        shutil.copyfile(self.folder / _FLOAT, float_model)
        found: dict[str, Any] = json.loads((self.folder / _SUMMARY).read_text("utf-8"))
        return found
