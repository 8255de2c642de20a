"""Whatever is misspelt is answered with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main

DIGITS = Path(__file__).parents[4] / "examples" / "digits"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("rnu x", "'run'"),
        ("quantise x", "'quantize'"),
        ("cache lst", "'ls'"),
        ("run x --targte host", "'--target'"),
        ("report {here} --format jsn", "'json'"),
        ("measure x --mode quikc", "'quick'"),
        ("completion zhs", "'zsh'"),
        ("init --task clasification", "'classification'"),
        ("verify {here}/bundel", "{here}/bundle'"),
        ("plan {here}/recip.toml", "{here}/recipe.toml'"),
        ("targets show raspbery-pi-5", "'raspberry-pi-5'"),
        ("devices facts locl", "'local'"),
        ("explain W-FWE", "'W-FEW'"),
        ("plan {digits} -t hots", "'host'"),
        ("plan {digits} --set prnue.ratio=0.3", "'prune'"),
        ("plan {digits} --set prune.raito=0.3", "'ratio'"),
        ("plan {digits} --set prune.criterion=taylr", "'taylor'"),
        ("plan {digits} --set quantize.method=minmx", "'minmax'"),
        ("plan {digits} --set distill.losses=[{{kind='atention'}}]", "'attention'"),
        ("plan {digits} --set metrics.main=acuracy", "'accuracy'"),
        ("plan {digits} --set model.factory=model.py:digits_nt", "'digits_net'"),
        ("plan {digits} --set task.kind=x", "--set task=VALUE"),
    ],
)
def test_a_misspelt_name_finds_the_right_one(
    words: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promise: commands, options, their values, paths, targets, devices, warnings, keys, metrics, functions."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "recipe.toml").touch()
    places = {"here": tmp_path, "digits": DIGITS}
    monkeypatch.setattr("sys.argv", ["edgepress", *(word.format(**places) for word in words.split())])
    assert main._run() in {2, 3}
    said = capsys.readouterr().err
    assert meant.format(**places) in said
    assert "--set" in meant or "id you mean" in said
    assert len(said.splitlines()) == 3
