"""A profile may extend another: tables are merged key by key, and messages name the file whose key is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets import machine
from targets.errors import InputError
from targets.inheritance import read_layers
from targets.profile import ancestors, load_profile, profile_names

CHILD = 'name = "board"\nextends = "raspberry-pi-5"\n'


def _file(folder: Path, text: str, name: str = "board.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def _refused(target: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_profile(target)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def test_a_child_says_only_what_differs(tmp_path: Path) -> None:
    """Promise: its own keys win, everything else is the parent's, and results lie under its own name."""
    child = load_profile(_file(tmp_path, CHILD + "[engine]\nthreads = 2\n[hardware]\nmemory_mb = 512\n"))
    parent = load_profile("raspberry-pi-5")
    assert child.name == "board"
    assert child.engine == parent.engine.model_copy(update={"threads": 2})
    assert child.hardware == parent.hardware.model_copy(update={"memory_mb": 512})
    same = {"name", "engine", "hardware"}
    assert child.model_dump(exclude=same) == parent.model_dump(exclude=same)


def test_lists_take_the_place_of_lists(tmp_path: Path) -> None:
    """Promise: a list is the child's or the parent's, never both."""
    text = 'name = "b"\nextends = "android-arm64"\nalternatives = []\n[quantization]\nprecisions = ["fp32"]\n'
    child = load_profile(_file(tmp_path, text))
    assert child.alternatives == ()
    assert child.quantization.precisions == ("fp32",)


def test_another_engine_takes_nothing_over(tmp_path: Path) -> None:
    """Promise: keys of the parent's engine do not reach an engine of another name."""
    text = CHILD.replace("raspberry-pi-5", "x86-64-vnni")
    text += '[engine]\nname = "openvino"\n[quantization]\nscheme = "openvino"\n'
    assert load_profile(_file(tmp_path, text)).engine.model_dump(exclude_defaults=True) == {"name": "openvino"}


def test_the_file_that_brings_a_fault_in_is_blamed(tmp_path: Path) -> None:
    """Promise: a child that changes only its engine is told so, though the key at fault stands in its parent."""
    error = _refused(_file(tmp_path, CHILD + '[engine]\nname = "tensorrt"\n'))
    assert "board.toml: quantization.scheme" in str(error)
    assert "(raspberry-pi-5 says so, and board.toml makes it wrong)" in str(error)
    middle = _file(tmp_path, CHILD.replace("board", "middle") + "[engine]\nthreads = 64\n", "middle.toml")
    error = _refused(_file(tmp_path, f'name = "board"\nextends = "{Path(middle).name}"\n'))
    assert "middle.toml: engine.threads" in str(error)
    assert "board.toml:" not in str(error)


def test_another_device_keeps_the_limits(tmp_path: Path) -> None:
    """Promise: only engines are replaced as a whole; a device's name changes nothing but the name."""
    child = load_profile(_file(tmp_path, CHILD + '[device]\nname = "pi5"\n'))
    assert child.device == load_profile("raspberry-pi-5").device.model_copy(update={"name": "pi5"})


def test_a_chain_of_files_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: a parent's path is relative to the file that names it, wherever edgepress runs."""
    (tmp_path / "sub").mkdir()
    _file(tmp_path, CHILD + "[engine]\nthreads = 2\n", "base.toml")
    path = _file(tmp_path / "sub", 'name = "leaf"\nextends = "../base.toml"\n')
    monkeypatch.chdir("/")
    assert load_profile(path).engine.threads == 2
    assert ancestors(path) == ("base.toml", "raspberry-pi-5")


def test_a_child_may_extend_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: `extends = "host"` is whatever profile fits this machine, with the child's keys."""
    monkeypatch.setattr(machine, "arch", lambda: "x86_64")
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset({"avx2", "fma"}))
    path = _file(tmp_path, 'name = "mine"\nextends = "host"\n[engine]\nthreads = 3\n')
    assert load_profile(path).quantization.scheme == "ort-x86-avx2"
    assert load_profile(path).engine.threads == 3
    assert ancestors(path) == ("host", "x86-64-avx2")


def test_a_child_needs_a_name(tmp_path: Path) -> None:
    """Promise: a child does not write its results into its parent's folder."""
    error = _refused(_file(tmp_path, 'extends = "raspberry-pi-5"\n'))
    assert [fault.where for fault in error.faults] == ["board.toml: name"]


def test_faults_name_the_file_that_is_wrong(tmp_path: Path) -> None:
    """Promise: with several files, each fault says whose key it is."""
    _file(tmp_path, CHILD + "[engine]\nthreads = 0\n[pruning]\nwidth = 3\n", "base.toml")
    path = _file(tmp_path, 'name = "leaf"\nextends = "base.toml"\n[hardware]\nmemory_mb = -1\n[engine]\nthread = 2\n')
    assert {fault.where for fault in _refused(path).faults} == {
        "base.toml: engine.threads", "base.toml: pruning.width", "board.toml: hardware.memory_mb",
        "board.toml: engine.thread",
    }  # fmt: skip


def test_what_a_child_replaced_is_the_childs_fault(tmp_path: Path) -> None:
    """Promise: a contradiction between a parent's hardware and a child's wish is shown at the wish."""
    error = _refused(_file(tmp_path, CHILD + '[quantization]\nscheme = "trt"\n'))
    assert [fault.where for fault in error.faults] == ["board.toml: quantization.scheme"]


def test_a_circle_is_refused(tmp_path: Path) -> None:
    """Promise: profiles that extend each other are refused, with the way round."""
    _file(tmp_path, 'name = "a"\nextends = "b.toml"\n', "a.toml")
    path = _file(tmp_path, 'name = "b"\nextends = "./a.toml"\n', "b.toml")
    error = _refused(path)
    assert "b.toml -> a.toml -> b.toml" in error.why
    assert error.why.startswith("extends: ")
    own = _refused(_file(tmp_path, 'name = "s"\nextends = "self.toml"\n', "self.toml"))
    assert "circle" in own.why


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ('"raspberry-pi5"', "raspberry-pi-5"),
        ('"gone.toml"', "gone.toml"),
        ("3", "names no profile"),
        ('""', "names no profile"),
        ("[]", "names no profile"),
        ('"broken.toml"', "broken.toml"),
    ],
)
def test_a_parent_that_is_not_there_is_a_fault(extends: str, said: str, tmp_path: Path) -> None:
    """Promise: the child is named, with the near name or the reason."""
    _file(tmp_path, "name = ", "broken.toml")
    error = _refused(_file(tmp_path, f'name = "b"\nextends = {extends}\n'))
    assert [fault.where for fault in error.faults] == ["extends"]
    assert "board.toml" in error.what
    assert said in f"{error.why} {error.fix}"


def test_bundled_profiles_extend_bundled_ones() -> None:
    """Promise: what comes with edgepress needs nothing else."""
    extended = {name: ancestors(name) for name in profile_names()}
    assert extended["jetson-agx-orin-dla"] == ("jetson-agx-orin", "jetson-orin-nano")
    assert {name for chain in extended.values() for name in chain} <= set(profile_names())


_TABLES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
    ),
    max_size=3,
)


@given(below=_TABLES, above=_TABLES)
@settings(max_examples=60, deadline=None)
def test_merging_is_key_by_key(
    tmp_path_factory: pytest.TempPathFactory, below: dict[str, object], above: dict[str, object]
) -> None:
    """Promise: each leaf of the child is there, and each of the parent's that the child says nothing about."""
    folder = tmp_path_factory.mktemp("layers")
    _file(folder, _toml({**below, "name": 1}), "below.toml")
    path = _file(folder, _toml({**above, "name": 2, "extends": "below.toml"}), "above.toml")
    layered = read_layers(path, lambda *_: pytest.fail("followed"))
    upper, lower = _leaves(above), _leaves(below)
    kept = {path: value for path, value in lower.items() if not _covered(path, above)}
    assert _leaves({key: value for key, value in layered.tables.items() if key != "name"}) == {**kept, **upper}
    assert layered.origins["name",] == "above.toml"
    for leaf in upper:
        assert layered.origins[leaf] == "above.toml"


def _leaves(tables: object, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    if not isinstance(tables, dict):
        return {at: tables}
    return {leaf: value for key, inner in tables.items() for leaf, value in _leaves(inner, (*at, key)).items()}


def _covered(path: tuple[str, ...], above: object) -> bool:
    """Whether the child has something at the leaf itself, or a plain value above it."""
    for key in path:
        if not isinstance(above, dict):
            return True
        if key not in above:
            return False
        above = above[key]
    return True


def _toml(tables: dict[str, object]) -> str:
    return "\n".join(f"{key} = {_inline(value)}" for key, value in tables.items())


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)
