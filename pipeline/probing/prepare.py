"""Makes the engines of a probe: float, half and int8 models of a net, each built for its engine, in children."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from pipeline.probing.nets import Net
from pipeline.probing.trials import Machine, Trial, profile_of
from targets.errors import EdgepressError, Interrupted
from targets.process import Limits, call_limited
from targets.scheme import QuantScheme, scheme

_LIMITS: Final = Limits(timeout_s=900.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The engines of one net.

    Attributes:
        net: The net.
        samples: Its samples as ``.npz``.
        engines: The folder of each engine that could be built, by the trial's name.
        dropped: Why the others could not.
    """

    net: Net
    samples: Path
    engines: dict[str, Path]
    dropped: dict[str, str]


def prepare(
    net: Net, trials: Sequence[Trial], machine: Machine, scratch: Path, on_note: Callable[[str], None]
) -> Prepared:
    """Builds every trial; one that cannot be built is left out with the reason, but for the first.

    Args:
        net: What to build.
        trials: For which engines, in which precisions.
        machine: For which hardware.
        scratch: An empty folder for all files.
        on_note: Told what goes on.

    Raises:
        EdgepressError: The first trial cannot be built.
    """
    from pipeline.stages.inference import build_engine, save_arrays

    samples = scratch / "samples.npz"
    save_arrays(samples, net.inputs)
    models = _Models(net=net, samples=samples, threads=1, scratch=scratch)
    engines: dict[str, Path] = {}
    dropped: dict[str, str] = {}
    for index, trial in enumerate(trials):
        on_note(f"building {net.name} for {trial.name}")
        out = scratch / f"engine-{index}"
        try:
            build_engine(models.of(trial), profile_of(trial, machine), trial.precision, out)
        except Interrupted:
            raise
        except EdgepressError as error:
            if index == 0:
                raise
            dropped[trial.name] = f"{error.what}: {error.why}"
            continue
        engines[trial.name] = out
    return Prepared(net=net, samples=samples, engines=engines, dropped=dropped)


@final
@dataclass(slots=True, kw_only=True)
class _Models:
    """The ONNX files of one net, each made when it is first asked for; dialects that differ by name only share one."""

    net: Net
    samples: Path
    threads: int
    scratch: Path
    made: dict[QuantScheme | str, Path] = field(default_factory=dict)

    def of(self, trial: Trial) -> Path:
        if trial.precision == "fp32":
            return self.net.model
        key = replace(scheme(trial.scheme), name="") if trial.precision == "int8" else trial.precision
        if key not in self.made:
            out = self.scratch / f"model-{len(self.made)}"
            out.mkdir()
            self.made[key] = self._quantized(trial, out) if trial.precision == "int8" else self._converted(trial, out)
        return self.made[key]

    def _quantized(self, trial: Trial, out: Path) -> Path:
        request = {**self._request(out), "scheme": trial.scheme, "method": "minmax", "batch_size": 1}
        call_limited(
            "calibration.child:quantize_in_child", request, limits=_LIMITS, what="quantising a net of the probe"
        )
        return out / "model.onnx"

    def _converted(self, trial: Trial, out: Path) -> Path:
        request = {**self._request(out), "precision": trial.precision, "asked": True}
        call_limited(
            "calibration.child_formats:convert_in_child", request, limits=_LIMITS, what="converting a net of the probe"
        )
        return out / "model.onnx"

    def _request(self, out: Path) -> dict[str, object]:
        return {
            "model": str(self.net.model),
            "samples": str(self.samples),
            "threads": self.threads,
            "out_folder": str(out),
        }
