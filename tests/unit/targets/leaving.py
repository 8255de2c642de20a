"""What `test_forkserver.py` has a fork do: leave somebody behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path


def leave_an_orphan(request: Mapping[str, str]) -> dict[str, object]:
    """Forks one that goes to a session of its own, writes its number to ``request["a"]``, and kills the supervisor."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    Path(request["a"]).write_text(str(pid), encoding="ascii")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    return {}
