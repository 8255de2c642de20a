"""Which engines run on a device at all: its runtime must be there, and locally what drives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.candidates import profile_of
from pipeline.stages.answers import runs_here
from targets.engines.base import EngineBuild
from targets.profile import LOCAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.artifacts import CandidateBuild
    from targets.devices.base import Device
    from targets.profile import TargetProfile

_TOLD: Final = frozenset({"openvino", "tensorrt_rtx"})
"""Runtimes of engines that come built and of which a device tells the version when it has one."""


def why_not(builds: Sequence[CandidateBuild], profile: TargetProfile, device: Device) -> dict[str, dict[str, str]]:
    """By name of the candidate: ``what``, ``why`` and ``fix`` of those that do not run on the device.

    Args:
        builds: The candidates.
        profile: The target, with all its engines.
        device: Where they are to be measured; asked only where a runtime may be missing.

    Raises:
        DeviceError: The device does not answer.
    """
    found = {}
    told = None
    for build in builds:
        name, engine = build.node.partition(":")[2], EngineBuild.read(build.folder)
        what = f"the engine {engine.engine} of {name} does not run on {device.name}"
        if device.name == LOCAL:
            own = profile_of(name, engine.precision, profile)
            if (engine.model or engine.build_on_device) and (why := runs_here(own)):
                fix = f"name a registered device that runs {engine.engine}: --device NAME"
                found[name] = {"what": what, "why": why, "fix": fix}
        elif engine.runtime in _TOLD:
            told = told or device.facts().raw
            if engine.runtime in told and told[engine.runtime] is None:
                version = engine.runtime_version.partition("-")[0]
                fix = f"on the device: python3 -m pip install {engine.runtime}=={version}"
                found[name] = {"what": what, "why": f"{engine.runtime} is not installed there", "fix": fix}
    return found
