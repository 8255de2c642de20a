"""Small wrong changes to what keeps promises, each with the tests that must turn red: data, no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change.

    Attributes:
        what: What is taken away.
        file: Where, from the root.
        old: Text that stands there once.
        new: What stands there instead.
        tests: Tests of which one must fail (pytest arguments).
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_CRASH: Final = ("tests/faults/test_store_crash.py::test_order_on_disk",)
_FILES: Final = ("tests/unit/targets/test_files.py",)
_STORE: Final = ("tests/unit/pipeline/store/test_store.py",)
_MANY: Final = ("tests/faults/test_store_processes.py",)
_CHILD: Final = ("tests/unit/targets/test_process.py",)
_FORKS: Final = ("tests/unit/targets/test_forkserver.py",)
_ONNX: Final = ("tests/unit/targets/test_hostile_onnx.py",)
_WEIGHTS: Final = ("tests/unit/pipeline/weights/test_hostile_weights.py",)
_ARCHIVE: Final = ("tests/unit/pipeline/bundling/test_archive.py",)
_VERIFY: Final = ("tests/unit/pipeline/bundling/test_verify.py",)
_STUDY: Final = ("tests/unit/pipeline/search/test_search_journal.py",)
_CHECKPOINTS: Final = ("tests/unit/pipeline/training/test_checkpoints.py",)
_TRUST: Final = ("tests/unit/pipeline/bundling/test_trust.py",)
_CAMPAIGN: Final = ("tests/unit/pipeline/benchmarking/test_journal.py",)
_SIGNED: Final = ("tests/unit/pipeline/bundling/test_signature.py",)


def _mutant(what: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(what=what, file=file, old=old, new=new, tests=tests)


MUTANTS: Final = (
    _mutant("fsync of a blob", "pipeline/store/blobs.py", "        os.fsync(out.fileno())\n", "", _CRASH),
    _mutant("fsync of the blobs' folders", "pipeline/store/blobs.py", "            fsync_folder(folder)\n",
            "            pass\n", _CRASH),
    _mutant("fsync of the records' folder", "pipeline/store/store.py",
            '                fsync_folder(self.root / "ac")\n', "", _CRASH),
    _mutant("blobs before their record", "pipeline/store/store.py",
            "                self._blobs.install(staged)\n                record.rename(self._record(key))\n",
            "                record.rename(self._record(key))\n                self._blobs.install(staged)\n", _CRASH),
    _mutant("fsync of a file", "targets/files.py", "        os.fsync(file.fileno())\n", "", _FILES),
    _mutant("rename into place", "targets/files.py", "            temporary.rename(path)\n",
            "            path.write_bytes(data)\n            temporary.unlink()\n", _FILES),
    _mutant("fsync of a file's folder", "targets/files.py", "        fsync_folder(path.parent)\n\n\ndef write_together",
            "\n\ndef write_together", _FILES),
    _mutant("hash of a blob", "pipeline/store/blobs.py", "    if digest != ref.sha256:\n", "    if False:\n", _STORE),
    _mutant("hash on first use", "pipeline/store/blobs.py",
            "            if self._verified.get(ref.sha256) != identity:\n", "            if False:\n", _STORE),
    _mutant("links in the store", "pipeline/store/blobs.py",
            "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)\n    except",
            "os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)\n    except", _STORE),
    _mutant("checksum of a record", "pipeline/store/entries.py",
            "    if entry.key != key or write_record(entry) != data:\n", "    if False:\n",
            ("tests/unit/pipeline/store/test_entries.py",)),
    _mutant("lock of a key", "pipeline/store/store.py",
            "        with locks.held(path, on_wait=on_wait and (lambda: on_wait(key))):\n            yield\n",
            "        yield\n", _MANY),
    _mutant("lock of a session", "pipeline/store/store.py", "        with locks.held(path, shared=True):\n",
            "        if True:\n", (*_STORE, *_MANY)),
    _mutant("cache writable by others", "pipeline/store/place.py", "        if found.st_mode & _OTHERS_WRITE:\n",
            "        if False:\n", ("tests/unit/pipeline/store/test_place.py",)),
    _mutant("limit of memory", "targets/child.py",
            "        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))\n",
            "        pass\n", _CHILD),
    _mutant("limit of file size", "targets/child.py",
            "        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))\n",
            "        pass\n", _CHILD),
    _mutant("limit of time", "targets/supervised.py",
            "                    raise out_of_time(limits, what)\n", "                    continue\n", _CHILD),
    _mutant("who leaves the group", "targets/child.py", "        below = _descendants(os.getpid())\n",
            "        below = []\n", _CHILD),
    _mutant("orphans of a killed supervisor", "targets/supervised.py",
            '                kill_marked(f"{_MARK}={mark}")\n', "                pass\n", _CHILD),
    _mutant("environment of forks", "targets/forkserver.py", " or self._server.inherited != inherited()", "", _FORKS),
    _mutant("limit of elements", "targets/onnxcontent.py",
            "    if any(dim < 0 for dim in dims) or math.prod(dims) <= limit:\n", "    if True:\n", _ONNX),
    _mutant("nodes with code", "targets/onnxcontent.py", "            if node.op_type in _CODE:\n",
            "            if False:\n", _ONNX),
    _mutant("hard links", "targets/contained.py", "    if found.st_nlink != 1:\n", "    if False:\n", _ONNX),
    _mutant("symbolic links", "targets/contained.py",
            "_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK", "_READ: Final = os.O_RDONLY | os.O_NONBLOCK",
            _ONNX),
    _mutant("allow-list of pickles", "pipeline/weights/picklescan.py",
            "            if not _HARMLESS.fullmatch(str(argument)):\n", "            if False:\n", _WEIGHTS),
    _mutant("other ways to import", "pipeline/weights/picklescan.py", "        elif opcode.name in _IMPORTS:\n",
            "        elif False:\n", _WEIGHTS),
    _mutant("size of a view", "pipeline/weights/child.py",
            "        if tensor.numel() * tensor.element_size() > size_bytes + _ROOM_BYTES:\n", "        if False:\n",
            ("tests/unit/pipeline/weights/test_hostile_weights.py::test_a_view_cannot_ask_for_more_than_the_file_holds",)),
    _mutant("size of a bomb of arrays", "pipeline/data/npzfile.py", "        if total_bytes > limit_bytes:\n",
            "        if False:\n", ("tests/unit/pipeline/data/test_hostile_npz.py",)),
    _mutant("links in archives", "pipeline/bundling/archive.py",
            "        if kind not in _REGULAR and kind != _FOLDER:\n", "        if False:\n", _ARCHIVE),
    _mutant("ratio of an archive", "pipeline/bundling/archive.py", "        if self._budget_bytes < 0:\n",
            "        if False:\n", _ARCHIVE),
    _mutant("hash of a bundle's file", "pipeline/bundling/verify.py", "        if digest != entry.sha256:\n",
            "        if False:\n", _VERIFY),
    _mutant("extra files of a bundle", "pipeline/bundling/verify.py",
            "    for name in sorted(present.keys() - manifest.files.keys()):\n", "    for name in []:\n", _VERIFY),
    _mutant("what a signature is of", "pipeline/bundling/signature.py", "    if named != [manifest_sha256]:\n",
            "    if False:\n", _SIGNED),
    _mutant("whose a signature is", "pipeline/bundling/signature.py",
            "                public.verify(signature, pre_authentication(payload_type, payload))\n",
            "                pass\n", _SIGNED),
    _mutant("a private key that others read", "pipeline/bundling/signature.py",
            "    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):\n", "    if False:\n", _SIGNED),
    _mutant("a library that a bundle names", "pipeline/bundling/trust.py",
            "            if _names_code(str(key), str(value), manifest):\n", "            if False:\n", _TRUST),
    _mutant("a compiled engine in a model", "pipeline/bundling/trust.py",
            "    if any(_holds(folder / name, _COMPILED)", "    if any(() and (folder / name, _COMPILED)", _TRUST),
    _mutant("what the cache vouches for", "pipeline/bundling/trust.py",
            'entry.stage.partition(":")[0] == stage]', "True]", _TRUST),
    _mutant("what is vouched for", "pipeline/bundling/trust.py",
            'sha256_file(folder / MANIFEST_NAME), "bundle"', 'manifest.engine_sha256, "build"', _TRUST),
    _mutant("fsync of an event", "pipeline/search/journal.py",
            "                file.flush()\n                os.fsync(file.fileno())\n",
            "                file.flush()\n", _STUDY),
    _mutant("fsync of a study's folder", "pipeline/search/journal.py",
            "                fsync_folder(path.parent)\n", "", _STUDY),
    _mutant("lock of a study", "pipeline/search/journal.py",
            "            _lock(descriptor, lock, self._path)\n", "", _STUDY),
    _mutant("half an event is cut off", "pipeline/search/journal.py",
            "            end = _sound_end(file)\n            file.truncate(end)\n",
            "            end = file.seek(0, os.SEEK_END)\n", _STUDY),
    _mutant("what a full disk left of an event", "pipeline/search/journal.py",
            "                    os.ftruncate(file.fileno(), end)\n", "                    pass\n", _STUDY),
    _mutant("seal of an event", "pipeline/search/journal.py",
            "    return event if seal is None or seal == _seal(event) else None\n", "    return event\n", _STUDY),
    _mutant("a file that is no study", "pipeline/search/journal.py",
            "                if not _is_study(file.readline()):\n", "                if False:\n", _STUDY),
    _mutant("pickles of a shared server", "pipeline/search/storage.py", "    return JournalStorage(Events())\n",
            "    return JournalStorage(server)\n", _STUDY),
    _mutant("candidates half drawn", "pipeline/search/study.py",
            "            if is_marked(orphan) or self._is_of_the_grid(trial):\n", "            if True:\n", _STUDY),
    _mutant("workers that live", "pipeline/search/workers.py",
            "    return all(has_ended(other) for other in others)\n", "    return True\n", _STUDY),
    _mutant("parents in one order", "pipeline/search/samplers.py",
            "        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)\n",
            "        return super().select_parent(study, generation)\n",
            ("tests/unit/pipeline/search/test_search_study.py::test_a_drawing_that_is_repeated_gives_the_same",)),
    _mutant("fsync of a checkpoint's folder", "pipeline/training/checkpoints.py",
            "            fsync_folder(unfinished)\n", "", _CHECKPOINTS),
    _mutant("fsync of a checkpoint's name", "pipeline/training/checkpoints.py",
            "            fsync_folder(self._folder)\n", "", _CHECKPOINTS),
    _mutant("rename of a checkpoint", "pipeline/training/checkpoints.py",
            "            os.replace(unfinished, final_place)",
            "            unfinished.rename(final_place)", _CHECKPOINTS),
    _mutant("hash of a checkpoint", "pipeline/training/checkpoints.py",
            '    if document["sha256"] != sha256_bytes(data):\n', "    if False:\n", _CHECKPOINTS),
    _mutant("seal of a checkpoint", "pipeline/training/checkpoints.py", "    if seal != _seal(document):\n",
            "    if False:\n", _CHECKPOINTS),
    _mutant("size of a checkpoint", "pipeline/training/checkpoints.py", "        if size_bytes > limit_bytes:\n",
            "        if False:\n", _CHECKPOINTS),
    _mutant("a checkpoint of something else", "pipeline/training/loop.py",
            "        if not fits(*parts, processes=self._fabric.world_size):\n", "        if False:\n", _CHECKPOINTS),
    _mutant("which checkpoints stay", "pipeline/training/checkpoints.py",
            "        before = [epoch for epoch in self._epochs() if epoch < newest]\n",
            "        before = self._epochs()[-2:-1]\n", _CHECKPOINTS),
    _mutant("fsync of a block", "pipeline/benchmarking/journal.py", "        os.fsync(descriptor)\n", "", _CAMPAIGN),
    _mutant("checksum of a block", "pipeline/benchmarking/journal.py",
            'checksum != b"%08x " % zlib.crc32(body):', "False:", _CAMPAIGN),
    _mutant("whose answer it is", "targets/devices/answers.py",
            'or document.get("nonce") != nonce:', "or False:", ("tests/unit/targets/devices/test_device_answers.py",)),
    _mutant("size of an answer", "targets/devices/answers.py", "    if len(answer.stdout) > MAX_ANSWER_BYTES:\n",
            "    if False:\n", ("tests/unit/targets/devices/test_device_answers.py",)),
    _mutant("what a device got", "targets/devices/scripts.py", """ = {sha256} ] ||""", """ = "$sum" ] ||""",
            ("tests/unit/targets/devices/test_remote_device.py",)),
    _mutant("too little room", "pipeline/diskspace.py",
            "        if free_bytes is None or free_bytes >= needed_bytes:\n", "        if True:\n",
            ("tests/unit/pipeline/test_diskspace.py",)),
    _mutant("the second signal", "pipeline/cli/main.py", "            signal.signal(signum, _stop_now)\n",
            "            pass\n", ("tests/unit/pipeline/cli/test_signals.py",)),
)  # fmt: skip
