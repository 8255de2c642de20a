"""A hardware target: one TOML file, and what it extends, checked, with no logic behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from targets import machine
from targets.contradictions import contradictions
from targets.errors import EnvironmentFailure, Fault, faults_error
from targets.faults import faults_of
from targets.inheritance import Layered, bundled_names, read_bundled, read_layers
from targets.options import EngineOptions, Section
from targets.sections import (
    LOCAL,
    Alternative,
    Arch,
    Detect,
    DeviceName,
    DeviceSection,
    Hardware,
    Pruning,
    Quantization,
)

__all__ = [
    "LOCAL",
    "Alternative",
    "Arch",
    "DeviceName",
    "DeviceSection",
    "Hardware",
    "Pruning",
    "Quantization",
    "TargetProfile",
    "ancestors",
    "load_profile",
    "profile_from",
    "profile_names",
]

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_S = TypeVar("_S", bound=Section)


class TargetProfile(Section):
    """One hardware target.

    Attributes:
        name: The profile's name, also the folder of its results.
        description: One line for people.
        engine: The engine of first choice.
        alternatives: Further engines, in order of preference.
    """

    name: ProfileName
    description: str
    hardware: Hardware
    engine: EngineOptions
    quantization: Quantization
    alternatives: tuple[Alternative, ...] = ()
    pruning: Pruning = Pruning()
    device: DeviceSection = DeviceSection()

    def choices(self) -> dict[str, TargetProfile]:
        """A profile with one engine for each that this one names, by label; that of the first choice is empty."""
        plain = {"": self.model_copy(update={"alternatives": ()})}
        for other in self.alternatives:
            chosen = {"engine": other.engine, "quantization": other.quantization, "alternatives": ()}
            plain[other.label or other.engine.name] = self.model_copy(update=chosen)
        return plain


class _DetectingProfile(Section):
    name: ProfileName
    description: str
    detect: tuple[Detect, ...]


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with edgepress, sorted."""
    return bundled_names()


def load_profile(target: str) -> TargetProfile:
    """The profile named ``target``, or the one in the file ``target`` when that ends in ``.toml``.

    Raises:
        InputError: There is no such profile, or its file is not valid (all faults at once).
        EnvironmentFailure: A detecting profile knows nothing like this machine.
    """
    layered = read_layers(target, _followed)
    if "detect" not in layered.tables:
        return _checked(layered)
    detecting = _valid(_DetectingProfile, layered)
    found = _checked(read_layers(_fitting(detecting.detect), _followed))
    return found.model_copy(
        update={"name": detecting.name, "description": f"{detecting.description}: here like {found.name}"}
    )


def profile_from(subject: str, tables: Mapping[str, Any]) -> TargetProfile:
    """The profile that these tables describe, without any file.

    Args:
        subject: What messages call it.
        tables: As a file would say it, ``extends`` aside.

    Raises:
        InputError: They are not valid (all faults at once).
    """
    return _checked(Layered(subject=subject, tables=dict(tables), ancestors=(), origins={}))


def ancestors(target: str) -> tuple[str, ...]:
    """What a profile extends, the nearest first: bundled names and names of files.

    A detecting one extends the profile that it follows here.

    Raises:
        InputError, EnvironmentFailure: As `load_profile`.
    """
    layered = read_layers(target, _followed)
    if "detect" not in layered.tables:
        return layered.ancestors
    like = _fitting(_valid(_DetectingProfile, layered).detect)
    return (like, *read_layers(like, _followed).ancestors)


def _followed(subject: str, tables: Mapping[str, Any]) -> str:
    """The profile that a detecting parent follows on this machine."""
    alone = Layered(subject=subject, tables=dict(tables), ancestors=(), origins={})
    return _fitting(_valid(_DetectingProfile, alone).detect)


def _fitting(rows: Sequence[Detect]) -> str:
    for row in rows:
        if machine.provides(row.arch, row.isa):
            if "detect" in read_bundled(row.like):  # what it follows must be a profile in full
                fault = Fault(where="detect", what="it follows others in turn", fix="name a profile in full in `like`")
                raise faults_error(f"profile {row.like!r}", [fault])
            return row.like
    raise EnvironmentFailure(
        "no profile fits this machine",
        f"it is a {machine.arch()} machine with none of the CPU features that a bundled profile needs",
        "write a profile of your own and give its path with --target my-board.toml (see docs/targets.md)",
    )


def _checked(layered: Layered) -> TargetProfile:
    """The profile, when neither a key of it nor what the keys say together is wrong."""
    profile, faults = _profile_and_faults(layered.tables)
    if profile is None or faults:
        blamed = layered.blame(faults, lambda tables: _profile_and_faults(tables)[1])
        raise faults_error(f"profile {layered.subject!r}", blamed)
    return profile


def _profile_and_faults(tables: Mapping[str, Any]) -> tuple[TargetProfile | None, list[Fault]]:
    profile, faults = _parsed(TargetProfile, tables)
    return profile, [*faults, *contradictions(tables)]


def _valid(kind: type[_S], layered: Layered) -> _S:
    found, faults = _parsed(kind, layered.tables)
    if found is None:
        blamed = layered.blame(faults, lambda tables: _parsed(kind, tables)[1])
        raise faults_error(f"profile {layered.subject!r}", blamed)
    return found


def _parsed(kind: type[_S], tables: Mapping[str, Any]) -> tuple[_S | None, list[Fault]]:
    """What the tables say by themselves, or what is wrong with them."""
    try:
        return _parse(kind, tables), []
    except ValidationError as error:
        return None, faults_of(error, kind)


def _parse(kind: type[_S], tables: Mapping[str, Any]) -> _S:
    """Strict, but for lists that become tuples: pydantic allows just that in JSON."""
    return kind.model_validate_json(json.dumps(tables, default=str))
