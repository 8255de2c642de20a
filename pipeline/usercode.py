"""Loads the user's factories: by path under a private module name, or from an installed package. Never via sys.path."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targets.errors import EdgepressError, Fault, InputError, nearest
from targets.files import sha256_file


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryRef:
    """A user's function, known by the bytes of its source.

    Attributes:
        function: Its name.
        args: Keyword arguments from the recipe.
        source_sha256: Hash of the file, or of all ``.py`` files of the package it lives in.
        file: The file, for a factory given by path (not part of a key: folders differ).
        module: The module, for a factory of an installed package.
    """

    function: str
    args: Mapping[str, Any]
    source_sha256: str
    file: Path | None = field(default=None, metadata={"key": False})
    module: str | None = None

    def __str__(self) -> str:
        return f"{self.file.name if self.file else self.module}:{self.function}"


def find_factory(reference: str, folder: Path, args: Mapping[str, Any], where: str) -> FactoryRef | Fault:
    """The factory that ``reference`` names, found without running anything.

    Args:
        reference: ``file.py:function`` (relative to ``folder``) or ``package.module:function``.
        folder: The recipe's folder.
        args: Keyword arguments to call it with.
        where: Dotted path of the recipe's key, for the fault.
    """
    location, sign, function = reference.rpartition(":")
    if not sign or not location or not function.isidentifier():
        return Fault(where=where, what=f"{reference!r} is no factory", fix='write "file.py:function" or "package.module:function"')
    if location.endswith(".py"):
        return _find_in_file((folder / Path(location).expanduser()).absolute(), function, args, where)
    return _find_in_package(location, function, args, where)


def _find_in_file(file: Path, function: str, args: Mapping[str, Any], where: str) -> FactoryRef | Fault:
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except OSError as error:
        return Fault(where=where, what=f"cannot read {file}: {error.strerror}", fix="check the path; it is relative to the recipe")
    except (SyntaxError, ValueError) as error:
        return Fault(where=where, what=f"{file.name} is not Python: {error}", fix="mend the line named")
    names = _top_level_names(tree)
    if function not in names:
        return Fault(where=where, what=f"{file.name} has no function {function!r}", fix=nearest(function, names) if names else "write it there")
    return FactoryRef(function=function, args=args, source_sha256=sha256_file(file), file=file)


def _top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _find_in_package(module: str, function: str, args: Mapping[str, Any], where: str) -> FactoryRef | Fault:
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return Fault(where=where, what=f"no installed package holds {module!r}", fix="install it into this environment, or write file.py:function")
    root = Path(spec.origin)
    files = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    digest = hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()
    return FactoryRef(function=function, args=args, source_sha256=digest, module=module)


def call_factory(factory: FactoryRef, extra: Mapping[str, Any], key: str) -> Any:
    """What the user's factory returns.

    Args:
        factory: The function.
        extra: Keyword arguments beside those of the recipe (paths of data files).
        key: The recipe's key that names it, for messages.

    Raises:
        InputError: The file does not load, or the factory raises: named with the user's own line.
    """
    try:
        function = _load(factory)
        return function(**factory.args, **extra)
    except EdgepressError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise InputError(
            f"{key} = {str(factory)!r} raised {type(error).__name__}",
            f"{_user_line(error, factory)}: {_one_line(error)}",
            _remedy(error, key),
        ) from error


def _load(factory: FactoryRef) -> Callable[..., Any]:
    if factory.file is None:
        assert factory.module is not None
        return getattr(importlib.import_module(factory.module), factory.function)  # type: ignore[no-any-return]
    if sha256_file(factory.file) != factory.source_sha256:
        raise InputError(
            f"{factory.file} changed while the run was under way", "its results would belong to no version of it", "run the same command again"
        )
    name = f"_user_{factory.source_sha256[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, factory.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return getattr(sys.modules[name], factory.function)  # type: ignore[no-any-return]


def _user_line(error: BaseException, factory: FactoryRef) -> str:
    own = str(factory.file) if factory.file else ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if frames:
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
    return str(factory)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or "no message"


def _remedy(error: BaseException, key: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"install {error.name!r} into this environment; code beside the factory must be in the same file or in an installed package"
        )
    if isinstance(error, TypeError) and "argument" in str(error):
        section = key.split(".", maxsplit=1)[0]
        return f"make the arguments of the function and the recipe's {section}.args (and data.files) agree"
    return "mend the line named; try it alone in a Python shell"
