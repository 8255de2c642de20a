"""A study in a database that workers of several hosts share: a real PostgreSQL server on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.long

SEARCH = """
[search]
trials = 5
startup_trials = 3
[search.space]
prune.ratio = [0.3, 0.5, 0.7]
distill.epochs = [1, 2]
[search.screening]
benchmark = { mode = "quick", budget_s = 2.0 }
"""


@pytest.fixture
def database() -> Iterator[str]:
    """URL of an empty database; its server lives as long as the test."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL")
    initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or postgres is None:
        pytest.skip("needs PostgreSQL's initdb and postgres")
    initdb, postgres = (str(Path(program).resolve()) for program in (initdb, postgres))  # they look beside themselves
    user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="edgepress-pg-", dir="/tmp") as folder, socket.socket() as probe:
        if user is not None:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        subprocess.run([initdb, "-D", data, "-U", "search", "-A", "trust"], user=user, check=True, capture_output=True)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        with subprocess.Popen([postgres, *options], user=user, stderr=subprocess.DEVNULL) as server:
            try:
                _wait_for(port, server)
                yield f"postgresql://search@127.0.0.1:{port}/postgres"
            finally:
                server.terminate()
                server.wait(30)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    import psycopg  # type: ignore[import-not-found, unused-ignore]

    for _ in range(600):
        assert server.poll() is None, "the server ended"
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="search", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the server does not answer")


def test_two_hosts_share_a_study_in_postgresql(
    edgepress: Callable[..., Any], edgepress_program: Path, project: SimpleNamespace, database: str, tmp_path: Path
) -> None:
    """Promise: workers that share nothing but the database try each candidate once and end with the same front."""
    path = project.folder / "recipe.toml"
    path.write_text(path.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    command = [edgepress_program, "search", project.folder, "--storage", database]
    workers = [
        subprocess.Popen(
            [*command, "--out", tmp_path / name],
            env={**os.environ, "EDGEPRESS_CACHE": str(tmp_path / f"cache-{name}")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    errors = [worker.communicate(timeout=900)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    for name in ("a", "b"):  # whoever ended first knows no more than was known then
        environment = {**os.environ, "EDGEPRESS_CACHE": str(tmp_path / f"cache-{name}")}
        subprocess.run([*command, "--out", tmp_path / name], env=environment, check=True, stdout=subprocess.DEVNULL)
    seen = [json.loads(next((tmp_path / name).glob("*/host.search/search.json")).read_bytes()) for name in ("a", "b")]
    points = [json.dumps(trial["point"], sort_keys=True) for trial in (*seen[0]["trials"], *seen[0]["given_up"])]
    assert len(points) == len(set(points)) == 5
    assert [trial["engine"] for trial in seen[0]["trials"]] == [trial["engine"] for trial in seen[1]["trials"]]
    assert seen[0]["front"] == seen[1]["front"]
    for name in ("a", "b"):
        assert edgepress("verify", next((tmp_path / name).glob("*/host.search/best/bundle"))).returncode == 0


def test_a_database_that_does_not_answer_is_told_in_three_lines(
    edgepress: Callable[..., Any], project: SimpleNamespace, tmp_path: Path
) -> None:
    """Promise: a wrong URL ends at once, without a traceback and without the password."""
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL")
    path = project.folder / "recipe.toml"
    path.write_text(path.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    url = "postgresql://me:secret@127.0.0.1:1/none"
    done = edgepress("search", project.folder, "--storage", url, "--out", tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
    assert "127.0.0.1" in done.stderr
