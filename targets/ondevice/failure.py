"""How the device program reports that something is wrong: what, why, fix and an exit code."""

from __future__ import annotations

BAD_INPUT = 3
REFUSED = 4
ENVIRONMENT = 5
DEVICE = 6
OWN_BUG = 70


class Failure(Exception):
    """Ends the program with one JSON error document.

    Attributes:
        exit_code: 3 bad input, 4 refused (hashes do not match), 5 environment, 6 this device or its runtime.
        what: What happened, one line.
        why: Why it happened, one line.
        fix: What to do about it, one line.
    """

    def __init__(self, exit_code: int, what: str, why: str, fix: str) -> None:
        super().__init__(what, why, fix)
        self.exit_code = exit_code
        self.what = what
        self.why = why
        self.fix = fix
