"""Takes one promise-keeping line away at a time, in a copy of the tree: a test must turn red for each."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "targets", "calibration")


def _mutants() -> tuple[Any, ...]:
    spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return tuple(module.MUTANTS)


MUTANTS = _mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_every_mutant_still_fits(mutant: Any) -> None:  # noqa: ANN401
    """The line to be taken away stands where the mutant says, once; the tests that guard it are there."""
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.what}: {text.count(mutant.old)} times in {mutant.file}"
    assert all((ROOT / test.partition("::")[0]).is_file() for test in mutant.tests)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def _fails(tree: Path, tests: tuple[str, ...]) -> bool:
    """Whether one of the tests fails in the copy; children see the copy too."""
    program = (
        "import sys, site, os\n"
        f"sys.path.insert(0, {str(tree)!r})\n"
        "import targets, pytest\n"
        f"assert targets.__file__.startswith({str(tree)!r}), targets.__file__\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "-q", "-x", "-p", "no:cacheprovider", "-m", "not long", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode in {0, 1}, done.stdout[-3000:] + done.stderr[-1000:]
    return done.returncode == 1


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_test_turns_red(mutant: Any, tree: Path) -> None:  # noqa: ANN401
    """Promise: what the line did is tested: without it one of its tests fails."""
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        assert _fails(tree, mutant.tests), f"nothing noticed that {mutant.what!r} is gone"
    finally:
        path.write_text(text, encoding="utf-8")
