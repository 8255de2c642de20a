"""A hardware target: one TOML file, checked, with no logic behind it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from targets import machine
from targets.errors import EnvironmentFailure, Fault, InputError, faults_error, nearest
from targets.faults import faults_of, read_toml
from targets.options import ComputeCapability, EngineOptions, Precision, Section
from targets.scheme import SCHEMES

Arch = Literal["x86_64", "aarch64"]
ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
DeviceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
AFFINITY: Final = r"^(default|big|little|[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,63})$"
LOCAL: Final = "local"


_S = TypeVar("_S", bound=Section)


class Hardware(Section):
    """The machine class.

    Attributes:
        arch: Instruction set architecture, as ``uname -m`` says it.
        isa: CPU features the engine may rely on, as /proc/cpuinfo spells them.
        memory_mb: Memory that the engine and its runtime may use, in MiB.
        storage_mb: Size that the engine file may have, in MiB.
        compute_capability: Of its NVIDIA GPU, such as ``8.7``.
        dla_cores: Deep-learning accelerators beside that GPU.
    """

    arch: Arch
    isa: tuple[str, ...] = ()
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    storage_mb: Annotated[int, Field(gt=0)] | None = None
    compute_capability: ComputeCapability | None = None
    dla_cores: Annotated[int, Field(ge=0, le=8)] = 0


class Quantization(Section):
    """What the target's int8 arithmetic wants.

    Attributes:
        scheme: Name of a dialect in `targets.scheme`.
        precisions: Precisions worth building, one candidate each.
    """

    scheme: str
    precisions: tuple[Precision, ...] = ("fp32", "int8")


class Pruning(Section):
    """What widths pay.

    Attributes:
        channel_alignment: Channel counts that fill the vector units are multiples of this.
    """

    channel_alignment: Annotated[int, Field(ge=1, le=256)] = 8


class DeviceSection(Section):
    """Where the target is measured, and within which limits.

    Attributes:
        name: ``local`` is the machine that runs edgepress; any other name is a device that ``edgepress devices add``
            has registered.
        affinity: CPUs that the engine may use: ``default``, ``big``, ``little``, or a list such as ``0,2-3``.
        memory_limit_mb: Address space that a measured process may have, in MiB.
    """

    name: DeviceName = LOCAL
    affinity: Annotated[str, Field(pattern=AFFINITY)] = "default"
    memory_limit_mb: Annotated[int, Field(gt=0)] | None = None


class Detect(Section):
    """One row of a detecting profile: the first row whose demands this machine meets names the profile to follow."""

    arch: Arch
    isa: tuple[str, ...] = ()
    like: str


class Alternative(Section):
    """Another engine worth trying on the same machine; measured against the first.

    Attributes:
        label: Its candidates are called ``label-int8`` and so on; the engine's name when empty.
        engine: The engine.
        quantization: What it wants.
    """

    label: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,31})?$")] = ""
    engine: EngineOptions
    quantization: Quantization


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


_BUNDLED: Final = resources.files("targets") / "profiles"


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with edgepress, sorted."""
    return tuple(sorted(entry.name[:-5] for entry in _BUNDLED.iterdir() if entry.name.endswith(".toml")))


def load_profile(target: str) -> TargetProfile:
    """The profile named ``target``, or the one in the file ``target`` when that ends in ``.toml``.

    Raises:
        InputError: There is no such profile, or its file is not valid (all faults at once).
        EnvironmentFailure: A detecting profile knows nothing like this machine.
    """
    if target.endswith(".toml"):
        subject, data = Path(target).name, read_toml(Path(target), "the target profile")
    else:
        subject, data = target, _bundled(target)
    if "detect" not in data:
        return _plain(subject, data)
    detecting = _valid(_DetectingProfile, subject, data)
    found = _detect(detecting.detect)
    return found.model_copy(
        update={"name": detecting.name, "description": f"{detecting.description}: here like {found.name}"}
    )


def _bundled(name: str) -> dict[str, Any]:
    if name not in profile_names():
        raise InputError(
            f"there is no target called {name!r}",
            nearest(name, profile_names()),
            "`edgepress targets list` shows all; --target also takes the path of your own profile.toml",
        )
    return tomllib.loads((_BUNDLED / f"{name}.toml").read_text(encoding="utf-8"))


def _plain(subject: str, data: Mapping[str, Any]) -> TargetProfile:
    profile = _valid(TargetProfile, subject, data)
    if profile.quantization.scheme not in SCHEMES:
        fault = Fault(
            where="quantization.scheme",
            what=f"{profile.quantization.scheme!r} is no known scheme",
            fix=nearest(profile.quantization.scheme, SCHEMES),
        )
        raise faults_error(f"profile {subject!r}", [fault])
    return profile


def _valid(kind: type[_S], subject: str, data: Mapping[str, Any]) -> _S:
    try:
        return kind.model_validate(data, strict=False)
    except ValidationError as error:
        raise faults_error(f"profile {subject!r}", faults_of(error, kind)) from error


def _detect(rows: Sequence[Detect]) -> TargetProfile:
    for row in rows:
        if machine.provides(row.arch, row.isa):
            return _plain(row.like, _bundled(row.like))  # what it follows must be a profile in full
    raise EnvironmentFailure(
        "no profile fits this machine",
        f"it is a {machine.arch()} machine with none of the CPU features that a bundled profile needs",
        "write a profile of your own and give its path with --target my-board.toml (see docs/targets.md)",
    )
