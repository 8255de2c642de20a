"""Which device a plan measures on, what that device is, and whether it can stand in for the target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from targets import machine
from targets.errors import DeviceError
from targets.profile import LOCAL, TargetProfile

if TYPE_CHECKING:
    from pipeline.recipe import BenchmarkSection
    from targets.devices.base import DeviceFacts

AskDevice = Callable[[str], "DeviceFacts"]
_WITHOUT = "build without latency: --set benchmark.measure=false"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOn:
    """A device, as a measurement's key knows it.

    Attributes:
        name: ``local``, or the name it is registered under.
        fingerprint: What a measurement is bound to: changes when hardware, system or runtime do.
    """

    name: str
    fingerprint: str


def device_name(benchmark: BenchmarkSection, profile: TargetProfile) -> str:
    """The device that the recipe names, else the profile's."""
    return benchmark.device or profile.device.name


def measured_on(name: str, profile: TargetProfile, ask: AskDevice | None = None) -> MeasuredOn:
    """The device called ``name``, once it is known that the target's engines run on it.

    Args:
        name: ``local``, or the name of a registered device, which is asked what it is.
        profile: The target.
        ask: Gives the facts of a registered device; that device itself when None.

    Raises:
        InputError: No device of that name is registered.
        DeviceError: It does not answer, or it lacks what the target's engines need.
    """
    if name == LOCAL:
        return _here(profile)
    facts = (ask or _ask)(name)
    _check_fits(name, facts, profile)
    versions = {"onnxruntime": facts.runtime_version or "unknown"}
    versions |= {key: str(facts.raw[key]) for key in _runtimes(profile) if facts.raw.get(key)}
    told = " / ".join(f"{runtime} {version}" for runtime, version in versions.items())
    return MeasuredOn(name=name, fingerprint=f"{facts.fingerprint} / {told}")


def _here(profile: TargetProfile) -> MeasuredOn:
    hardware = profile.hardware
    if not machine.provides(hardware.arch, hardware.isa):
        raise DeviceError(
            f"target {profile.name!r} cannot be measured on this machine",
            f"it needs {_needs(profile)}; this is {machine.arch()} without them, and no other device is named",
            f"name a registered device that has them: --device NAME (`edgepress devices list`), or {_WITHOUT}",
        )
    from pipeline.stages.answers import runs_here

    plain = profile.choices().values()
    if all(other.engine.name != "onnxruntime" for other in plain) and all(whys := [runs_here(one) for one in plain]):
        raise DeviceError(
            f"no engine of target {profile.name!r} runs on this machine",
            "; ".join(f"{one.engine.name}: {why}" for one, why in zip(plain, whys, strict=True)),
            f"name a registered device that runs one: --device NAME (`edgepress devices list`), or {_WITHOUT}",
        )
    return MeasuredOn(name=LOCAL, fingerprint=machine.fingerprint())


def _check_fits(name: str, facts: DeviceFacts, profile: TargetProfile) -> None:
    hardware = profile.hardware
    told = facts.raw.get("cpu_features") or facts.raw.get("isa")
    missing = sorted(set(hardware.isa) - set(told)) if told else []
    if facts.arch != hardware.arch or missing:
        lacks = f"it is {facts.arch}" + (f" without {' '.join(missing)}" if missing else "")
        raise DeviceError(
            f"device {name!r} cannot stand in for target {profile.name!r}",
            f"{lacks}; the target's engines need {_needs(profile)}",
            f"choose the target that the device is (--target, `edgepress targets list`), another device, or {_WITHOUT}",
        )

    runtimes = _runtimes(profile)
    if runtimes and all(key in facts.raw and facts.raw[key] is None for key in runtimes):
        raise DeviceError(
            f"device {name!r} cannot run target {profile.name!r}",
            f"its engines need one of: {', '.join(runtimes)}; none is installed there",
            f"install one on the device, choose another device, or {_WITHOUT}",
        )


def _runtimes(profile: TargetProfile) -> tuple[str, ...]:
    """What a device calls the runtimes of the target's engines, in order of preference."""
    return tuple(dict.fromkeys(one.engine.name.replace("-", "_") for one in profile.choices().values()))


def _needs(profile: TargetProfile) -> str:
    return " ".join((profile.hardware.arch, *profile.hardware.isa))


def _ask(name: str) -> DeviceFacts:
    from targets.devices import device

    return device(name).facts()
