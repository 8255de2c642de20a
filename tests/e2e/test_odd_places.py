"""Folders with odd names, odd homes and odd terminals: it works, or the path is named in three lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
ODD: Final = {
    "spaces": "two  words ",
    "quotes": 'it\'s "quoted" `so`',
    "newline": "two\nlines",
    "shell": "$(touch hacked);&|>x*?",
    "composed": unicodedata.normalize("NFC", "é ü 模型"),
    "decomposed": unicodedata.normalize("NFD", "é ü 模型"),
    "dash": "-rf",
    "long": "n" * 200,
    "emoji": "🎈",
}


@pytest.mark.parametrize("name", ODD)
def test_names_are_names(name: str, result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """Promise R12: project, results and cache in folders with any name; nothing in a name is obeyed."""
    odd = tmp_path / ODD[name]
    project = Path(shutil.copytree(result.recipe, odd / "project"))
    done = inline("plan", project, store=odd / "cache")
    assert done.returncode == 0, done.stderr
    bundle = Path(shutil.copytree(result.folder / "bundle", odd / "bundle"))
    assert inline("verify", bundle, "--no-engine").returncode == 0
    (bundle / "engine.json").write_text("{}")
    refused = inline("verify", bundle, "--no-engine")
    assert refused.returncode == 4
    assert len(refused.stderr.strip().split("\n")) == 3, refused.stderr
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["newline", "shell", "decomposed", "dash"])
def test_a_whole_run_in_an_odd_place(name: str, project: SimpleNamespace, edgepress: Run, tmp_path: Path) -> None:
    """Promise R12: from training to a verified bundle, with all children, in a folder with an odd name."""
    odd = tmp_path / ODD[name]
    shutil.copytree(project.folder, odd / "project")
    environment = {"EDGEPRESS_CACHE": str(odd / "cache"), "TMPDIR": str(odd)}
    options = ["--set", "benchmark.measure=false", "--set", "train.epochs=1"]
    done = edgepress("run", "./project", "--out", "out", *options, env=environment, cwd=odd)
    assert done.returncode == 0, done.stderr
    (bundle,) = (odd / "out").glob("*/host/bundle.tar.gz")
    assert edgepress("verify", bundle, env=environment, cwd=odd).returncode == 0
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.parametrize(
    "environment",
    [{"HOME": "/nowhere", "EDGEPRESS_CACHE": ""}, {"NO_COLOR": "1", "COLUMNS": "20"}, {"TERM": "dumb", "LANG": "C"}],
)
def test_odd_surroundings(
    environment: dict[str, str], result: SimpleNamespace, inline: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Promise R12: no home, no colour, a narrow terminal, no locale: the same results, without control sequences."""
    link = tmp_path / "link"
    (tmp_path / "real").mkdir(mode=0o700)
    link.symlink_to(tmp_path / "real")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = inline("plan", result.recipe, store=link)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if os.geteuid():
        monkeypatch.setenv("EDGEPRESS_CACHE", "/proc/none")
        assert inline("plan", result.recipe, store=Path("/proc/none")).returncode == 5
