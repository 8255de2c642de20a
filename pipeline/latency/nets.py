"""Engines of nets with given widths, built only to be timed: which units are left does not matter for that."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from pipeline.benchmarking.modules import note_modules
from pipeline.exporting import export_onnx
from pipeline.pruning import apply_decisions
from pipeline.stages.inference import build_engine, save_arrays
from targets.process import Limits, call_limited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, fx

    from pipeline.latency.layers import Precision
    from pipeline.pruning.groups import PruningGraph
    from pipeline.pruning.widths import Widths
    from targets.profile import TargetProfile

_LIMITS: Final = Limits(timeout_s=900.0)
_INSPECT: Final = "inspect.json"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetBuilder:
    """Makes engines of one model at different widths.

    Attributes:
        gm: The model.
        graph: Its groups.
        example: One sample of each input.
        samples: Real samples: for ranges, and to be timed on.
        profile: The target, with its engine of first choice.
        precision: What ships.
        opset: ONNX operator set.
        scratch: A folder for all files.
    """

    gm: fx.GraphModule
    graph: PruningGraph
    example: Mapping[str, Tensor]
    samples: Mapping[str, np.ndarray]
    profile: TargetProfile
    precision: Precision
    opset: int
    scratch: Path

    @property
    def samples_npz(self) -> Path:
        """The samples as a file."""
        path = self.scratch / "samples.npz"
        if not path.exists():
            save_arrays(path, self.samples)
        return path

    def build_all(self, nets: Sequence[Widths], on_done: Callable[[int], None]) -> list[Path]:
        """The engine folder of each net; one is exported while the one before is built."""
        assert self.samples_npz.exists()
        first = len([*self.scratch.glob("net-*")])
        with ThreadPoolExecutor(max_workers=1) as builder:
            waiting = []
            for index, widths in enumerate(nets, start=first):
                model = self._export(widths, self.scratch / f"net-{index}")
                waiting.append(builder.submit(self._finish, model, self.scratch / f"engine-{index}"))
                on_done(index + 1 - first)
            return [future.result() for future in waiting]

    def build_graph(self, gm: fx.GraphModule, name: str) -> Path:
        """The engine of a graph as it is."""
        folder = self.scratch / name
        folder.mkdir()
        export_onnx(gm, self.example, folder, opset=self.opset, free_batch=False)
        assert self.samples_npz.exists()
        return self._finish(folder, self.scratch / f"engine-{name}")

    def _export(self, widths: Widths, folder: Path) -> Path:
        gone = {g.name: np.arange(widths[g.name], g.size) for g in self.graph.groups if g.name in widths}
        whole = all(len(units) == 0 for units in gone.values())
        small = self.gm if whole else apply_decisions(self.gm, self.graph.decide(gone))
        folder.mkdir()
        export_onnx(small, self.example, folder, opset=self.opset, free_batch=False)
        return folder

    def _finish(self, folder: Path, out: Path) -> Path:
        model = folder / "model.onnx"
        if self.precision == "int8":
            model = self._quantized(model, folder)
        out.mkdir()
        summary = build_engine(model, self.profile, self.precision, out)
        note_modules(out, summary["engine"]["file"], model)
        return out

    def _quantized(self, model: Path, folder: Path) -> Path:
        """By the project's own quantiser, with the cheapest ranges: they change no time."""
        out = folder / "int8"
        out.mkdir()
        request = {
            "model": str(model),
            "samples": str(self.samples_npz),
            "threads": 1,
            "out_folder": str(out),
            "scheme": self.profile.quantization.scheme,
            "method": "minmax",
            "batch_size": 1,
        }
        call_limited(
            "calibration.child:quantize_in_child", request, limits=_LIMITS, what="quantising a net of the latency table"
        )
        (out / "modules.json").write_bytes((folder / "modules.json").read_bytes())
        return out / "model.onnx"


def modules_of(engine: Path) -> dict[str, str]:
    """Node name to module path, as noted when the engine was built."""
    document = json.loads((engine / _INSPECT).read_text(encoding="utf-8"))
    return {str(name): str(module) for name, module in document.get("modules", {}).items()}
