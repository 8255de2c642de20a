"""What a warning means, and what is known of one layer of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from targets.errors import UsageError, nearest
from targets.words import counted

if TYPE_CHECKING:
    from pipeline.reporting.schema import RunReport
    from pipeline.reporting.schema_layers import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A warning, explained.

    Attributes:
        code: ``W-FEW``, ...
        means: When it is given.
        fix: What helps.
        seen: What a run said under that code, one line each.
    """

    code: str
    means: str
    fix: str
    seen: tuple[str, ...] = ()


def codes() -> Mapping[str, Mapping[str, str]]:
    """Every code with ``means`` and ``fix``."""
    return tomllib.loads(resources.files("pipeline.assist").joinpath("codes.toml").read_text(encoding="utf-8"))


def explain_code(code: str, run: RunReport | None = None) -> Explained:
    """A warning's meaning, and where a run is given what that run saw.

    Raises:
        UsageError: There is no such code; names the nearest.
    """
    known = codes()
    if code not in known:
        raise UsageError(f"there is no warning {code!r}", "it may be misspelt", nearest(code, known))
    seen = (
        ()
        if run is None
        else tuple(
            f"{warned.text} ({warned.evidence})" if warned.evidence else warned.text
            for warned in run.warnings
            if warned.code == code
        )
    )
    return Explained(code=code, means=known[code]["means"], fix=known[code]["fix"], seen=seen)


def explain_layer(name: str, run: RunReport) -> tuple[dict[str, str], ...]:
    """What the run knows of the layers at a module path, or below it: one table of facts each.

    Raises:
        UsageError: The run has no such layer; names the nearest.
    """
    found = [layer for layer in run.layers if layer.name == name or layer.name.startswith(f"{name}.")]
    if not found:
        raise UsageError(
            f"the run has no layer {name!r}",
            f"it knows {counted(len(run.layers), 'layer')}" if run.layers else "nothing was quantised in it",
            nearest(name, [layer.name for layer in run.layers]) if run.layers else "give the folder of another run",
        )
    return tuple(_facts(layer, run) for layer in found)


def _facts(layer: Layer, run: RunReport) -> dict[str, str]:
    """What is known of one layer, without what is not."""
    timed = [] if run.times is None else [row for row in run.times.rows if row.module == layer.name]
    shown = {
        "layer": layer.name,
        "operator": layer.kind,
        "precision": layer.precision,
        "why": layer.note,
        "output": "" if not layer.shape else "x".join(map(str, layer.shape)),
        "output SNR": "" if layer.snr_db is None else f"{layer.snr_db:.1f} dB against the float model",
        "weight SNR": "" if layer.weight_snr_db is None else f"{layer.weight_snr_db:.1f} dB",
        "alone in int8": "" if layer.alone_db is None else f"{layer.alone_db:.1f} dB of the model's outputs",
        "parameters": "" if layer.parameters is None else f"{layer.parameters:,}",
        "multiply-accumulates": "" if layer.macs is None else f"{layer.macs:,}",
    }
    shown |= {f"time as {row.op} of {run.times.candidate}": f"{row.us:.3g} us, {100 * row.share_ratio:.1f} % of all"
              + (f", bound by {row.bound}" if row.bound else "") for row in timed if run.times is not None}  # fmt: skip
    ranges = [one for one in run.calibration if layer.name in {one.module, one.tensor, one.tensor.rpartition(".")[0]}]
    shown |= {f"range of {one.tensor}": f"{one.low:.4g} to {one.high:.4g}, {one.method}" for one in ranges}
    widths = [one for one in run.widths if layer.name in one.group]
    shown |= {f"channels of {one.group}": f"{one.before} before pruning, {one.after} after" for one in widths}
    return {key: value for key, value in shown.items() if value}
