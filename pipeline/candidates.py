"""Which engines compete: one candidate for each engine and precision that the target offers, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Final, get_args

from targets.costs import COSTS
from targets.errors import Fault, nearest
from targets.ondevice.accelerators import accelerators
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, Precision
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pipeline.recipe import Recipe
    from targets.profile import TargetProfile

DENSE: Final = "dense-fp32"
FLOATS: Final = frozenset({"fp32", "fp16", "bf16"})
_IN_ORDER: Final[tuple[Precision, ...]] = get_args(Precision)
_CPU_PROVIDERS: Final = frozenset({"CPUExecutionProvider", "XnnpackExecutionProvider"})
_DISTRIBUTIONS: Final = {"openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A candidate that may be built.

    Attributes:
        name: ``fp32``, ``int8`` for the engine of first choice; ``openvino-int8`` for others; ``dense-fp32`` is the
            uncompressed reference.
        precision: What it computes in.
        profile: The target with this one engine.
        mandatory: The run fails when it cannot be built: references, and whatever the recipe names.
        asked: The recipe names it, so it is built even where nothing is to be gained.
    """

    name: str
    precision: Precision
    profile: TargetProfile
    mandatory: bool
    asked: bool = False


def offers(recipe: Recipe, profile: TargetProfile, *, compressed: bool) -> tuple[Offer, ...] | Fault:
    """The candidates in the order in which they challenge each other, the uncompressed reference first.

    Floats come before integers, the engine of first choice before others.

    Args:
        recipe: May name candidates and formats.
        profile: The target, with all its engines.
        compressed: Whether there is an uncompressed model beside the one to build.

    Returns:
        The offers, or what is wrong with the names in the recipe.
    """
    named = recipe.build.candidates
    choices = profile.choices()
    reference = DENSE if compressed else "fp32"
    found: list[Offer] = []
    for label, plain in choices.items():
        for precision in _precisions(recipe, plain, first=not label):
            name = f"{label}-{precision}" if label else precision
            wanted = named is not None and name in named
            mandatory = wanted or name == "fp32"
            asked = wanted or (precision in recipe.quantize.formats and isinstance(recipe.quantize.formats, list))
            found.append(Offer(name=name, precision=precision, profile=plain, mandatory=mandatory, asked=asked))
    if compressed:
        found.insert(0, Offer(name=DENSE, precision="fp32", profile=choices[""], mandatory=True))
    known = [offer.name for offer in found]
    if unknown := [name for name in named or () if name not in known]:
        what = f"{', '.join(map(repr, unknown))} is no candidate on {profile.name}"
        return Fault(where="build.candidates", what=what, fix=nearest(unknown[0], known))
    found = [offer for offer in found if named is None or offer.name in named or offer.name == reference]
    # Sorted is stable: within floats and within integers, engines and precisions stay in order of preference.
    return tuple(sorted(found, key=lambda offer: (offer.name != DENSE, offer.precision not in FLOATS)))


def _precisions(recipe: Recipe, plain: TargetProfile, *, first: bool) -> list[Precision]:
    """What is built for one engine: fp32 always for the first choice, formats as recipe or profile say."""
    offered: set[Precision] = set(plain.quantization.precisions)
    if first:
        offered.add("fp32")
    formats = recipe.quantize.formats
    if isinstance(formats, list):
        listed: set[Precision] = set(formats)
        offered = {one for one in offered if one in {"fp32", "int8"} or one in listed}
        offered |= listed if first else set()
    return [precision for precision in _IN_ORDER if precision in offered]


def profile_of(name: str, precision: str, profile: TargetProfile) -> TargetProfile:
    """The profile with the one engine that a candidate was built for."""
    if name == DENSE:
        return profile.choices()[""]
    return profile.choices()[name.removesuffix(precision).removesuffix("-")]


def content(name: str) -> Hashable:
    """What decides the int8 file that a scheme gives: placement, and which layers are left float for what they cost.

    Schemes of equal content give the same file, whatever they are called.
    """
    return replace(scheme(name), name=""), repr(COSTS.get(name))


def runtime_version(engine: str) -> str:
    """The version of the runtime that builds for ``engine``; empty where the device builds, or it is not installed.

    ONNX Runtime is left out: it is a tool of every stage that builds.
    """
    try:
        return metadata.version(_DISTRIBUTIONS[engine]) if engine in _DISTRIBUTIONS else ""
    except metadata.PackageNotFoundError:
        return ""


def built_with(engine: EngineOptions) -> str:
    """What an engine that is built here, and its answers, depend on beside the stage's own tools.

    That is the version of its runtime and, where another unit than the CPU computes, that unit and its driver: an
    engine for a GPU, or an accuracy found on one, is none of another GPU or driver.
    """
    parts = [runtime_version(engine.name), accelerators() if _off_cpu(engine) else ""]
    return " / ".join(part for part in parts if part)


def _off_cpu(engine: EngineOptions) -> bool:
    if isinstance(engine, OnnxRuntimeOptions):
        return any(provider not in _CPU_PROVIDERS for provider in engine.providers)
    return not isinstance(engine, OpenVinoOptions) or engine.device != "CPU"
