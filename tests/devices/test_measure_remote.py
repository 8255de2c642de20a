"""The command line on real remote devices: campaigns over ssh and adb, cut and continued, with accuracy and verdict."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from targets.devices.registry import AdbEntry, Registry

if TYPE_CHECKING:
    from phone import Phone  # these two are loaded by path, see conftest.py
    from sshd import Board

pytestmark = pytest.mark.devices

STRIPES = Path(__file__).parents[1] / "e2e" / "stripes"
EDGEPRESS = Path(sys.executable).with_name("edgepress")
QUICK = ["--mode", "quick", "--budget-s", "150", "--json"]
LIMIT_S = 400


class Product:
    """The miniature product, built once, and the command line with its cache."""

    def __init__(self, folder: Path) -> None:
        self.recipe = Path(shutil.copytree(STRIPES, folder / "stripes"))
        settings = self.recipe / "recipe.toml"
        text = settings.read_text(encoding="utf-8")
        settings.write_text(text.replace("budget_s = 8", 'budget_s = 150\nmode = "quick"'), encoding="utf-8")
        self.cache = folder / "cache"
        self.bundle = folder / "out" / "stripes" / "host" / "bundle"
        self.done("run", self.recipe, "--out", folder / "out")
        self.other = Path(shutil.copytree(self.bundle, folder / "other"))

    def start(self, *words: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "EDGEPRESS_CACHE": str(self.cache), "TMPDIR": tempfile.gettempdir()}
        return subprocess.Popen(
            [EDGEPRESS, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a background shell ignores it
        )  # fmt: skip

    def call(self, *words: object) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def done(self, *words: object) -> str:
        done = self.call(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def blocks_kept(self) -> int:
        """Finished blocks of interrupted campaigns that count."""
        journals = self.cache.glob("measuring/campaigns/*.jsonl")
        lines = [line for path in journals for line in path.read_bytes().splitlines()]
        return sum(line.endswith(b"}") and b'"discarded":null' in line for line in lines)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    return Product(tmp_path_factory.mktemp("product"))


def _until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.02)


def test_a_campaign_over_ssh_is_cut_and_goes_on(product: Product, pi: Board) -> None:
    """Two bundles; the board goes away in mid-campaign: exit 6, blocks kept; the same command goes on and ends."""
    words = ["measure", product.bundle, product.other, "--device", "pi", *QUICK]
    with product.start(*words) as process:
        _until(lambda: product.blocks_kept() or process.poll() is not None)
        pi.stop()
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 6, err
    assert "device 'pi' was lost after block 1 of 3" in err
    assert "run the same command again" in err
    assert json.loads(out) == []
    assert product.blocks_kept() == 1
    pi.start()
    [document] = json.loads(product.done(*words))
    assert document["device"]["transport"] == "ssh"
    assert document["campaign"]["resumed_blocks"] == 1
    assert "W-RESUMED" in {warning["code"] for warning in document["warnings"]}
    assert [len(item) for item in _counted(document).values()] == [3, 3]
    assert all(result["outputs_ok"] for result in document["results"].values())
    assert document["comparison"]
    assert product.blocks_kept() == 0
    assert [name for name in pi.files() if not name.endswith(".pyz")] == [".edgepress/lock"]


def _counted(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Runs that count, by engine."""
    found: dict[str, list[Any]] = {name: [] for name in document["results"]}
    for row in document["runs"]:
        if row["engine"] in found and not row.get("discarded"):
            found[row["engine"]].append(row)
    return found


def test_an_interrupt_leaves_the_board_clean(product: Product, pi: Board) -> None:
    """Ctrl-C in mid-campaign: exit 130, and neither programs, files nor the lock stay over there."""
    with product.start("measure", product.bundle, "--device", "pi", *QUICK) as process:
        _until(lambda: product.blocks_kept() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode in {130, -signal.SIGINT}, err
    assert "Traceback" not in err
    assert pi.programs() == []
    assert [name for name in pi.files() if not name.endswith(".pyz")] == [".edgepress/lock"]


def test_two_devices_at_the_same_time(product: Product, pi: Board, tmp_path: Path) -> None:
    """A board and this machine are measured at the same moment, each in a document of its own."""
    out = tmp_path / "out"
    documents = json.loads(product.done("measure", product.bundle, "--device", "pi,local", *QUICK, "--out", out))
    assert [document["device"]["transport"] for document in documents] == ["ssh", "local"]
    spans = [(item["campaign"]["monotonic_s"], item["campaign"]["wall_s"]) for item in documents]
    starts, ends = [start for start, _ in spans], [start + length for start, length in spans]
    assert max(starts) < min(ends)
    for name, document in zip(("pi", "local"), documents, strict=True):
        assert json.loads((out / name / "benchmark.json").read_text(encoding="utf-8")) == document
        assert f"--device {name}" in document["reproduce"]


def test_a_run_is_judged_on_the_board(product: Product, pi: Board, tmp_path: Path) -> None:
    """`run --device`: speed and accuracy of every candidate come from the board, and the verdict says so."""
    product.done("run", product.recipe, "--device", "pi", "--out", tmp_path)
    run = json.loads((tmp_path / "stripes" / "host" / "run.json").read_text(encoding="utf-8"))
    assert run["conditions"]["reached by"] == "ssh"
    assert "on device pi" in run["verdict"]["sentence"]
    assert all(candidate["accuracy_device"] > 0.8 for candidate in run["candidates"])
    assert "Accepted publickey" in pi.log.read_text()


def test_layers_of_a_board(product: Product, pi: Board) -> None:
    """`layers --device`: times of the user's own modules, measured over there."""
    text = product.done("layers", product.bundle, "--device", "pi")
    assert "on pi" in text
    assert "stem" in text


def test_a_phone_from_the_command_line(
    product: Product, private_places: Path, phone: Phone, adb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added by serial and build, listed, asked, and measured with accuracy: all of it over adb."""
    monkeypatch.setenv("PATH", f"{Path(adb).parent}:{os.environ['PATH']}")
    build = phone.transport().identity().build
    refused = product.call("devices", "add", "phone", "--adb", phone.serial, "--adb-tcp")
    assert refused.returncode == 4
    assert "--fingerprint" in refused.stderr
    words = ["--adb", phone.serial, "--adb-tcp", "--fingerprint", build, "--python", sys.executable]
    product.done("devices", "add", "phone", *words)
    added = Registry().entry("phone")
    assert isinstance(added, AdbEntry)
    Registry().put("phone", added.model_copy(update={"folder": str(phone.folder)}), replace=True)

    assert build in product.done("devices", "list")
    assert json.loads(product.done("devices", "facts", "phone", "--json"))["transport"] == "adb"
    assert product.done("devices", "shell", "phone", "--", "echo", "a b", "$(id)") == "a b $(id)\n"
    [document] = json.loads(
        product.done("measure", product.bundle, "--device", "phone", *QUICK, "--accuracy", product.recipe)
    )
    assert document["device"]["transport"] == "adb"
    [(name, score)] = document["accuracy_on_device"].items()
    assert score["value"] > 0.8
    assert score["engine_sha256"] == document["engines"][name]["sha256"]
    left = [path for path in phone.folder.rglob("*") if path.is_file() and path.suffix != ".pyz"]
    assert [path.name for path in left] == ["lock"]
