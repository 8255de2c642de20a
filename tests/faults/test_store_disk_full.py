"""A disk that is really full, and a limit of the file size."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

_SCRIPT = (
    'mount -t tmpfs -o size=2m none "$1" && cd "$1" || exit 99; '
    '"$2" "$3" cache log; code=$?; cp -r cache "$4"; exit $code'
)


@pytest.mark.parametrize(
    ("size_bytes", "finished"),
    [pytest.param(100_000, {"export"}, id="in-publish"), pytest.param(900_000, set(), id="in-the-stage")],
)
def test_full_disk_publishes_nothing(
    size_bytes: int, finished: set[str], tmp_path: Path, publisher_argv: list[str], invariants: ModuleType
) -> None:
    """A full disk ends with exit code 5 and how much to free; nothing half or needless is left, old results stay."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no private mounts here (unshare -rm): a full disk is NOT tested")
    small, copy = tmp_path / "small", tmp_path / "copy"
    small.mkdir()
    command = [unshare, "-rm", "sh", "-c", _SCRIPT, "sh", str(small), *publisher_argv, str(copy)]
    environment = {**os.environ, "SIZE_BYTES": str(size_bytes)}
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    if done.returncode == 99:
        pytest.skip("tmpfs may not be mounted here: a full disk is NOT tested")
    assert done.returncode == 5, done.stderr.decode()
    told = json.loads(done.stdout)
    assert re.search(r"No space left on device.*\((\d+ bytes|[\d.]+ MB) free\)", told["why"])
    assert re.match(r"free at least \d+ MB", told["fix"])
    assert "EDGEPRESS_CACHE" in told["fix"]
    assert invariants.check_store(copy, after_next_run=True) == finished
    assert len(list(copy.glob("cas/*/*"))) == 2 * len(finished), "blobs without a record are left on a full disk"


def test_file_size_limit_publishes_nothing(
    tmp_path: Path, publisher: ModuleType, publisher_argv: list[str], invariants: ModuleType
) -> None:
    """A file over RLIMIT_FSIZE (EFBIG) stops publishing cleanly, and old entries stay whole."""
    cache, folder = tmp_path / "cache", tmp_path / "big"
    digests = publisher.run(cache, tmp_path / "log")
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"x" * 3_000_000)
    program = (
        "import sys; from pathlib import Path\n"
        "from pipeline.store import Store; from targets.errors import EnvironmentFailure\n"
        "store = Store(Path(sys.argv[1]))\n"
        "try: store.publish(Path(sys.argv[2]), 64 * 'a', stage='big', meta={})\n"
        "except EnvironmentFailure as error: print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [publisher_argv[0], "-c", program, str(cache), str(folder)],
        capture_output=True, check=False, env=dict(os.environ), timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )  # fmt: skip
    assert done.returncode == 5, done.stderr.decode()
    what, why, fix = done.stdout.decode().strip().split("\n")
    assert "'model.bin' (3.0 MB)" in what
    assert why == "File too large"
    assert "ulimit -f" in fix
    assert invariants.check_store(cache, after_next_run=True) == {"export", "quantize"}
    assert publisher.run(cache, tmp_path / "log") == digests
