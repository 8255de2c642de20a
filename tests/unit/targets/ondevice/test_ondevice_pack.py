"""The packed program: one deterministic file, old Python, nothing but itself, numpy and the runtime."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import zipfile
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from targets.ondevice_pack import pack

if TYPE_CHECKING:
    from pathlib import Path

NEWER_THAN_3_8 = {
    "removeprefix", "removesuffix", "bit_count", "is_relative_to", "with_stem", "hardlink_to", "cache", "pairwise",
    "lcm", "nextafter", "randbytes", "file_digest", "pidfd_open", "waitstatus_to_exitcode", "BooleanOptionalAction",
}  # fmt: skip
SOURCES = sorted(p for p in resources.files("targets.ondevice").iterdir() if p.name.endswith(".py"))


def test_same_bytes_from_anywhere(tmp_path: Path) -> None:
    """Another process with another umask, time zone, hash seed and working folder packs the same bytes."""
    code = "import os, sys; os.umask(0o077); from targets.ondevice_pack import pack; sys.stdout.buffer.write(pack())"
    other = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
    )
    assert other.stdout == pack()


def test_it_is_a_zipapp() -> None:
    """It starts with a shebang, holds an entry point, and every member has the fixed time and mode."""
    data = pack()
    assert data.startswith(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        assert archive.testzip() is None
    assert [m.filename for m in members] == sorted(m.filename for m in members)
    assert "__main__.py" in {m.filename for m in members}
    assert {m.date_time for m in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {m.external_attr >> 16 for m in members} == {0o100644}
    assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_syntax_of_python_3_8(source: Path) -> None:
    """Every module is syntax of Python 3.8, and defers its annotations (which use newer types)."""
    tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 8))
    has_code = any(not isinstance(node, ast.Expr | ast.Assign) for node in tree.body)
    imports = [
        node.names[0].name for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    assert imports == (["annotations"] if has_code else [])


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_no_calls_that_python_3_8_lacks(source: Path) -> None:
    """No `zip(strict=)`, no `X | Y` in isinstance, no removeprefix: newer than 3.8 although the syntax is old."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in NEWER_THAN_3_8
            assert node.attr != "readlink" or ast.unparse(node.value) == "os"  # that of Path is newer
        if isinstance(node, ast.ImportFrom):
            assert not NEWER_THAN_3_8 & {alias.name for alias in node.names}
        if isinstance(node, ast.Call):
            assert "strict" not in {keyword.arg for keyword in node.keywords}
            if isinstance(node.func, ast.Name) and node.func.id in {"isinstance", "issubclass"}:
                assert not isinstance(node.args[1], ast.BinOp)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_no_types_that_python_3_8_lacks(source: Path) -> None:
    """Outside annotations, which are never evaluated, `list[int]` and `X | None` would fail when the module loads."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    deferred = {id(inner) for node in ast.walk(tree) for part in _deferred(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in deferred:
            continue
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"list", "dict", "tuple", "set", "frozenset", "type"}, ast.unparse(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = [ast.unparse(side) for side in (node.left, node.right)]
            assert not {"None", "str", "int", "float", "bytes", "dict", "list"} & set(sides), sides


def _deferred(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that are not evaluated: annotations, and what is for type checkers only."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return list(node.body)
    parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [part for part in parts if part is not None]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_it_imports_nothing_else(source: Path) -> None:
    """Only its own modules, the standard library, numpy and the runtimes."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
        assert not isinstance(node, ast.ImportFrom) or node.level <= 1
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names | {"numpy", "onnxruntime", "openvino"}, name
