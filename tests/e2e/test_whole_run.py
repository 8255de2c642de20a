"""One command, from a PyTorch model to a verified bundle: what is there afterwards, and what it promises."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]


def ondevice(bundle: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The device program as its receiver calls it: isolated, from another folder."""
    command = [sys.executable, "-I", str(bundle / "ondevice.pyz"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def test_results_land_where_the_help_says(result: SimpleNamespace) -> None:
    """OUT/<recipe>/<target>/ holds bundle, archive, run.json and report, and nothing else."""
    assert sorted(item.name for item in result.folder.iterdir()) == [
        "bundle",
        "bundle.tar.gz",
        "report.html",
        "run.json",
    ]
    assert result.folder.parent.name == "stripes"
    assert [item.name for item in result.folder.parents[1].iterdir()] == ["stripes"]


def test_every_stage_did_real_work(result: SimpleNamespace) -> None:
    """Pruning removed parameters, distillation gave the accuracy back, int8 runs in int8, the engines were timed."""
    stages = {stage["stage"]: stage for stage in result.run["stages"]}
    candidates = {candidate["name"]: candidate for candidate in result.run["candidates"]}
    assert set(candidates) == {"dense-fp32", "fp32", "int8"}
    assert candidates["fp32"]["parameters"] < 0.6 * candidates["dense-fp32"]["parameters"]
    assert candidates["fp32"]["size_bytes"] < candidates["dense-fp32"]["size_bytes"]
    assert candidates["int8"]["size_bytes"] < candidates["dense-fp32"]["size_bytes"]  # against fp32: the CPU decides
    assert all(candidate["accuracy"] > 0.8 for candidate in candidates.values())
    assert all(candidate["latency_ms"]["value"] > 0 for candidate in candidates.values())
    assert {"train", "prune", "distill", "quantize", "gate"} <= set(stages)


def test_the_terminal_names_every_candidate_and_the_verdict(result: SimpleNamespace) -> None:
    """The table at 80 columns has all names, the sentence, and where the results are."""
    for expected in ("dense-fp32", "fp32", "int8", "ships on host", " stages run, ", str(result.folder.parent)):
        assert expected in result.stdout.replace("\n", " ") or expected in result.stdout
    assert "…" not in result.stdout
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("form", ["bundle", "bundle.tar.gz"])
def test_verify_accepts_what_run_wrote(form: str, result: SimpleNamespace, inline: Run) -> None:
    """Folder and archive pass, in words and as JSON."""
    done = inline("verify", result.folder / form, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["engine_ok"]
    assert document["samples"] == 16
    assert inline("verify", result.folder / form, "--no-engine").stdout.startswith("OK: stripes for host")


def test_the_device_program_accepts_its_bundle(result: SimpleNamespace, tmp_path: Path) -> None:
    """`python ondevice.pyz verify`, isolated and from another folder, exits 0."""
    done = ondevice(result.folder / "bundle", "verify", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("file", ["engine.onnx", "golden.npz", "ondevice.pyz", "README.txt"])
def test_one_flipped_bit_is_refused(file: str, result: SimpleNamespace, inline: Run, tmp_path: Path) -> None:
    """A change of any file exits 4, and the error names the file."""
    bundle = Path(shutil.copytree(result.folder / "bundle", tmp_path / "bundle"))
    flip_a_byte(bundle / file)
    done = inline("verify", bundle)
    assert done.returncode == 4
    assert file in done.stderr


def test_the_device_program_refuses_a_changed_engine(result: SimpleNamespace, tmp_path: Path) -> None:
    """The receiver's own check fails too, without edgepress."""
    bundle = Path(shutil.copytree(result.folder / "bundle", tmp_path / "bundle"))
    flip_a_byte(bundle / "engine.onnx")
    done = ondevice(bundle, "verify", cwd=tmp_path)
    assert done.returncode != 0
    assert "engine.onnx" in done.stdout + done.stderr


def test_the_archive_holds_the_bundle(result: SimpleNamespace) -> None:
    """The archive has the folder's files, byte for byte, under one top folder."""
    with tarfile.open(result.folder / "bundle.tar.gz") as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    expected = {f"stripes-host/{file.name}": file.read_bytes() for file in (result.folder / "bundle").iterdir()}
    assert files == expected


def test_a_second_run_reuses_everything_and_imports_no_framework(
    result: SimpleNamespace, cache: Path, tmp_path: Path
) -> None:
    """The same recipe again works nothing, imports neither torch nor onnxruntime, and writes the same bytes."""
    code = (
        "import sys; from pipeline.cli import main; code = main._run();"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'matplotlib', 'jinja2'} & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "run", str(result.recipe), "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"EDGEPRESS_CACHE": str(cache)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "\n0 stages run, " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
    for file in ("bundle.tar.gz", "run.json", "report.html"):
        assert (tmp_path / "stripes" / "host" / file).read_bytes() == (result.folder / file).read_bytes()


def test_the_report_is_one_self_contained_page(result: SimpleNamespace) -> None:
    """report.html loads nothing from anywhere, and names every candidate."""
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "int8" in page
    assert "dense-fp32" in page
    for loading in ("<script src", "<link", 'src="http', "url(http"):
        assert loading not in page


def test_nothing_written_names_this_machine(result: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No result holds a path of the machine it was made on."""
    own = str(tmp_path_factory.getbasetemp()).encode()
    for file in (*(result.folder / "bundle").iterdir(), result.folder / "run.json", result.folder / "report.html"):
        assert own not in file.read_bytes(), file.name
        assert str(result.recipe).encode() not in file.read_bytes(), file.name


def test_report_shows_a_finished_run_again(result: SimpleNamespace, inline: Run) -> None:
    """`report FOLDER` prints the table of that run, and with --json its document."""
    assert "ships on host" in inline("report", result.folder).stdout
    assert json.loads(inline("report", result.folder, "--json").stdout)[0]["verdict"] == result.run["verdict"]
