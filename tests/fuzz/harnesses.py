"""One function a parser: bytes in, an answer or an error of ours out; anything else that escapes is a finding."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from targets.errors import EdgepressError


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def onnx_file(data: bytes) -> None:
    """`open_onnx`, the only way in for models."""
    from targets.onnxfile import io_of, open_onnx

    with _file(data, "m.onnx") as path:
        io_of(open_onnx(path, max_bytes=1 << 20, max_elements=1 << 20))


def archive(data: bytes) -> None:
    """Our own unpacker, below gzip: a fuzzer cannot guess checksums."""
    from pipeline.bundling.archive import ArchiveLimits, extract_archive

    with _file(gzip.compress(data, 1), "b.tar.gz") as path:
        extract_archive(path, path.parent / "out", limits=ArchiveLimits(entries=50, total_bytes=1 << 20))
        assert all(item.is_dir() or (item.is_file() and not item.is_symlink()) for item in path.parent.rglob("*"))


def manifest(data: bytes) -> None:
    """The manifest, behind its seal and past it."""
    from pipeline.bundling.manifest import _sealed_bytes, read_manifest

    with _file(data, "manifest.json") as path:
        try:
            content = json.loads(data)
            path.write_bytes(_sealed_bytes(content)) if isinstance(content, dict) else None
        except (ValueError, RecursionError, TypeError):
            path.write_bytes(data)
        read_manifest(path)


def record(data: bytes) -> None:
    """A record of the store."""
    from pipeline.store.entries import DamageError, read_record

    try:
        read_record(data, "a" * 64)
    except DamageError:
        return


def weights(data: bytes) -> None:
    """A pickle of `torch.save`, looked through."""
    from pipeline.weights.picklescan import check_pickle

    try:
        check_pickle(io.BytesIO(data), "w.pt")
    except ValueError:
        return


def npz(data: bytes) -> None:
    """An archive of arrays."""
    from pipeline.data.npz import _read_npz

    with _file(data, "d.npz") as path:
        _read_npz(path)


def signatures(data: bytes) -> None:
    """Envelopes beside a bundle."""
    from pipeline.bundling.signature import _check_statement, _lines, _signatures

    with _file(data, "s.jsonl") as path:
        for line in _lines(path):
            for kind, payload, _ in _signatures(line):
                _check_statement(kind, payload, "a" * 64)


def recipe(data: bytes) -> None:
    """A recipe, without looking for its files."""
    from pipeline.recipe import load_recipe

    with _file(data, "recipe.toml") as path:
        load_recipe(path, ())


def profile(data: bytes) -> None:
    """A target profile."""
    from targets.profile import load_profile

    with _file(data, "p.toml") as path:
        load_profile(str(path))


def edits(data: bytes) -> None:
    """The edits of a torch model."""
    from pipeline.edits import edits_from_json

    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    edits_from_json(document)


def answer(data: bytes) -> None:
    """What a device sends back."""
    from targets.devices.answers import check_answer
    from targets.devices.base import RawAnswer

    check_answer(RawAnswer(returncode=0, stdout=data, stderr=b"", wall_s=0.1), "facts", "n" * 16)


def _beside(name: str) -> Any:  # noqa: ANN401 - tests are no package
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_documents: Final = _beside("documents")
HARNESSES: Final[dict[str, Callable[[bytes], None]]] = _documents.HARNESSES | {
    function.__name__: function
    for function in (
        onnx_file, archive, manifest, record, weights, npz, signatures, recipe, profile, edits, answer,
    )
}  # fmt: skip


def run(name: str, data: bytes) -> None:
    """Feeds one input; errors of ours are answers."""
    try:
        HARNESSES[name](data)
    except EdgepressError as error:
        assert all((error.what, error.why, error.fix)), "an error without its three lines"  # noqa: PT017


def seeds(name: str) -> list[bytes]:
    """Good inputs and hostile ones, as the tests beside have them."""
    return [*_SEEDS[name](), b"", b"\0" * 64, b"{" * 3000, b"[" * 3000, b"version https://git-lfs.github.com/spec/v1\n"]


def _onnx_seeds() -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 3]) for n in ("x", "y")]
    outside = TensorProto(name="w", data_type=1, dims=[3])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../x")
    shape, vast = (numpy_helper.from_array(np.array([1 << 40] * rank, np.int64), "s") for rank in (1, 64))
    found = []
    for nodes, tensors in (
        ([helper.make_node("Relu", ["x"], ["y"])], []),
        ([helper.make_node("Relu", ["x"], ["y"])], [outside]),
        ([helper.make_node("ConstantOfShape", ["s"], ["y"])], [shape]),
        ([helper.make_node("ConstantOfShape", ["s"], [])], [vast]),
        ([helper.make_node("Constant", [], [], value=shape), helper.make_node("Relu", ["x"], ["y"])], []),
        ([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")], []),
    ):
        graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
        found.append(model.SerializeToString())
    return [*found, found[0][:-3], b"ptrt" + bytes(20)]


def _tar_seeds() -> list[bytes]:
    found = []
    for kind, name in ((tarfile.REGTYPE, "a/b"), (tarfile.SYMTYPE, "a"), (tarfile.LNKTYPE, "../b"), (b"x", "p")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as new:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "/etc/passwd", 3 if kind == tarfile.REGTYPE else 0
            new.addfile(member, io.BytesIO(b"abc"))
        found.append(buffer.getvalue())
    return found


def _json_seeds(*documents: object) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


def _manifest_seeds() -> list[bytes]:
    file = {"sha256": "a" * 64, "bytes": 3}
    golden = {"file": "g.npz", "samples": 1, "rtol": 0.1, "atol": {"y": 0.1}}
    good = {
        "schema": 1, "name": "n", "target": "t", "precision": "int8", "files": {"e": file, "g.npz": file},
        "golden": golden, "engine_sha256": "a" * 64,
    }  # fmt: skip
    return _json_seeds(good, {**good, "schema": 9}, {**good, "files": {"../e": file}})


def _record_seeds() -> list[bytes]:
    from pipeline.store.entries import FileRef, make_entry, write_record

    files = [FileRef(name="a/b", sha256="b" * 64, size_bytes=3)]
    good = write_record(make_entry("a" * 64, "s", files, {"x": 1.5}, measured=False))
    return [good, good[:-1], *_json_seeds({"schema": 2})]


def _npz_seeds() -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=np.ones((4, 2), np.float32))
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        new.writestr("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr':'|O'}\n")
    return [*found, buffer.getvalue()]


def _pickle_seeds() -> list[bytes]:
    return [
        pickle.dumps({"a": [1.5, "b", (None, True)]}, protocol=2), pickle.dumps(print, protocol=4),
        b"\x80\x02cposix\nsystem\nX\x01\x00\x00\x00x\x85R.", b"(iposix\nsystem\n.", b"\x80\x02\x82\x01.",
    ]  # fmt: skip


_SEEDS: Final[dict[str, Callable[[], list[bytes]]]] = _documents.SEEDS | {
    "onnx_file": _onnx_seeds,
    "archive": _tar_seeds,
    "manifest": _manifest_seeds,
    "record": _record_seeds,
    "weights": _pickle_seeds,
    "npz": _npz_seeds,
    "signatures": lambda: _json_seeds(
        {
            "payloadType": "application/vnd.in-toto+json", "payload": "e30=",
            "signatures": [{"keyid": "k", "sig": "YQ=="}],
        }
    ),
    "recipe": lambda: [
        b'task = "classification"\n[model]\nonnx = "m.onnx"\n[data]\nnpz = "d.npz"\n', b"[prune]\nratio = 2",
    ],
    "profile": lambda: [
        b'name = "x"\ndescription = "y"\nextends = "host"\n', b'extends = "../../etc/passwd"\n',
        b"[hardware]\narch = 3\n",
    ],
    "edits": lambda: _json_seeds([{"kind": "remove"}], [{"kind": "channels"}], [{"kind": "nosuch"}], {}),
    "answer": lambda: _json_seeds({"nonce": "n" * 16, "result": {"a": 1}}, {"nonce": "x"}, {"error": {"what": "a"}}),
}  # fmt: skip
