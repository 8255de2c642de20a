"""The walls of the house: who imports whom, what stays light, what is never called."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("targets", "calibration", "pipeline")
MAY_IMPORT = {"targets": {"targets"}, "calibration": {"targets", "calibration"}, "pipeline": set(PACKAGES)}
TORCH_FREE = ("targets", "calibration")
LEARNS = {
    "rounding",
    "qat",
}  # what learns on the quantised graph, with calibration/torch*.py: imported only when asked for
BANNED_CALLS = {
    "eval",
    "exec",
    "os.system",
    "pickle.load",
    "pickle.loads",
    "marshal.loads",
    "yaml.load",
    "tempfile.mktemp",
    "tarfile.TarFile.extractall",
    "shutil.unpack_archive",
    "joblib.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.export.load",
}
BANNED_METHODS = {"extractall", "register_custom_ops_library"}  # our own extractor; compiled code is never taken in


@functools.cache
def _modules() -> tuple[tuple[str, Path, ast.Module], ...]:
    return tuple(
        (package, path, ast.parse(path.read_bytes()))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    )


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_imports_run_one_way() -> None:
    """Promise: targets <- calibration <- pipeline, never back."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, path, tree in _modules()
        for name in _imports(tree)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] not in MAY_IMPORT[package]
    ]
    assert not wrong


def test_only_the_command_line_imports_the_command_line() -> None:
    """Promise: nothing below pipeline.cli knows it."""
    wrong = [
        str(path.relative_to(ROOT))
        for _, path, tree in _modules()
        if "cli" not in path.parts and any(name.startswith("pipeline.cli") for name in _imports(tree))
    ]
    assert not wrong


def _needs_torch(path: Path) -> bool:
    return path.parent.name == "calibration" and (path.stem in LEARNS or path.stem.startswith("torch"))


def test_targets_and_calibration_know_no_torch() -> None:
    """Promise: hardware and calibration work without torch, but for what learns, which has files of its own."""
    wrong = [
        str(path.relative_to(ROOT))
        for package, path, tree in _modules()
        if package in TORCH_FREE
        and not _needs_torch(path)
        and any(name.split(".")[0] == "torch" for name in _imports(tree))
    ]
    assert not wrong


def test_what_learns_is_imported_only_when_asked_for() -> None:
    """Promise: calibrating and quantising import no torch: nobody names what learns at the top of a file."""
    learning = {f"calibration.{path.stem}" for _, path, _ in _modules() if _needs_torch(path)}
    assert learning
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package, path, tree in _modules()
        if package in TORCH_FREE and not _needs_torch(path)
        for name in _imports(
            ast.Module(body=[n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)], type_ignores=[])
        )
        if name in learning
    ]
    assert not wrong


def test_imports_are_absolute() -> None:
    """Promise: a module is found by one name; only the program that travels, whose package has two, is relative."""
    wrong = [
        str(path.relative_to(ROOT))
        for _, path, tree in _modules()
        if "ondevice" not in path.parts
        and any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(tree))
    ]
    assert not wrong


def test_dangerous_calls_are_absent() -> None:
    """Promise: no shell, no pickle, no eval anywhere in the product."""
    wrong = []
    for _, path, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                shell = any(k.arg == "shell" and getattr(k.value, "value", False) is not False for k in node.keywords)
                method = isinstance(node.func, ast.Attribute) and node.func.attr in BANNED_METHODS
                if shell or method or ast.unparse(node.func) in BANNED_CALLS:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node.func)}")
    assert not wrong


CLOCKS = {"time.time", "time.time_ns", "dt.datetime.now", "datetime.now", "dt.datetime.utcnow", "dt.date.today"}
MAY_ASK_THE_TIME = {
    "pipeline/benchmarking/campaign.py",  # when a measurement was made: declared measured
    "pipeline/probing/probe.py",
    "pipeline/store/garbage.py",  # the age of what nobody used
    "targets/ondevice/system.py",
}


def test_only_measurements_ask_for_the_time() -> None:
    """Promise R6: no result, key or time-out depends on the wall clock; time-outs count with the monotonic one."""
    found = {
        path.relative_to(ROOT).as_posix()
        for _, path, tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS
    }
    assert found <= MAY_ASK_THE_TIME


def test_every_load_of_arrays_refuses_pickles() -> None:
    """Promise S1: `np.load` never unpickles, `torch.load` reads weights only."""
    wrong = []
    for _, path, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"np.load", "numpy.load", "torch.load"}:
                wanted = {"torch.load": ("weights_only", True)}.get(ast.unparse(node.func), ("allow_pickle", False))
                given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                if given.get(wanted[0]) is not wanted[1]:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def test_prints_live_in_the_command_line_and_the_device_program() -> None:
    """Promise: below the command line, progress is events."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for _, path, tree in _modules()
        if "cli" not in path.parts and "ondevice" not in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    """Promise: `edgepress --help` imports neither torch nor onnxruntime, numpy, onnx or matplotlib."""
    program = (
        "import sys\n"
        "from pipeline.cli.main import cli\n"
        f"cli.main(['{argument}'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnxruntime', 'numpy', 'onnx', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_files_keep_house_size() -> None:
    """Promise: no module grows beyond 400 lines."""
    large = [
        f"{path.relative_to(ROOT)} {len(path.read_text().splitlines())}"
        for _, path, _ in _modules()
        if len(path.read_text().splitlines()) > 400
    ]
    assert not large


def test_modules_say_their_responsibility() -> None:
    """Promise: the first line of every module says what it is for."""
    silent = [str(path.relative_to(ROOT)) for _, path, tree in _modules() if not ast.get_docstring(tree)]
    assert not silent


def test_tests_state_their_promise() -> None:
    """Promise: every test says in a docstring what it holds."""
    silent = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tests = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]
        silent += [
            f"{path.relative_to(ROOT)}:{node.name}"
            for node in tests
            if node.name.startswith("test_") and not ast.get_docstring(node)
        ]
    assert not silent


def test_packages_are_ours() -> None:
    """Promise: `pipeline` is this project's package; something else of that name on sys.path would shadow it."""
    import pipeline

    assert Path(str(pipeline.__file__)).resolve().parent in {
        ROOT / "pipeline",
        *(Path(p) / "pipeline" for p in sys.path),
    }


def test_committed_text_names_no_machine() -> None:
    """Promise: no path of a build machine in code or docs."""
    names = ("/" + "work/", "/" + "root/")
    wrong = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(p for _, p, _ in _modules())]:
        text = path.read_text(encoding="utf-8")
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name in text]
    assert not wrong
