"""A whole product in miniature: a small net, generated data, one cache, and two ways to call the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from pipeline.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

STRIPES = Path(__file__).parent / "stripes"
EDGEPRESS = Path(sys.executable).with_name("edgepress")
Done = subprocess.CompletedProcess[str]


class Project(SimpleNamespace):
    """A user's ``folder``: recipe, model and data."""

    def edit(self, file: str, old: str, new: str) -> Self:
        """Replaces ``old`` in one of the files, once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return self


class Result(SimpleNamespace):
    """A finished run: its ``folder`` and ``recipe``, and what it said, ``stdout`` and ``stderr``."""

    @property
    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all these tests, shared by the workers of pytest-xdist: its locks keep them apart."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "e2e-cache"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def edgepress(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Calls the installed command in a process of its own: ``edgepress("run", folder, env={...})``."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(*arguments: object, env: dict[str, str] | None = None, cwd: Path = elsewhere, umask: int = -1) -> Done:
        return subprocess.run(
            [EDGEPRESS, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, "EDGEPRESS_CACHE": str(cache), **(env or {})},
            umask=umask,
            timeout=240,
        )

    return call


@pytest.fixture(scope="session")
def edgepress_program() -> Path:
    """The installed console script."""
    return EDGEPRESS


@pytest.fixture
def inline(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Calls the command line in this process, which has paid for its imports already."""

    def call(*arguments: object, store: Path = cache) -> Done:
        monkeypatch.setenv("EDGEPRESS_CACHE", str(store))
        monkeypatch.setattr(sys, "argv", ["edgepress", *map(str, arguments)])
        capfd.readouterr()
        code = main._run()
        said = capfd.readouterr()
        return Done(sys.argv, code, said.out, said.err)

    return call


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the miniature product, free to be broken."""
    return Project(folder=Path(shutil.copytree(STRIPES, tmp_path / "stripes")))


@pytest.fixture(scope="session")
def result(edgepress: Callable[..., Done], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run of the miniature product, from the command line."""
    out = tmp_path_factory.mktemp("out")
    done = edgepress("run", STRIPES, "--out", out)
    assert done.returncode == 0, done.stderr
    return Result(folder=out / "stripes" / "host", recipe=STRIPES, stdout=done.stdout, stderr=done.stderr)
