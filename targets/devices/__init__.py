"""Devices by kind; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.errors import InputError

if TYPE_CHECKING:
    from targets.devices.base import Device


def device(kind: str) -> Device:
    """The device of that kind, as a profile's ``[device]`` names it.

    Raises:
        InputError: There is none.
    """
    if kind != "local":
        raise InputError(f"there is no device of kind {kind!r}", "known: local", "set kind in the profile's [device]")
    from targets.devices.local import LocalDevice

    return LocalDevice()
