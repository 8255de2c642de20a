"""Bundled profiles are valid, a user's own is checked as a whole, and ``host`` becomes one this machine provides."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets import machine
from targets.errors import EnvironmentFailure, InputError
from targets.profile import load_profile, profile_names
from targets.scheme import SCHEMES

GOOD = """
name = "board"
description = "my board"
[hardware]
arch = "x86_64"
isa = ["avx2", "avx_vnni"]
[engine]
name = "onnxruntime"
[quantization]
scheme = "ort-x86"
"""


def _file(folder: Path, text: str) -> str:
    (folder / "board.toml").write_text(text, encoding="utf-8")
    return str(folder / "board.toml")


def _refused(target: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load_profile(target)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def test_the_promised_profiles_are_there() -> None:
    """The profiles named in the documentation come with the package."""
    assert set(profile_names()) == {
        "host", "raspberry-pi-4", "raspberry-pi-5", "arm64-v8", "arm64-dotprod", "arm64-i8mm", "android-arm64",
        "jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-orin-nx", "jetson-orin-nx-dla",
        "jetson-agx-orin", "jetson-agx-orin-dla", "jetson-thor", "x86-64-sse42", "x86-64-avx2", "x86-64-avx512",
        "x86-64-vnni", "x86-64-avx-vnni", "x86-64-amx", "intel-n100", "amd-zen3", "amd-zen4", "nvidia-t4",
        "nvidia-a100", "nvidia-l4", "nvidia-h100", "nvidia-h200", "nvidia-rtx-30", "nvidia-rtx-40", "nvidia-rtx-50",
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "host"])
def test_every_bundled_profile_is_valid(name: str) -> None:
    """Each loads under its own name and names a known scheme."""
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.quantization.scheme in SCHEMES
    assert "fp32" in profile.quantization.precisions


@pytest.mark.parametrize(
    ("arch", "features", "like"),
    [
        (
            "x86_64",
            {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
            "x86-64-vnni",
        ),
        ("x86_64", {"avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16"}, "x86-64-amx"),
        ("x86_64", {"avx2", "fma", "avx_vnni"}, "x86-64-avx-vnni"),
        ("x86_64", {"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"}, "x86-64-avx512"),
        ("x86_64", {"avx2", "fma", "f16c"}, "x86-64-avx2"),
        ("x86_64", {"sse4_2"}, "x86-64-sse42"),
        ("aarch64", {"asimd", "asimdhp", "asimddp"}, "raspberry-pi-5"),
        ("aarch64", {"asimd", "asimddp", "i8mm"}, "arm64-i8mm"),
        ("aarch64", {"asimd"}, "arm64-v8"),
    ],
)
def test_host_follows_the_cpu(arch: str, features: set[str], like: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``host`` keeps its name and takes everything else from the best profile the machine provides."""
    monkeypatch.setattr(machine, "arch", lambda: arch)
    monkeypatch.setattr(machine, "cpu_features", lambda: frozenset(features))
    profile, followed = load_profile("host"), load_profile(like)
    assert profile.name == "host"
    assert like in profile.description
    assert machine.provides(profile.hardware.arch, profile.hardware.isa)
    same = {"name", "description"}
    assert profile.model_dump(exclude=same) == followed.model_dump(exclude=same)


def test_host_on_an_unknown_machine_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that no profile fits is told, not guessed."""
    monkeypatch.setattr(machine, "arch", lambda: "riscv64")
    with pytest.raises(EnvironmentFailure, match=r"(?s)riscv64.*my-board\.toml"):
        load_profile("host")


def test_unknown_target_lists_the_nearest() -> None:
    """A misspelt target is answered with the near name and the command that lists all."""
    error = _refused("raspberry-pi5")
    assert "'raspberry-pi-5'" in error.why
    assert "edgepress targets list" in error.fix


@pytest.mark.parametrize("name", ["../profiles/host", "", "host.", "profiles/host"])
def test_target_names_are_no_paths(name: str) -> None:
    """A name reaches no other file."""
    assert "there is no target" in _refused(name).what


def test_names_of_detecting_profiles_are_no_paths(tmp_path: Path) -> None:
    """Results land in a folder of the profile's name, so a detecting profile's name is checked like any other."""
    text = 'name = "../../elsewhere"\ndescription = "d"\n[[detect]]\narch = "x86_64"\nlyke = "x86-64-avx2"\n'
    error = _refused(_file(tmp_path, text))
    assert {fault.where for fault in error.faults} == {"name", "detect.0.like", "detect.0.lyke"}


def test_own_file_loads_with_defaults(tmp_path: Path) -> None:
    """A user's file needs hardware, engine and scheme; the rest has defaults."""
    profile = load_profile(_file(tmp_path, GOOD))
    assert (profile.name, profile.engine.threads, profile.quantization.precisions) == ("board", 1, ("fp32", "int8"))


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    """A misspelt key of a section is answered with the key that exists."""
    error = _refused(_file(tmp_path, GOOD.replace("[quantization]", "thread = 2\n[quantization]")))
    assert error.why.startswith("engine.thread:")
    assert "'threads'" in error.fix


def test_all_faults_at_once(tmp_path: Path) -> None:
    """Unknown keys, missing keys and wrong types come in one error, by dotted path."""
    text = GOOD.replace('"x86_64"', '"x86"').replace('description = "my board"', "hardwear = 1") + "precisions = [8]\n"
    assert {fault.where for fault in _refused(_file(tmp_path, text)).faults} >= {
        "hardware.arch", "description", "hardwear", "quantization.precisions.0",
    }  # fmt: skip


def test_unknown_scheme_names_the_nearest(tmp_path: Path) -> None:
    """A dialect that does not exist is found when the profile is read."""
    error = _refused(_file(tmp_path, GOOD.replace("ort-x86", "ort-x68")))
    assert "quantization.scheme" in error.why
    assert "'ort-x86'" in error.fix


@pytest.mark.parametrize("threads", ["0", "257", "1.5", '"two"'])
def test_values_out_of_range_are_refused(threads: str, tmp_path: Path) -> None:
    """Thread counts are whole and between 1 and 256."""
    error = _refused(_file(tmp_path, GOOD.replace("[quantization]", f"threads = {threads}\n[quantization]")))
    assert error.faults[0].where == "engine.threads"


def test_missing_own_file_is_an_input_error(tmp_path: Path) -> None:
    """A path that is not there is named."""
    assert "gone.toml" in _refused(str(tmp_path / "gone.toml")).what


def test_a_detecting_profile_follows_profiles_in_full_only(tmp_path: Path) -> None:
    """Promise: a profile that follows `host`, which follows others in turn, is refused instead of going round."""
    path = tmp_path / "mine.toml"
    rows = "".join(f'[[detect]]\narch = "{arch}"\nlike = "host"\n' for arch in ("x86_64", "aarch64"))
    path.write_text(f'name = "mine"\ndescription = "d"\n{rows}')
    with pytest.raises(InputError) as caught:
        load_profile(str(path))
    assert "'host'" in caught.value.what


def test_a_profile_names_its_device_and_limits(tmp_path: Path) -> None:
    """This machine and no limit, unless it says otherwise."""
    assert load_profile("x86-64-avx2").device.name == "local"
    device = load_profile(
        _file(tmp_path, GOOD + '[device]\nname = "pi4"\naffinity = "0,2-3"\nmemory_limit_mb = 64\n')
    ).device
    assert (device.name, device.affinity, device.memory_limit_mb) == ("pi4", "0,2-3", 64)


@pytest.mark.parametrize(
    "line",
    ['affinity = "all"', 'affinity = "0;ls"', 'name = "-oProxyCommand=x"', "memory_limit_mb = 0", 'kind = "ssh"'],
)
def test_a_device_section_that_cannot_be_is_refused(line: str, tmp_path: Path) -> None:
    """Names and CPU lists reach command lines: nothing but names and lists gets there."""
    assert "device" in str(_refused(_file(tmp_path, f"{GOOD}[device]\n{line}\n")))


@pytest.mark.parametrize("name", ["jetson-nano", "nvidia-t4", "nvidia-rtx-40", "jetson-agx-orin-dla"])
def test_profiles_of_gpus_ask_for_what_the_gpu_has(name: str) -> None:
    """Promise: no int8 where the GPU has none, an ahead-of-time engine names its GPU, a DLA is asked for fp16."""
    found = {profile.engine.name: profile for profile in load_profile(name).choices().values()}
    if name == "jetson-nano":
        assert "int8" not in found["tensorrt"].quantization.precisions
    elif name == "nvidia-rtx-40":
        assert found["tensorrt-rtx"].engine.model_dump()["compute_capabilities"] == ("8.9",)
    elif name == "jetson-agx-orin-dla":
        assert load_profile(name).choices()["dla"].quantization.precisions == ("fp16",)
    else:
        assert "int8" in found["tensorrt"].quantization.precisions


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "host"])
def test_every_figure_has_a_source(name: str) -> None:
    """Promise: a bundled file says where its figures are from: a page, a tool, a measurement, or what it extends."""
    text = (Path(machine.__file__).parent / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    assert "# " in text
    assert (
        "https://" in text
        or "--help=target" in text
        or "saturating" in text
        or "extends = " in text
        or "accumulate" in text
    )


@pytest.mark.parametrize("name", ["x86-64-vnni", "x86-64-avx-vnni", "x86-64-amx", "intel-n100"])
def test_openvino_is_tried_where_vnni_is(name: str) -> None:
    """Promise: on Intel CPUs with VNNI both engines are built, and the measurement chooses."""
    choices = load_profile(name).choices()
    assert list(choices) == ["", "openvino"]
    assert choices["openvino"].quantization.scheme == "openvino"


@pytest.mark.parametrize(("name", "follows"), [("amd-zen3", "x86-64-avx2"), ("amd-zen4", "x86-64-vnni")])
def test_a_cpu_by_name_races_what_it_races_as_host(name: str, follows: str) -> None:
    """Promise: engines that `host` would try on a CPU are tried under the CPU's own name too."""
    assert list(load_profile(name).choices()) == list(load_profile(follows).choices())


def test_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    """Promise: every profile in docs/targets.md loads as it stands."""
    text = (Path(machine.__file__).parents[1] / "docs" / "targets.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in text.split("```toml\n")[1:]]
    assert len(examples) == 2
    for example in examples:
        assert load_profile(_file(tmp_path, example)).name in {"my-board", "camera"}


def test_the_documentation_lists_every_target() -> None:
    """Promise: the table in docs/targets.md has a row for each bundled profile."""
    text = (Path(machine.__file__).parents[1] / "docs" / "targets.md").read_text(encoding="utf-8")
    assert {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")} >= set(profile_names())
