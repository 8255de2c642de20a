"""The adb client as a limited child process, and what its words mean."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.devices.answers import printable
from targets.errors import DeviceError, EnvironmentFailure
from targets.process import Limits, run_limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from targets.process import ChildResult

SERVER_TIMEOUT_S: Final = 20.0
_LIST_LIMIT_BYTES: Final = 1 << 16
_PASSED_ON: Final = (
    "HOME", "ADB_VENDOR_KEYS", "ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_ADDRESS", "ANDROID_ADB_SERVER_PORT",
    "ANDROID_USER_HOME", "ANDROID_SDK_HOME", "ADB_LIBUSB",
)  # fmt: skip
_GONE: Final = re.compile(
    r"device .*(not found|offline)|no devices|still authorizing|unauthorized|error: closed|protocol fault|"
    r"connection (reset|refused)|couldn't read from device|cannot connect to daemon|\bEOF\b|broken pipe",
    re.IGNORECASE,
)


@final
class AdbClient:
    """Calls of one adb client program; each is limited in time and output.

    A first call starts adb's server when none runs, as adb does; it is shared by all programs of this machine and
    stays. It needs the user's home, where the keys are that devices know.

    Args:
        program: The client, found on PATH.
    """

    def __init__(self, program: str) -> None:
        self.program = program

    def run(
        self, words: Sequence[str], *, timeout_s: float, limit_bytes: int, file_bytes: int | None = None
    ) -> ChildResult:
        """One call, whatever its exit status.

        Args:
            words: The arguments.
            timeout_s: It is ended after this time.
            limit_bytes: The most it may write to stdout or stderr.
            file_bytes: The most it may write to a file.

        Raises:
            EnvironmentFailure: No such program, or a limit was reached (`out_of_time` tells which).
        """
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        try:
            return run_limited(
                [self.program, *words],
                limits=Limits(timeout_s=timeout_s, file_bytes=file_bytes),
                what=f"adb {words[2] if words[0] == '-s' else words[0]}",
                cwd=Path("/"),  # a server that is started stays there
                env=env,
                stdout_limit_bytes=limit_bytes,
            )
        except EnvironmentFailure as error:
            if error.what.endswith("could not be started"):
                raise no_client(self.program, error.why) from error
            raise

    def server(self, *words: str) -> ChildResult:
        """One call that concerns the server and no device.

        Raises:
            DeviceError: The server does not answer.
        """
        try:
            return self.run(words, timeout_s=SERVER_TIMEOUT_S, limit_bytes=_LIST_LIMIT_BYTES)
        except EnvironmentFailure as error:
            if out_of_time(error):
                raise DeviceError(
                    "the adb server of this machine does not answer",
                    f"no answer for {SERVER_TIMEOUT_S:g} s to `adb {words[0]}`",
                    "run `adb kill-server`, then the same command again",
                ) from error
            raise

    def states(self) -> dict[str, str]:
        """Serial to state, for all devices that the server knows (of a state in several words the first)."""
        lines = self.server("devices").stdout.decode("utf-8", "replace").splitlines()
        pairs = (line.split("\t", 1) for line in lines if "\t" in line)
        return {printable(serial).strip(): (printable(state).split() or ["unknown"])[0] for serial, state in pairs}


def out_of_time(error: EnvironmentFailure) -> bool:
    """Whether a call was ended because of its time limit."""
    return "longer than its limit" in error.why


def says_gone(text: str) -> bool:
    """Whether these words of adb mean that the device, or the way to it, has gone."""
    return _GONE.search(text) is not None


def broke_off(child: ChildResult) -> bool:
    """Whether a copy ended in its middle with no word on why: the way to the device was cut under it."""
    return child.returncode != 0 and b"error" not in (child.stdout + child.stderr).lower()


def complaint(child: ChildResult) -> str:
    """What adb complained of, for messages: its last line about an error, else its last; bounded and printable."""
    lines = [line.strip() for line in (child.stdout + b"\n" + child.stderr).decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if line]
    errors = [line for line in said if "error" in line.lower()]
    nothing = f"adb ended with exit status {child.returncode} and said nothing"
    return printable((errors or said or [nothing])[-1])[:300]


def no_client(program: str, why: str) -> EnvironmentFailure:
    """The error for a machine without adb."""
    return EnvironmentFailure(
        f"there is no adb client called {program!r}",
        printable(why),
        "install it on this machine (Debian: apt install adb), or put it on PATH",
    )
