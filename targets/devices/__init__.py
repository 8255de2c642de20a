"""Devices by name; the code of each kind is imported when one is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from targets.devices.base import Device


def device(name: str) -> Device:
    """``local``, this machine, or a device registered with ``edgepress devices add``.

    Raises:
        InputError: No device has that name.
    """
    if name == "local":
        from targets.devices.local import LocalDevice

        return LocalDevice()
    from targets.devices.registry import Registry
    from targets.devices.remote import RemoteDevice

    entry = Registry().entry(name)
    return RemoteDevice(name, lambda: entry.transport(name), kind=entry.kind, python=entry.python)
