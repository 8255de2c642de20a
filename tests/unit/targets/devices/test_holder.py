"""Who holds a device: known to have ended only when it is certain."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from targets.devices.holder import for_people, has_ended, this_process


def test_this_process_has_not_ended() -> None:
    """A holder that runs holds; people see user, host and process."""
    holder = this_process()
    assert not has_ended(holder)
    assert re.fullmatch(r".+@.+, process [0-9]+", for_people(holder))
    assert this_process() == holder


def test_an_ended_process_has_ended() -> None:
    """A holder of this machine that runs no more holds nothing."""
    program = "from targets.devices.holder import this_process; print(this_process())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert has_ended(done.stdout.strip())


def test_a_number_used_again_is_another_process() -> None:
    """The same process id with another start time is somebody else: the holder has ended."""
    head, _, start = this_process().rpartition(":")
    assert has_ended(f"{head}:{int(start[:-1]) + 1}]")


@pytest.mark.parametrize(
    "holder",
    ["", "somebody", "ann@far, process 1 [0123456789abcdef:1:5]", "x [0123:1:5]", this_process() + " "],
    ids=["empty", "no process", "another machine", "no boot", "a space too many"],
)
def test_others_are_given_time(holder: str) -> None:
    """Of a process of another machine, or of none that is known, nobody can say that it ended."""
    assert not has_ended(holder)
