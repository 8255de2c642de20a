"""docs/promises.md says the truth: each test that it names exists and is collected."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "promises.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`( \*\((?:long|devices)\)\*)?")
_ROW = re.compile(r"^\| \*\*[RDS]\d+\*\*.*\|$", re.MULTILINE)


def _named() -> list[tuple[str, str, str]]:
    return [(file, test, mark.strip(" *()")) for file, test, mark in _NAMED.findall(PAGE.read_text(encoding="utf-8"))]


def _tests(file: str) -> dict[str, str]:
    """Tests of a file, with the source of their marks: single parameters may be long, and the test is not."""
    tree = ast.parse((ROOT / file).read_bytes())
    return {
        node.name: " ".join(
            ast.unparse(item) for item in node.decorator_list if "parametrize(" not in ast.unparse(item)
        )
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_the_page_names_exists() -> None:
    """Promise: no promise on the page leans on a test that is not there, or that runs elsewhere than it says."""
    named = _named()
    assert len(named) > 100
    files = {file: _tests(file) for file, _, _ in named if (ROOT / file).is_file()}
    missing = [f"{file}::{test}" for file, test, _ in named if test not in files.get(file, {})]
    assert not missing
    wrong = [
        f"{file}::{test}"
        for file, test, mark in named
        if (mark == "long") != ("mark.long" in files[file][test])
        or (mark == "devices") != file.startswith("tests/devices")
    ]
    assert not wrong, "the page says of these tests that they run somewhere else"


def test_every_promise_has_a_test() -> None:
    """Promise: each row of the page names at least one test, and one that `make test` runs."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 30
    bare = [row[:40] for row in rows if not any(not mark for _, _, mark in _NAMED.findall(row))]
    assert not bare


def test_every_promise_of_a_test_has_its_row() -> None:
    """Promise: a test that says `Promise R7` stands for a promise that the page has."""
    text = PAGE.read_text(encoding="utf-8")
    said = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        said |= set(re.findall(r"Promise ([RDS]\d+):", path.read_text(encoding="utf-8")))
    assert said
    assert not {name for name in said if f"**{name}**" not in text}


@pytest.mark.long
def test_pytest_collects_what_the_page_names() -> None:
    """Promise: pytest itself finds each of them."""
    named = {f"{file}::{test}" for file, test, _ in _named()}
    files = sorted({name.partition("::")[0] for name in named})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    found = {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}
    assert named <= found, sorted(named - found)
