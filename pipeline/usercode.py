"""Loads the user's factories: by path under a private module name, or from an installed package. Never via sys.path."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any, final

from targets.errors import EdgepressError, Fault, InputError, nearest
from targets.files import sha256_bytes, sha256_file
from targets.memory import memory_guard


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryRef:
    """A user's function, known by the bytes of its source.

    Attributes:
        function: Its name.
        args: Keyword arguments from the recipe.
        source_sha256: Hash of the file, or of all ``.py`` files of the package it lives in.
        file: The file, for a factory given by path (not part of a key: folders differ).
        module: The module, for a factory of an installed package.
        where: The recipe's key that names it, for messages.
    """

    function: str
    args: Mapping[str, Any]
    source_sha256: str
    file: Path | None = field(default=None, metadata={"key": False})
    module: str | None = None
    where: str = field(default="model.factory", compare=False, metadata={"key": False})

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
        return Fault(
            where=where,
            what=f"{reference!r} is no factory",
            fix='write "file.py:function" or "package.module:function"',
        )
    if location.endswith(".py"):
        file = (folder / os.path.expanduser(location)).absolute()  # noqa: PTH111 - pathlib raises for ~nobody
        return _find_in_file(file, function, args, where)
    return _find_in_package(location, function, args, where)


def _find_in_file(file: Path, function: str, args: Mapping[str, Any], where: str) -> FactoryRef | Fault:
    try:
        source = file.read_bytes()
        tree = ast.parse(source, filename=file.name)
        compile(tree, file.name, "exec", dont_inherit=True)  # finds what parsing does not, such as a stray `return`
    except OSError as error:
        return Fault(
            where=where,
            what=f"cannot read {file}: {error.strerror}",
            fix="check the path; it is relative to the recipe",
        )
    except (SyntaxError, ValueError) as error:
        return Fault(where=where, what=f"{file.name} is not Python: {error}", fix="mend the line named")
    names = _top_level_names(tree)
    if function not in names:
        return Fault(
            where=where,
            what=f"{file.name} has no function {function!r}",
            fix=nearest(function, names) if names else f"write `def {function}(): ...` there",
        )
    return FactoryRef(function=function, args=args, source_sha256=sha256_bytes(source), file=file, where=where)


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
    root = _package_root(module)
    if root is None:
        return Fault(
            where=where,
            what=f"no installed package holds {module!r}",
            fix="install it into this environment, or write file.py:function",
        )
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    listing = "".join(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n" for file in files)
    return FactoryRef(
        function=function, args=args, source_sha256=sha256_bytes(listing.encode()), module=module, where=where
    )


def _package_root(module: str) -> Path | None:
    """Folder of the top package, or the file of a lone module; None where there is no Python source."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def call_factory(
    factory: FactoryRef, extra: Mapping[str, object], key: str, *, prepare: Callable[[], object] | None = None
) -> object:
    """What the user's factory returns.

    Args:
        factory: The function.
        extra: Keyword arguments beside those of the recipe (paths of data files).
        key: The recipe's key that names it, for messages.
        prepare: Called before the file is loaded, and again before the function (seeds: a file is loaded only once).

    Raises:
        InputError: The file does not load, its arguments do not fit, or it raises: named with the user's own line.
    """
    arguments = {**factory.args, **extra}
    try:
        if prepare:
            prepare()
        function = _load(factory, key)
        _check_arguments(function, arguments, factory, key)
        if prepare:
            prepare()
        with memory_guard(f"{key} = {str(factory)!r}"):
            return function(**arguments)
    except EdgepressError:
        raise
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise InputError(
            f"{key} = {str(factory)!r} raised {type(error).__name__}",
            f"{_user_line(error, factory)}: {_one_line(error)}",
            _remedy(error),
        ) from error


def _load(factory: FactoryRef, key: str) -> Callable[..., object]:
    module = _file_module(factory, factory.file) if factory.file else importlib.import_module(str(factory.module))
    function: object = getattr(module, factory.function, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        why = "there is no such name" if function is None else f"it is {type(function).__name__}, not a function"
        raise InputError(f"{key} = {str(factory)!r} is no function", why, nearest(factory.function, names))
    return function


@final
class _BytesLoader(SourceLoader):
    """Loads source that was read already; without file times, the import system neither reads nor writes a ``.pyc``."""

    def __init__(self, source: bytes, path: str) -> None:
        self._source = source
        self._path = path

    def get_filename(self, fullname: str) -> str:
        """The path that tracebacks show."""
        del fullname
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        """The source, whatever else lies at that path by now."""
        del path
        return self._source


def _file_module(factory: FactoryRef, file: Path) -> ModuleType:
    """The module in ``file``: exactly the bytes that were hashed, never a ``.pyc`` of other ones.

    Its private name holds path and content: equal files in two folders are two modules, each beside its own data.
    """
    name = f"_user_{sha256_bytes(str(file).encode())[:8]}_{factory.source_sha256[:16]}"
    source = file.read_bytes()
    if sha256_bytes(source) != factory.source_sha256:
        raise InputError(
            f"{file} changed while the run was under way",
            "its results would belong to no version of it",
            "run the same command again",
        )
    if name not in sys.modules:
        loader = _BytesLoader(source, str(file))
        spec = importlib.util.spec_from_file_location(name, file, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _check_arguments(
    function: Callable[..., object], arguments: Mapping[str, object], factory: FactoryRef, key: str
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without a signature: the call itself will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        section = key.rpartition(".")[0]
        unknown = [name for name in arguments if name not in signature.parameters]
        agree = f"make {section}.args{' and data.files' if section == 'data' else ''} agree with it"
        raise InputError(
            f"{key} = {str(factory)!r} does not take the recipe's arguments",
            f"{factory.function}{signature}: {error}",
            f"{agree}; {nearest(unknown[0], signature.parameters)}" if unknown and signature.parameters else agree,
        ) from error


def _user_line(error: BaseException, factory: FactoryRef) -> str:
    """File and line of the innermost frame that is the user's own."""
    root = factory.file or _package_root(str(factory.module))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if root is not None and Path(frame.filename).is_relative_to(root)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else str(factory)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or "no message"


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"install {error.name!r} into this environment; "
            "code beside the factory must be in the same file or in an installed package"
        )
    return "mend the line named; try it alone in a Python shell"
