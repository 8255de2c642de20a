"""What was really built, and the verdict on it: is it what was asked for?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from targets.engines.buildfile import SCHEMA
from targets.errors import InputError
from targets.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from targets.options import Precision

INSPECT_JSON: Final = "inspect.json"
PRECISIONS: Final = ("fp32", "fp16", "bf16", "int8", "unknown")
"""What a convolution or matrix product may be found to compute in."""

_COMPUTES_IN: Final[Mapping[str, str]] = {
    "fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8", "int8-dynamic": "int8",
}  # fmt: skip
_SMALL: Final = ("int8", "uint8", "int4", "uint4")
_FIXES: Final[Mapping[str, str]] = {
    "int8": "quantize the model for the engine of this target, or ask for fp32",
    "int8-dynamic": "quantize the model dynamically, or ask for fp32",
    "fp32": "give the float model, or ask for int8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was really built.

    Attributes:
        engine: The engine's name.
        scope: Where the graph was optimised: for this machine, or on the build host for another.
        requested_precision: What was asked for.
        actual_precision: What all convolutions and matrix products run in: ``fp32``, ``fp16``, ``bf16``, ``int8``;
            ``mixed`` when they differ, ``unknown`` when none could be seen.
        nodes: Nodes of each operator.
        int8_nodes: Those of them that compute on 8-bit integers (Quantize and Dequantize are conversions, not counted).
        providers: Nodes on each execution provider.
        int8_node_ratio: 8-bit nodes / all nodes.
        compute: Convolutions and matrix products: ``total`` and ``int8`` nodes, and ``macs`` and ``int8_macs`` of them
            for one sample (padding that the runtime adds to fill its blocks is counted); where it is known,
            ``elsewhere``: nodes of them that another provider, plugin or unit runs than the one asked for.
        precisions: Convolutions and matrix products by the precision that they run in, as in `PRECISIONS`.
        int8_mac_ratio: 8-bit multiply-accumulates / all of them.
        float_compute: Names of the convolutions and matrix products that stayed float.
        fallbacks: Nodes that do not run where they were to (not on the first provider, not on the DLA), and
            convolutions and matrix products that do not run in the asked precision.
        reformats: Nodes that only change a layout or a type: reorder, reformat, cast, quantise, dequantise.
        weights_bytes: Size of all constants.
        weights: Bytes of constants by element type (numpy's name); empty where it is not known.
        subnormal_weights: Float constants that are subnormal numbers (slow on many CPUs).
        asked: Convolutions and matrix products that the model wants in the asked precision; None where a precision
            says nothing about single nodes, or the model is not known.
        inspected: Empty; or why nothing could be inspected, such as no GPU here: then ``compute`` and ``nodes`` say
            what the graph asks for (a node that reads activation and weight behind DequantizeLinear counts as int8).
        warnings: What is not as it should be and no reason to refuse, one line each.
    """

    engine: str
    scope: str
    requested_precision: Precision
    actual_precision: str
    nodes: Mapping[str, int]
    int8_nodes: Mapping[str, int]
    providers: Mapping[str, int]
    int8_node_ratio: float
    compute: Mapping[str, int]
    precisions: Mapping[str, int]
    int8_mac_ratio: float
    float_compute: tuple[str, ...]
    weights_bytes: int
    subnormal_weights: int
    fallbacks: tuple[str, ...] = ()
    reformats: int = 0
    weights: Mapping[str, int] = field(default_factory=dict)
    asked: int | None = None
    inspected: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The content of ``inspect.json``."""
        return {"schema": SCHEMA, **asdict(self)}


def asked_in(folder: Path) -> int | None:
    """What ``inspect.json`` in an engine's folder says of `Inspection.asked`; None where there is none."""
    try:
        found = json.loads((folder / INSPECT_JSON).read_text(encoding="utf-8")).get("asked")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if type(found) is int else None


def overall(precisions: Mapping[str, int]) -> str:
    """One word for what convolutions and matrix products run in; ``fp32`` when there is none of them."""
    found = [name for name, count in precisions.items() if count]
    if not found:
        return "fp32"
    return found[0] if len(found) == 1 else "mixed"


def check_precision(model: Path, inspection: Inspection) -> tuple[str, ...]:
    """What is not as it was asked for and no reason to refuse, one line each.

    Args:
        model: The model that was built; for its name.
        inspection: What became of it.

    Raises:
        InputError: Nothing runs in the asked precision, an fp32 engine is none, or nothing runs where it was to.
    """
    if inspection.inspected:
        _refuse_graph(model.name, inspection)
    else:
        _refuse(model.name, inspection)
    return tuple(_warnings(inspection))


def precision_warnings(inspection: Inspection) -> tuple[str, ...]:
    """The lines that `check_precision` gives, without its verdict."""
    return tuple(_warnings(inspection))


def _refuse_graph(name: str, found: Inspection) -> None:
    """Where nobody saw what runs, ``compute`` counts what the graph asks for: that must be right at least."""
    asked, compute = found.requested_precision, found.compute
    if asked == "int8" and compute["total"] and not compute["int8"]:
        raise InputError(
            f"{name} was to run in int8, and nothing can",
            f"none of its {compute['total']} convolutions and matrix products reads integers",
            _FIXES["int8"],
        )
    if asked == "fp32" and compute["int8"]:
        raise InputError(
            f"{name} was to run in fp32, and is quantised",
            f"{compute['int8']} of {compute['total']} convolutions and matrix products read integers",
            _FIXES["fp32"],
        )


def _refuse(name: str, found: Inspection) -> None:
    asked, total = found.requested_precision, found.compute["total"]
    wanted, rest = _COMPUTES_IN.get(asked), found.precisions.get("unknown", 0)
    count = found.precisions.get(wanted, 0) if wanted else 0
    if asked == "fp32" and count + rest < total:
        others = ", ".join(f"{n} in {p}" for p, n in found.precisions.items() if n and p not in {"fp32", "unknown"})
        raise InputError(
            f"{name} was to run in fp32, and does not",
            f"of {total} convolutions and matrix products run {others}",
            _FIXES["fp32"],
        )
    if wanted and asked != "fp32" and count == 0 and rest == 0:
        # "stayed float" is only said of what was to become integers.
        what = "stayed float after optimisation" if wanted == "int8" else f"run in {found.actual_precision}"
        raise InputError(
            f"{name} was to run in {asked}, and nothing does",
            f"all {total} convolutions and matrix products {what}",
            _FIXES.get(asked, f"choose an engine that computes in {asked}, or ask for fp32"),
        )
    if asked.endswith("-weights") and found.weights and not any(found.weights.get(kind) for kind in _SMALL):
        raise InputError(
            f"{name} was to store {asked.removesuffix('-weights')} weights, and stores none",
            f"its constants are {', '.join(sorted(found.weights))}",
            "convert the model to that format first, or ask for fp32",
        )
    if total and found.compute.get("elsewhere", 0) == total:
        where = ", ".join(f"{counted(count, 'node')} on {provider}" for provider, count in found.providers.items())
        raise InputError(
            f"{name} does not run where it was to",
            f"all {total} convolutions and matrix products fell back: {where}",
            "check the provider's or plugin's own log, or take it out of the profile",
        )


def _warnings(found: Inspection) -> Iterator[str]:
    if found.inspected:
        yield f"nobody has seen what was built: {found.inspected}"
        return
    total, wanted = found.compute["total"], _COMPUTES_IN.get(found.requested_precision)
    unseen = found.precisions.get("unknown", 0)
    asked = total if found.asked is None else min(found.asked, total)
    if wanted and (missed := asked - unseen - found.precisions.get(wanted, 0)) > 0:
        others = {name: count for name, count in found.precisions.items() if count and name not in {wanted, "unknown"}}
        kinds = ", ".join(f"{count} in {name}" for name, count in others.items())
        yield f"{missed} of {asked} convolutions and matrix products do not run in {wanted} as asked: {kinds}"
    if unseen:
        yield f"{unseen} of {total} convolutions and matrix products lie in compiled parts: how they run is not seen"
    if elsewhere := found.compute.get("elsewhere", 0):
        yield f"{elsewhere} of {total} convolutions and matrix products do not run where they were to"
    if found.reformats > total:
        yield f"{found.reformats} nodes only change layouts or types, more than the {total} that compute"
