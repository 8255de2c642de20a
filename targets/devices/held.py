"""A device that is held already: tasks share one session, and what one puts or builds there serves the next."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from targets.devices.base import Device, Session

if TYPE_CHECKING:
    from collections.abc import Iterator


@final
class HeldDevice(Device):
    """Lends the session that is open; nothing is given back before whoever opened it does so.

    Args:
        device: The device.
        session: Its session.
    """

    def __init__(self, device: Device, session: Session) -> None:
        self.name = device.name
        self.kind = device.kind
        self._session = session

    @contextmanager
    def _open(self, _wait_s: float | None) -> Iterator[Session]:
        yield self._session
