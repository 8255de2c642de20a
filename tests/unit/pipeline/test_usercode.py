"""A user's factory is found without running it, runs exactly as hashed, and fails with the user's own line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.usercode import FactoryRef, call_factory, find_factory
from targets.errors import EdgepressError, Fault, InputError

KEY = "model.factory"


def _written(folder: Path, source: str, **args: object) -> FactoryRef:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(source, encoding="utf-8")
    found = find_factory("net.py:make", folder, args, KEY)
    assert isinstance(found, FactoryRef), found
    return found


def _fault(reference: str, folder: Path) -> Fault:
    found = find_factory(reference, folder, {}, KEY)
    assert isinstance(found, Fault)
    assert found.where == KEY
    return found


def _error(factory: FactoryRef, extra: Mapping[str, object] | None = None, key: str = KEY) -> InputError:
    with pytest.raises(InputError) as caught:
        call_factory(factory, extra or {}, key)
    return caught.value


def test_function_of_a_file_is_called_with_the_arguments(tmp_path: Path) -> None:
    """Arguments of the recipe and paths of files arrive by name."""
    factory = _written(tmp_path, "def make(width, path):\n    return width, path\n", width=3)
    assert call_factory(factory, {"path": tmp_path}, KEY) == (3, tmp_path)
    assert str(factory) == "net.py:make"


def test_function_of_an_installed_package_is_called() -> None:
    """``package.module:function`` works without a file."""
    factory = find_factory("json.decoder:JSONDecoder", Path(), {}, KEY)
    assert isinstance(factory, FactoryRef)
    assert type(call_factory(factory, {}, KEY)).__name__ == "JSONDecoder"


def test_finding_runs_nothing(tmp_path: Path) -> None:
    """Looking a factory up does not execute the user's file."""
    canary = tmp_path / "ran"
    _written(tmp_path, f"open({str(canary)!r}, 'w').close()\ndef make(): pass\n")
    assert not canary.exists()


@pytest.mark.parametrize("reference", ["net.py", ":make", "net.py:", "net.py:1x", ""])
def test_reference_of_another_form_is_a_fault(reference: str, tmp_path: Path) -> None:
    """What is no ``file.py:function`` says what to write."""
    assert "file.py:function" in _fault(reference, tmp_path).fix


def test_missing_file_is_a_fault_with_its_path(tmp_path: Path) -> None:
    """The path that was tried is named."""
    assert str(tmp_path / "gone.py") in _fault("gone.py:make", tmp_path).what


@pytest.mark.parametrize("source", ["def make(:\n    pass\n", "x = 1\nreturn x\ndef make(): pass\n"])
def test_file_that_does_not_compile_is_a_fault_with_its_line(source: str, tmp_path: Path) -> None:
    """Errors of parser and of compiler are found before the run, with the line."""
    (tmp_path / "net.py").write_text(source, encoding="utf-8")
    assert "net.py, line" in _fault("net.py:make", tmp_path).what


def test_missing_function_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt function is a fault that names the near one."""
    (tmp_path / "net.py").write_text("def make_net(): pass\n", encoding="utf-8")
    assert "'make_net'" in _fault("net.py:make_nett", tmp_path).fix


@pytest.mark.parametrize("module", ["no_such_package_here.net", "sys"])
def test_package_without_source_is_a_fault(module: str, tmp_path: Path) -> None:
    """A package that is not installed, or has no Python source to hash, is refused by name."""
    assert module in _fault(f"{module}:make", tmp_path).what


def test_missing_function_of_a_package_names_the_nearest() -> None:
    """What only the import can tell is told with the near name too."""
    factory = find_factory("json.decoder:JSONDecodr", Path(), {}, KEY)
    assert isinstance(factory, FactoryRef)
    assert "'JSONDecoder'" in _error(factory).fix


def test_raising_at_import_names_the_line(tmp_path: Path) -> None:
    """The user's line, not ours, is in the message."""
    error = _error(_written(tmp_path, "x = 1\ny = x / 0\ndef make(): pass\n"))
    assert "ZeroDivisionError" in error.what
    assert error.why.startswith("net.py:2: division")


@pytest.mark.parametrize(
    ("statement", "kind"), [("raise ValueError('no such width')", "ValueError"), ("exit(3)", "SystemExit")]
)
def test_raising_at_the_call_names_the_innermost_line(statement: str, kind: str, tmp_path: Path) -> None:
    """The innermost frame of the user's file is named, even when it tries to leave the program."""
    error = _error(
        _written(tmp_path, f"import sys\nexit = sys.exit\ndef make():\n    help_()\ndef help_():\n    {statement}\n")
    )
    assert kind in error.what
    assert error.why.startswith("net.py:6: ")


def test_failed_import_is_not_kept(tmp_path: Path) -> None:
    """A module that failed half way is tried anew, not used as it is."""
    factory = _written(tmp_path, "def make(): pass\nraise ValueError\n")
    assert "ValueError" in _error(factory).what
    assert "ValueError" in _error(factory).what


def test_missing_import_says_what_to_install(tmp_path: Path) -> None:
    """An absent package is named in the remedy."""
    assert "'no_such_thing'" in _error(_written(tmp_path, "import no_such_thing\ndef make(): pass\n")).fix


@pytest.mark.parametrize(
    ("key", "args", "words"),
    [
        ("model.factory", {"widht": 3}, ("model.args", "'width'", "(width)")),
        ("data.factory", {}, ("data.args and data.files", "'width'")),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    key: str, args: dict[str, object], words: tuple[str, ...], tmp_path: Path
) -> None:
    """Unknown and missing arguments are named with the signature, and the recipe's key to change."""
    error = _error(_written(tmp_path, "def make(width): return width\n", **args), key=key)
    assert all(word in str(error) for word in words), str(error)


def test_type_error_inside_the_function_is_not_blamed_on_the_recipe(tmp_path: Path) -> None:
    """A wrong call inside the user's code is reported at its line."""
    error = _error(_written(tmp_path, "def help_(x): pass\ndef make():\n    help_(y=1)\n"))
    assert error.why.startswith("net.py:3: ")
    assert "args" not in error.fix


def test_name_that_is_no_function_is_refused(tmp_path: Path) -> None:
    """A constant of that name is no factory."""
    assert "int" in _error(_written(tmp_path, "make = 3\n")).why


def test_change_during_the_run_is_refused(tmp_path: Path) -> None:
    """Results must belong to the version that was hashed."""
    factory = _written(tmp_path, "def make(): return 1\n")
    (tmp_path / "net.py").write_text("def make(): return 2\n", encoding="utf-8")
    assert "changed while the run" in _error(factory).what


def test_code_that_runs_is_the_code_that_was_hashed(tmp_path: Path) -> None:
    """A new version of equal length, written within the same second, is not served from old bytecode."""
    for value in (1, 2, 3):
        assert call_factory(_written(tmp_path, f"def make(): return {value}\n"), {}, KEY) == value
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"], "nothing is written beside the user's file"


def test_same_named_files_of_two_recipes_do_not_collide(tmp_path: Path) -> None:
    """Each module is its own, even where the files are equal: paths start at its own folder."""
    source = "from pathlib import Path\ndef make(): return Path(__file__).parent.name\n"
    first, second = _written(tmp_path / "a", source), _written(tmp_path / "b", source)
    assert [call_factory(first, {}, KEY), call_factory(second, {}, KEY)] == ["a", "b"]
    assert first.source_sha256 == second.source_sha256


def test_search_path_is_left_alone(tmp_path: Path) -> None:
    """Loading a file adds nothing to ``sys.path`` and no public module name."""
    before = list(sys.path)
    call_factory(
        _written(tmp_path, "from dataclasses import dataclass\n@dataclass\nclass make:\n    x: int = 1\n"), {}, KEY
    )
    assert sys.path == before
    assert "net" not in sys.modules


def test_own_errors_pass_unchanged(tmp_path: Path) -> None:
    """A factory that raises one of our errors is heard as it is."""
    source = "from targets.errors import DeviceError\ndef make():\n    raise DeviceError('a', 'b', 'c')\n"
    with pytest.raises(EdgepressError) as caught:
        call_factory(_written(tmp_path, source), {}, KEY)
    assert caught.value.exit_code == 6
