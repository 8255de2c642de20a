"""What passes between stages: a typed view of one folder each. The layouts stand here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A finished folder of a stage.

    Attributes:
        node: Name of the plan's node that made it, e.g. ``build:int8``.
        folder: Where its files lie, read-only.
        digest: Content digest over files and results.
        results: The stage's small results.
        wall_s: Seconds it took to make.
    """

    node: str
    folder: Path
    digest: str
    results: Mapping[str, Any]
    wall_s: float

    def read_json(self, name: str) -> Any:  # noqa: ANN401 - each document has a layout of its own
        """The JSON document ``name`` of the folder."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


@final
class DatasetInfo(Artifact):
    """``info.json``: per split the number of samples and a content hash; input names, dtypes and shapes; classes."""

    __slots__ = ()


@final
class TorchModel(Artifact):
    """``model.json`` (inputs, edits) and ``weights.safetensors``: replayed on the user's factory."""

    __slots__ = ()

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.folder / "weights.safetensors"


@final
class TeacherAnswers(Artifact):
    """``answers.safetensors``: a teacher's outputs for the train split, ``(N, ...)`` each, by number."""

    __slots__ = ()

    @property
    def file(self) -> Path:
        """The answers; without arrays where they would have been too large."""
        return self.folder / "answers.safetensors"


@final
class LatencyTable(Artifact):
    """``table.json``: nets of other widths as measured on the target, and the model of latency fitted to them."""

    __slots__ = ()


@final
class WidthPlan(Artifact):
    """``widths.json``: units that each group of channels keeps."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxModel(Artifact):
    """``model.onnx`` and ``io.json``."""

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.folder / "model.onnx"


@final
class QuantizedModel(OnnxModel):
    """An `OnnxModel` with explicit Q/DQ, and ``calibration.json``, ``layers.json``."""

    __slots__ = ()


@final
class CalibrationResult(Artifact):
    """``calibration.json``: the ranges of a float model by every method."""

    __slots__ = ()

    @property
    def table(self) -> Path:
        """The table."""
        return self.folder / "calibration.json"


@final
class CandidateBuild(Artifact):
    """An engine's folder: engine file, ``engine.json``, ``inspect.json``."""

    __slots__ = ()


@final
class Measurement(Artifact):
    """``benchmark.json``: one interleaved campaign, raw samples included."""

    __slots__ = ()


@final
class LayerTimes(Artifact):
    """``layers.json``: time of each node of the engine that ships, and what bounds it; none where results say why."""

    __slots__ = ()


@final
class Verdict(Artifact):
    """``verdict.json``: which candidate ships, and why."""

    __slots__ = ()


@final
class Bundle(Artifact):
    """``bundle/`` and ``bundle.tar.gz``."""

    __slots__ = ()


@final
class Report(Artifact):
    """``run.json`` and ``report.html``."""

    __slots__ = ()
