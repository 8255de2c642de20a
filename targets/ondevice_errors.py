"""Translates what the device program reports into the project's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.errors import DeviceError, EdgepressError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from targets.ondevice.failure import Failure

_BY_EXIT_CODE: Final[dict[int, type[EdgepressError]]] = {
    cls.exit_code: cls for cls in (InputError, RefusedError, EnvironmentFailure, DeviceError)
}


def project_error(exit_code: int, what: str, why: str, fix: str) -> EdgepressError:
    """The error of the class that has this exit code.

    Raises:
        RuntimeError: No class has it, so the device program itself is at fault.
    """
    if exit_code not in _BY_EXIT_CODE:
        raise RuntimeError(f"the device program ended with exit code {exit_code}: {what}; {why}")
    return _BY_EXIT_CODE[exit_code](what, why, fix)


def from_failure(failure: Failure) -> EdgepressError:
    """The error for a failure of the device program's code that ran inside this process."""
    return project_error(failure.exit_code, failure.what, failure.why, failure.fix)
