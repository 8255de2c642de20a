"""Harnesses for documents of our own that lie on a disk: checkpoints, studies, campaigns, and all that is one JSON."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

_NOW: Final = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        yield Path(folder)


def checkpoint(data: bytes) -> None:
    """A checkpoint of a training: its state as given, and sealed anew; a wrong one is none."""
    from pipeline.training.checkpoints import Checkpoint, Checkpoints, _sealed

    with _folder() as folder:
        place = folder / "epoch-000001"
        place.mkdir()
        text, _, tensors = data.partition(b"\0")
        (place / "tensors.safetensors").write_bytes(tensors)
        (place / "state.json").write_bytes(text)
        found = Checkpoints(folder).latest()
        try:
            document = json.loads(text)
            if isinstance(document, dict):
                document.pop("seal", None)
                (place / "state.json").write_text(_sealed(document), encoding="utf-8")
        except (ValueError, RecursionError):
            pass
        found = Checkpoints(folder).latest() or found
        assert found is None or isinstance(found, Checkpoint)


def study(data: bytes) -> None:
    """A study's journal, its lines as given; its first one says what it is."""
    from optuna.storages import JournalStorage  # noqa: F401 - imported before it is timed

    from pipeline.search.storage import open_storage

    with _folder() as folder:
        (folder / "s").write_bytes(data)
        storage = open_storage(str(folder / "s"))
        storage.get_all_studies()


def campaign(data: bytes) -> None:
    """The journal of a campaign, each line with the right checksum."""
    import zlib

    from pipeline.benchmarking.journal import recall

    with _folder() as folder:
        (folder / "campaigns").mkdir()
        lines = b"".join(b"%08x %s\n" % (zlib.crc32(line), line) for line in data.split(b"\n"))
        for name, content in (("a", lines), ("b", data)):
            (folder / "campaigns" / f"{name}.jsonl").write_bytes(content)
            recall(folder, name, _NOW)


def device_arrays(data: bytes) -> None:
    """An archive of arrays that a device sent."""
    from targets.devices.npz import arrays_fault
    from targets.ondevice.arrays import read_arrays
    from targets.ondevice.failure import Failure

    with _folder() as folder:
        path = folder / "a.npz"
        path.write_bytes(data)
        if arrays_fault(path) is None:
            try:
                read_arrays(str(path))
            except Failure:
                return


def document(data: bytes) -> None:
    """The first byte chooses which of our JSON files it is."""
    kinds = list(_DOCUMENTS.values())
    if data:
        with _folder() as folder:
            kinds[data[0] % len(kinds)](data[1:], folder)


def _run_json(data: bytes, folder: Path) -> None:
    from pipeline.reporting.schema import read_run

    (folder / "run.json").write_bytes(data)
    read_run(folder / "run.json")


def _engine(data: bytes, folder: Path) -> None:
    from pipeline.bundling.trust import check_trusted
    from targets.engines.base import EngineBuild
    from targets.errors import EdgepressError
    from targets.ondevice.failure import Failure
    from targets.ondevice.session import read_spec

    (folder / "engine.json").write_bytes(data)
    (folder / "manifest.json").write_bytes(b"{}")
    manifest: Any = SimpleNamespace(files={"engine.json": None}, engine_sha256="a" * 64, name="n")
    for read in (EngineBuild.read, read_spec, lambda place: check_trusted(place, manifest, environ={})):
        try:
            read(folder)
        except (EdgepressError, Failure):
            continue


def _table(data: bytes, folder: Path) -> None:
    from calibration.table import CalibrationTable

    (folder / "t.json").write_bytes(data)
    CalibrationTable.load(folder / "t.json")


def _decisions(data: bytes, folder: Path) -> None:
    from pipeline.pruning.decisions import Decisions

    (folder / "d.json").write_bytes(data)
    Decisions.load(folder / "d.json")


def _devices(data: bytes, folder: Path) -> None:
    from targets.devices.registry import FILE_NAME, Registry

    folder.chmod(0o700)
    path = folder / FILE_NAME
    path.write_bytes(data)
    path.chmod(0o600)
    Registry(folder).entries()


def _raw(data: bytes, folder: Path) -> None:
    from pipeline.benchmarking.raw import read_raw

    (folder / "raw.json.gz").write_bytes(gzip.compress(data, 1))
    read_raw(folder / "raw.json.gz")


def _known(data: bytes, folder: Path) -> None:
    from pipeline.benchmarking.known import _noise_file, recall_noise
    from pipeline.benchmarking.peaks import calibration_path, read_calibration

    for path in (_noise_file(folder, "f"), calibration_path(folder, "i")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    recall_noise(folder, "f", _NOW)
    read_calibration(folder, "i", 0.0)


_DOCUMENTS: Final[dict[str, Callable[[bytes, Path], None]]] = {
    "run": _run_json, "engine": _engine, "table": _table, "decisions": _decisions, "devices": _devices, "raw": _raw,
    "known": _known,
}  # fmt: skip


def _checkpoint_seeds() -> list[bytes]:
    import torch

    from pipeline.training.checkpoints import Checkpoint, Checkpoints

    found = []
    for state in ({"step": 1}, {"step": 1, "optimizer": {"0": {"step": 2}}, "curve": [], "best": [None, 1.5]}):
        with _folder() as folder:
            Checkpoints(folder).save(Checkpoint(epoch=1, tensors={"model.w": torch.ones(3)}, state=state))
            place = folder / "epoch-000001"
            found.append((place / "state.json").read_bytes() + b"\0" + (place / "tensors.safetensors").read_bytes())
    return [*found, found[0][:-9]]


def _study_seeds() -> list[bytes]:
    import optuna

    from pipeline.search.storage import open_storage

    with _folder() as folder:
        storage = open_storage(str(folder / "s"))
        one = optuna.create_study(storage=storage, study_name="s", directions=["minimize"])
        trial = one.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
        trial.set_user_attr("worker", "w")
        one.tell(trial, 0.5)
        whole = (folder / "s").read_bytes()
    lines = whole.splitlines(keepends=True)
    plain = b"".join(
        json.dumps({k: v for k, v in json.loads(line).items() if k != "sha256"}).encode() + b"\n" for line in lines
    )
    return [whole, plain, whole[:-7], lines[0] + lines[-1], b'{"op_code":0}\n', b'{"op_code":9,"trial_id":[]}\n']


def _documents() -> list[bytes]:
    table = {
        "schema": 1, "samples": 1, "model_sha256": "a", "data_sha256": "b", "versions": {}, "every": "7",
        "sample_ids": ["1"], "tensors": {"x": {"minmax": [0, 1]}},
        "facts": {"x": {"count": 1, "histogram_count": 1, "low": 0, "high": 1, "zeros_ratio": 0,
                        "scale_spread_ratio": 0, "outside_ratio": {"minmax": 0}}},
    }  # fmt: skip
    engine = {
        "schema": 1, "engine": "onnxruntime", "file": "e.onnx", "runtime": "onnxruntime", "runtime_version": "1",
        "precision": "int8", "sha256": "a" * 64, "inputs": [{"name": "x", "dtype": "float32", "shape": ["b", 3]}],
        "outputs": [], "options": {"provider_options": {"QNNExecutionProvider": {"backend_path": "x.so"}}},
    }  # fmt: skip
    examples: dict[str, list[object]] = {
        "run": [{"schema": 1}], "engine": [engine, {**engine, "runtime": "tensorrt"}, []], "table": [table],
        "decisions": [{"schema": 1, "groups": []}], "devices": [{"devices": {"pi": {"kind": "ssh", "host": "h"}}}],
        "raw": [[{"delta_ns": [1, 2]}], {}, [1]],
        "known": [{"schema": 1, "low": 1, "high": 1e999, "ratio": 1, "blocks": 1, "utc": "2026-01-01"}, []],
    }  # fmt: skip
    found = []
    for number, name in enumerate(_DOCUMENTS):
        hostile = [b"[" * 3000, b'{"schema":' * 3000, b'{"schema": 1' + b"0" * 400 + b"}"]
        found += [bytes([number]) + data for data in (*(json.dumps(e).encode() for e in examples[name]), *hostile)]
    return found


def _campaign_seeds() -> list[bytes]:
    header = {"utc_start": "2026-01-01T00:00:00+00:00"}
    return [json.dumps(header).encode(), b"[]\n{}\n", json.dumps(header).encode() + b"\n" + b"[" * 3000]


def _array_seeds() -> list[bytes]:
    import io

    import numpy as np

    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=np.ones((4, 2), np.float32))
        found.append(buffer.getvalue())
    return [*found, found[0][:-5]]


HARNESSES: Final[dict[str, Callable[[bytes], None]]] = {
    function.__name__: function for function in (checkpoint, study, campaign, device_arrays, document)
}
SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = {
    "checkpoint": _checkpoint_seeds,
    "study": _study_seeds,
    "campaign": _campaign_seeds,
    "device_arrays": _array_seeds,
    "document": _documents,
}
