"""Recipe and profile to a plan, without running the user's code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipeline.compose import compose
from pipeline.recipe import Recipe, load_recipe
from pipeline.recipe.delivery import BenchmarkSection
from pipeline.stages.import_onnx import external_files
from targets import machine
from targets.errors import DeviceError, InputError
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

FACTORIES = 'raise RuntimeError("called")\ndef net():\n    pass\ndef data():\n    pass\n'
PLAIN = ('build.candidates=["fp32", "int8"]',)  # one engine, however many the profile names
HEAD = 'task = "classification"\n[model]\nfactory = "user.py:net"\n{weights}\n[data]\nfactory = "user.py:data"\n'


def recipe(tmp_path: Path, sections: str = "", *, weights: str = "", overrides: tuple[str, ...] = ()) -> Recipe:
    (tmp_path / "user.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(HEAD.format(weights=weights) + sections, encoding="utf-8")
    return load_recipe(tmp_path, overrides)


def names(found: Recipe) -> list[str]:
    return [node.name for node in compose(found, load_profile("host")).nodes]


def test_a_full_recipe_has_every_stage_in_order(tmp_path: Path) -> None:
    """Three candidates: dense, pruned, int8; the plan's own type check passed."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n[prune]\nratio = 0.5\n[distill]\nepochs = 1\n", overrides=PLAIN)
    assert names(found) == [
        "data", "train", "prune", "teach:dense", "distill", "export:dense", "export", "calibrate", "quantize",
        "build:dense-fp32", "build:fp32", "build:int8", "benchmark", "gate", "bundle", "layers", "report",
    ]  # fmt: skip


def test_each_link_takes_the_model_before_it_and_the_dense_one(tmp_path: Path) -> None:
    """Promise: the torch stages are a chain; what it is compared with and taught by is the dense model."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n[prune]\nratio = 0.5\n[distill]\nepochs = 1\n", overrides=PLAIN)
    inputs = {node.name: node.inputs for node in compose(found, load_profile("host")).nodes}
    assert inputs["prune"] == {"data": "data", "model": "train", "dense": "train", "plan": ()}
    assert inputs["distill"] == {
        "data": "data", "student": "prune", "dense": "train", "teachers": ("train",), "answers": ("teach:dense",),
    }  # fmt: skip
    assert (inputs["export:dense"]["model"], inputs["export"]["model"]) == ("train", "distill")
    told = ("data", "train", "prune", "teach:dense", "distill", "export:dense", "export")
    assert inputs["report"]["stages"][:7] == told  # type: ignore[index]


def test_a_plain_recipe_quantises_what_it_loads(tmp_path: Path) -> None:
    """Without [prune] there are two candidates and one export."""
    (tmp_path / "w.safetensors").write_bytes(b"any")
    found = recipe(tmp_path, weights='weights = "w.safetensors"', overrides=PLAIN)
    assert names(found) == [
        "data", "load", "export", "calibrate", "quantize",
        "build:fp32", "build:int8", "benchmark", "gate", "bundle", "layers", "report",
    ]  # fmt: skip


def test_without_measuring_there_is_no_benchmark(tmp_path: Path) -> None:
    """The gate and the report stay."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n", overrides=("benchmark.measure=false",))
    assert "benchmark" not in names(found)
    assert names(found)[-3:] == ["gate", "bundle", "report"]


def test_an_onnx_file_starts_at_import(tmp_path: Path) -> None:
    """Neither torch stages nor exports."""
    (tmp_path / "net.onnx").write_bytes(b"any")
    (tmp_path / "data.npz").write_bytes(b"any")
    text = 'task = "fidelity"\n[model]\nonnx = "net.onnx"\n[data]\nnpz = "data.npz"\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    assert names(load_recipe(tmp_path, PLAIN))[:3] == ["data", "import", "calibrate"]


def test_all_missing_files_are_told_at_once(tmp_path: Path) -> None:
    """One error, one fault each, with the recipe's keys."""
    text = (
        'task = "classification"\n[model]\nfactory = "a.py:net"\nweights = "b.pt"\n'
        '[data]\nfactory = "c.py:data"\nfiles = { x = "d.npz" }\n'
    )
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        compose(load_recipe(tmp_path), load_profile("host"))
    assert {fault.where for fault in caught.value.faults} == {
        "model.factory",
        "model.weights",
        "data.factory",
        "data.files.x",
    }


def test_a_target_that_is_not_here_is_not_measured_here(tmp_path: Path) -> None:
    """The error names a flag, and with it the plan is made."""
    profile = load_profile("x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5")
    with pytest.raises(DeviceError) as caught:
        compose(recipe(tmp_path, "[train]\nepochs = 1\n"), profile)
    flag = caught.value.fix.partition("--set ")[2]
    assert compose(recipe(tmp_path, "[train]\nepochs = 1\n", overrides=(flag,)), profile).nodes


def test_the_recipe_s_folder_is_no_part_of_a_plan_s_configuration(tmp_path: Path) -> None:
    """The same files elsewhere are the same work."""
    from pipeline.stages.base import configuration

    found = []
    for name in ("here", "there"):
        (tmp_path / name / "same").mkdir(parents=True)
        plan = compose(recipe(tmp_path / name / "same", "[train]\nepochs = 1\n"), load_profile("host"))
        found.append([configuration(node.stage) for node in plan.nodes])
    assert found[0] == found[1]
    assert str(tmp_path) not in str(found)


ONNX = 'task = "fidelity"\n[model]\nonnx = "net.onnx"\n[data]\nnpz = "data.npz"\n'


def test_external_data_counts_as_part_of_an_onnx_file(tmp_path: Path) -> None:
    """Other weights beside the same graph are another model, in the key and in what is checked before use."""
    import numpy as np
    import onnx

    from pipeline.stages.base import configuration

    weights = onnx.numpy_helper.from_array(np.ones((300, 300), np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [value("x", onnx.TensorProto.FLOAT, ["batch", 300])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", 300])],
        [weights],
    )
    name = "weights/" + "w" * 150  # longer than one byte can say
    (tmp_path / "weights").mkdir()
    onnx.save(onnx.helper.make_model(graph), tmp_path / "net.onnx", save_as_external_data=True, location=name)
    (tmp_path / "data.npz").write_bytes(b"any")
    (tmp_path / "recipe.toml").write_text(ONNX, encoding="utf-8")
    assert external_files(tmp_path / "net.onnx") == [tmp_path / name]

    def found() -> object:
        plan = compose(load_recipe(tmp_path), load_profile("host"))
        return configuration(next(node.stage for node in plan.nodes if node.name == "import"))

    before = found()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[::-1])
    assert found() != before


@pytest.mark.parametrize("name", [b"/dev/zero", b"../secret", b"missing", b"a\0b", b"\xff"])
def test_only_files_below_the_model_are_hashed(name: bytes, tmp_path: Path) -> None:
    """A location that leads elsewhere is not followed here (and refused where the file is opened)."""
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "models").mkdir()
    entry = b"\x0a\x08location\x12" + bytes([len(name)]) + name
    (tmp_path / "models" / "net.onnx").write_bytes(entry)
    assert external_files(tmp_path / "models" / "net.onnx") == []


def test_a_stage_that_measures_nothing_runs_for_any_target(tmp_path: Path) -> None:
    """Quantising for a board needs no board."""
    profile = load_profile("x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5")
    plan = compose(recipe(tmp_path, "[train]\nepochs = 1\n"), profile, until="quantize")
    assert plan.nodes[-1].stage.name == "quantize"


def test_no_path_of_a_recipe_is_part_of_a_key(tmp_path: Path) -> None:
    """The same data file, given from two places, is the same work, the report included."""
    from pipeline.stages.base import configuration

    found = []
    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(b"same")
        sections = "[train]\nepochs = 1\n"
        given = recipe(tmp_path, sections, overrides=(f"data.files.images={tmp_path / name}",))
        found.append([configuration(node.stage) for node in compose(given, load_profile("host")).nodes])
    assert found[0] == found[1]


@pytest.mark.parametrize("path", ["~nobody-of-that-name/w.pt", "a\\u0000b.pt"])
def test_a_path_that_cannot_be_is_a_fault_of_the_recipe(path: str, tmp_path: Path) -> None:
    """And no bug of ours: the key is named."""
    found = recipe(tmp_path, weights=f'weights = "{path}"')
    with pytest.raises(InputError, match=r"model\.weights"):
        compose(found, load_profile("host"))


def test_a_registered_device_measures_a_foreign_target(tmp_path: Path) -> None:
    """The measurement's key holds the device's facts; what is built does not depend on where it is measured."""
    from types import SimpleNamespace

    from pipeline.stages.base import configuration

    profile = load_profile("x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5")
    plans = {}
    for device in ("pi5", "other"):
        facts = SimpleNamespace(arch=profile.hardware.arch, fingerprint=f"f-{device}", runtime_version="1", raw={})
        found = recipe(tmp_path, "[train]\nepochs = 1\n", overrides=(f"benchmark.device={device}",))
        plan = compose(found, profile, ask=lambda _, facts=facts: facts)  # type: ignore[misc]
        plans[device] = {node.name: configuration(node.stage) for node in plan.nodes}
    assert plans["pi5"]["benchmark"]["fingerprint"].startswith("f-pi5")
    assert plans["pi5"]["benchmark"]["accuracy_on_device"] is True
    assert plans["pi5"]["build:int8"] == plans["other"]["build:int8"]
    assert plans["pi5"]["bundle"] == plans["other"]["bundle"]


def test_a_device_is_asked_only_for_a_plan_that_measures(tmp_path: Path) -> None:
    """Quantising needs no board, even when the recipe names one."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n", overrides=("benchmark.device=pi5",))
    plan = compose(found, load_profile("host"), until="quantize", ask=lambda _: pytest.fail("asked"))
    assert plan.nodes[-1].stage.name == "quantize"


def test_limits_of_the_device_reach_the_measurement_only(tmp_path: Path) -> None:
    """Another affinity measures anew and builds nothing anew."""
    from pipeline.stages.base import configuration
    from targets.profile import DeviceSection

    found = []
    for affinity in ("default", "0"):
        profile = load_profile("host").model_copy(update={"device": DeviceSection(affinity=affinity)})
        plan = compose(recipe(tmp_path, "[train]\nepochs = 1\n"), profile)
        found.append({node.name: configuration(node.stage) for node in plan.nodes})
    changed = {name for name in found[0] if found[0][name] != found[1][name]}
    assert changed == {"benchmark", "bundle", "layers", "report"}


@pytest.mark.parametrize("target", ["raspberry-pi-5", "nvidia-t4", "x86-64-vnni"])
def test_a_pattern_of_zeros_that_cannot_pay_is_refused(target: str, tmp_path: Path) -> None:
    """Promise: 2:4 where no engine of the target makes use of it is a fault with the reason, before anything runs."""
    found = recipe(tmp_path, '[train]\nepochs = 1\n[sparsify]\npattern = "2:4"\n')
    with pytest.raises(InputError, match=rf"2:4 makes nothing faster on {target}") as caught:
        compose(found, load_profile(target), until="export")
    assert [fault.where for fault in caught.value.faults] == ["sparsify.pattern"]


@pytest.mark.parametrize("target", ["nvidia-a100", "nvidia-h200", "nvidia-rtx-40", "jetson-orin-nx"])
def test_sparse_tensor_cores_take_two_of_four(target: str, tmp_path: Path) -> None:
    """Promise: targets whose profile says so compress to 2:4, and to no other pattern."""
    found = recipe(tmp_path, '[train]\nepochs = 1\n[sparsify]\npattern = "2:4"\n')
    plan = compose(found, load_profile(target), until="export")
    assert [node.name for node in plan.nodes] == ["data", "train", "sparsify", "export:dense", "export"]
    found = recipe(tmp_path, '[train]\nepochs = 1\n[sparsify]\npattern = "1:4"\n')
    with pytest.raises(InputError, match="2:4 is the only pattern"):
        compose(found, load_profile(target), until="export")


@pytest.mark.parametrize(
    ("benchmark", "timed"),
    [
        ({}, True), ({"budget_s": 19.0}, False), ({"mode": "quick"}, False), ({"measure": False}, False),
        ({"budget_s": 5.0, "layers": True}, True), ({"layers": False}, False),
    ],
)  # fmt: skip
def test_layers_are_timed_where_there_is_time_or_it_is_asked(benchmark: dict[str, Any], timed: bool) -> None:  # noqa: FBT001
    """A screening or a short campaign is not made longer by a profile that nobody asked for."""
    assert BenchmarkSection(**benchmark).times_layers is timed
