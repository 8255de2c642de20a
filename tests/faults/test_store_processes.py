"""Several processes on one store."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.store import Store
from targets.errors import EnvironmentFailure

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

_HOLD = (
    "import sys, time; from pathlib import Path; from pipeline.store import Store\n"
    "store = Store(Path(sys.argv[1]))\n"
    "with store.session(), store.scratch() as folder, store.lock(64 * 'a'):\n"
    "    (folder / 'half').write_text('half'); print('held', flush=True); time.sleep(60)\n"
)


@pytest.mark.parametrize("count", [2, 8])
def test_each_stage_runs_once(
    count: int, tmp_path: Path, publisher_argv: list[str], publisher: ModuleType, invariants: ModuleType
) -> None:
    """Of many processes with the same keys one does the work, and all end with the same digests."""
    command = [*publisher_argv, str(tmp_path / "cache"), str(tmp_path / "log")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    expected = publisher.run(tmp_path / "other", tmp_path / "other-log")
    assert all(json.loads(answer) == expected for answer in answers)
    assert (tmp_path / "log").read_text().split() == ["export", "quantize"]
    invariants.check_store(tmp_path / "cache", after_next_run=True)


def test_killed_holder_frees_its_waiters(tmp_path: Path) -> None:
    """A holder that is killed loses its lock and its session, and its temporary folder goes at the next session."""
    store = Store(tmp_path / "cache")
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(store.root)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with store.session():
                assert len(list(store.root.glob("tmp/*"))) == 1, "a living process lost its folder"
            with pytest.raises(EnvironmentFailure, match="a run is using it"):
                store.gc()
            waited: list[str] = []

            def kill(key: str) -> None:
                waited.append(key)
                holder.kill()

            with store.lock("a" * 64, on_wait=kill):
                assert waited == ["a" * 64]
        finally:
            holder.kill()
    with store.session():
        assert list(store.root.glob("tmp/*")) == []
    assert store.gc().kept_entries == 0
