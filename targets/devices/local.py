"""The machine that runs edgepress, as a device: the same packed program, a fresh process each time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, final

from targets.devices.base import MAX_ANSWER_BYTES, Device, RawAnswer
from targets.errors import DeviceError, EnvironmentFailure
from targets.files import disk_guard
from targets.ondevice_pack import FILE_NAME, pack
from targets.process import Limits, run_limited

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class LocalDevice(Device):
    """Runs ``python -I ondevice.pyz`` on this machine."""

    kind = "local"

    def __init__(self) -> None:
        self._program = pack()

    def _run(self, folder: Path | None, command: Sequence[str], timeout_s: float) -> RawAnswer:
        with tempfile.TemporaryDirectory(prefix="edgepress-") as private:
            program = Path(private) / FILE_NAME
            with disk_guard("placing the device program", path=program):
                program.write_bytes(self._program)
            try:
                child = run_limited(
                    [sys.executable, "-I", str(program), *command],
                    limits=Limits(timeout_s=timeout_s),
                    what=f"ondevice {command[0]}",
                    cwd=folder,
                    stdout_limit_bytes=MAX_ANSWER_BYTES,
                )
            except EnvironmentFailure as error:
                raise DeviceError(error.what, error.why, error.fix) from error
        return RawAnswer(returncode=child.returncode, stdout=child.stdout, stderr=child.stderr, wall_s=child.wall_s)
