"""Archives: the same bytes everywhere on the way in, nothing but plain files on the way out."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.bundling.archive import ArchiveLimits, extract_archive, pack_archive
from targets.errors import DiskFailure, InputError, RefusedError

NAMES = st.text("abcxyz019._-", min_size=1, max_size=12).filter(lambda n: n not in {".", ".."} and not n.endswith("."))
TREES = st.dictionaries(NAMES, st.binary(max_size=3000), min_size=1, max_size=6)


def write_tree(folder: Path, tree: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in tree.items():
        (folder / name).write_bytes(data)
    return folder


def tar_gz(path: Path, *members: tuple[tarfile.TarInfo, bytes], style: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w:gz", format=style) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, data


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_what_is_packed_comes_out_again(tree: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names and bytes survive the round trip, and the system's own tar reads the archive the same way."""
    tmp = tmp_path_factory.mktemp("trip")
    if len({name.casefold() for name in tree}) != len(tree):
        return
    pack_archive(write_tree(tmp / "in", tree), tmp / "a.tar.gz", top="bundle")
    extract_archive(tmp / "a.tar.gz", tmp / "out")
    assert {p.name: p.read_bytes() for p in (tmp / "out" / "bundle").iterdir()} == tree
    with tarfile.open(tmp / "a.tar.gz") as tar:
        assert {m.name for m in tar.getmembers()} == {"bundle", *(f"bundle/{name}" for name in tree)}
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in tar.getmembers()} == {(0, 0, "", "", 0)}


def test_bytes_do_not_depend_on_folder_time_mode_or_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names and contents give the same archive, whatever folder, mtime, umask, environment and order."""
    tree = {"b.bin": b"2" * 5000, "a.txt": b"1", "c": b""}
    first = write_tree(tmp_path / "one", tree)
    old = os.umask(0o077)
    try:
        second = write_tree(tmp_path / "deep" / "two", dict(reversed(tree.items())))
    finally:
        os.umask(old)
    os.utime(second / "a.txt", (1, 1))
    (second / "c").chmod(0o755)
    for folder, out in ((first, "x.tar.gz"), (second, "other.tar.gz")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(len(out)))
        pack_archive(folder, tmp_path / out, top="bundle")
    assert (tmp_path / "x.tar.gz").read_bytes() == (tmp_path / "other.tar.gz").read_bytes()


def test_a_full_disk_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: who unpacks where the user chose no place says how to choose one, and leaves nothing."""
    pack_archive(write_tree(tmp_path / "in", {"a": b"1"}), tmp_path / "a.tar.gz", top="bundle")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.bundling.archive._Unpacker.unpack", full)
    with pytest.raises(DiskFailure, match="or choose another folder with TMPDIR"):
        extract_archive(tmp_path / "a.tar.gz", tmp_path / "out", hint="choose another folder with TMPDIR")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "in"]


def test_packing_refuses_links_and_emptiness(tmp_path: Path) -> None:
    """A link in the folder is not followed into the archive, and an empty folder is no archive."""
    folder = write_tree(tmp_path / "in", {"a": b"1"})
    (folder / "link").symlink_to("/etc/hostname")
    with pytest.raises(RefusedError, match="link"):
        pack_archive(folder, tmp_path / "a.tar.gz", top="t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no files"):
        pack_archive(tmp_path / "empty", tmp_path / "a.tar.gz", top="t")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "in"]


GOOD = entry("t/ok.txt", data=b"fine")
HOSTILE: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "parent": [entry("../x", data=b"1")],
    "parent inside": [entry("a/../../x", data=b"1")],
    "parent that stays inside": [entry("t/a/../x", data=b"1")],
    "absolute": [entry("/tmp/x", data=b"1")],
    "current folder": [entry("./x", data=b"1")],
    "backslash": [entry("t\\..\\x", data=b"1")],
    "drive": [entry("C:x", data=b"1")],
    "empty name": [entry("", data=b"1")],
    "empty part": [entry("t//x", data=b"1")],
    "control character": [entry("t/\x1b]0;x\x07", data=b"1")],
    "right to left": [entry("t/x\u202egnp.exe", data=b"1")],
    "trailing dot": [entry("t/x.", data=b"1")],
    "too deep": [entry("/".join(["d"] * 40), data=b"1")],
    "symbolic link": [entry("t/l", tarfile.SYMTYPE, link="/etc")],
    "link, then write through it": [entry("t/l", tarfile.SYMTYPE, link="/tmp"), entry("t/l/x", data=b"1")],
    "hard link": [entry("t/h", tarfile.LNKTYPE, link="/etc/passwd")],
    "empty-name link": [entry("", tarfile.SYMTYPE, link="/etc")],
    "character device": [entry("t/null", tarfile.CHRTYPE)],
    "block device": [entry("t/sda", tarfile.BLKTYPE)],
    "pipe": [entry("t/pipe", tarfile.FIFOTYPE)],
    "sparse": [entry("t/sparse", tarfile.GNUTYPE_SPARSE)],
    "contiguous": [entry("t/c", tarfile.CONTTYPE)],
    "twice": [entry("t/x", data=b"1"), entry("t/x", data=b"2")],
    "twice by case": [entry("t/x", data=b"1"), entry("t/X", data=b"2")],
    "twice by Unicode form": [entry("t/\u00e9", data=b"1"), entry("t/e\u0301", data=b"2")],
    "folder by case": [entry("t/d/x", data=b"1"), entry("t/D/y", data=b"2")],
    "file, then folder": [entry("t/x", data=b"1"), entry("t/x", tarfile.DIRTYPE)],
    "below a file": [entry("t/x", data=b"1"), entry("t/x/y", data=b"2")],
    "folder, then file": [entry("t/x/y", data=b"1"), entry("t/x", data=b"2")],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_a_hostile_archive_is_refused_and_leaves_nothing(case: str, style: int, tmp_path: Path) -> None:
    """Every entry that is not a plain file or folder inside the target is refused, and nothing stays on the disk."""
    place = tmp_path / "place"
    place.mkdir()
    path = tar_gz(tmp_path / "evil.tar.gz", GOOD, *HOSTILE[case], style=style)
    with pytest.raises(RefusedError) as caught:
        extract_archive(path, place / "out")
    assert list(place.iterdir()) == []
    assert "nothing was extracted" in caught.value.why
    assert str(caught.value).count("\n") == 2


def test_records_that_change_names_are_refused(tmp_path: Path) -> None:
    """Long-name and pax records, which tools read differently, are refused by their type (CVE-2025-4517)."""
    long_name = "t/" + "n" * 200
    for style, kind in ((tarfile.GNU_FORMAT, "a long-name record"), (tarfile.PAX_FORMAT, "a pax record")):
        path = tar_gz(tmp_path / "long.tar.gz", entry(long_name, data=b"1"), style=style)
        with pytest.raises(RefusedError, match=kind):
            extract_archive(path, tmp_path / "out")


def _bomb(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        header = tarfile.TarInfo("t/zeros")
        header.size = 30 << 20
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(header.size + 1024))


def _claims_much(path: Path) -> None:
    header = tarfile.TarInfo("t/much")
    header.size = (8 << 30) - 1
    path.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT)))


def _zeros_after_end(path: Path) -> None:
    tar_gz(path, GOOD)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(40 << 20)))


def _data_after_end(path: Path) -> None:
    tar_gz(path, GOOD)
    path.write_bytes(path.read_bytes() + gzip.compress(b"hidden"))


def _cut(path: Path) -> None:
    tar_gz(path, entry("t/x", data=os.urandom(20_000)))
    path.write_bytes(path.read_bytes()[:-9000])


def _flipped(path: Path) -> None:
    tar_gz(path, entry("t/x", data=os.urandom(20_000)))
    data = bytearray(path.read_bytes())
    data[9000] ^= 1
    path.write_bytes(data)


def _bad_checksum(path: Path) -> None:
    raw = bytearray(tarfile.TarInfo("t/x").tobuf(tarfile.USTAR_FORMAT))
    raw[0] ^= 1
    path.write_bytes(gzip.compress(bytes(raw) + bytes(1024)))


def _negative_size(path: Path) -> None:
    raw = bytearray(tarfile.TarInfo("t/x").tobuf(tarfile.USTAR_FORMAT))
    raw[124:136] = b"\xff" * 12  # base 256: -1
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + 256 + sum(raw[156:]))
    path.write_bytes(gzip.compress(bytes(raw) + bytes(1024)))


def _not_gzip(path: Path) -> None:
    path.write_bytes(b"PK\3\4 this is a zip")


def _empty(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(10240)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_bomb, "over"), (_claims_much, "over the limit"), (_zeros_after_end, "times its size"),
        (_data_after_end, "after its end"), (_cut, "cut short"), (_flipped, "damaged"), (_bad_checksum, "checksum"),
        (_negative_size, "octal"), (_not_gzip, "damaged"), (_empty, "empty"),
    ],
)  # fmt: skip
def test_a_damaged_or_exploding_archive_is_refused(make: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    """Bombs, lies about sizes, hidden data, truncation and flipped bits are refused before they cost anything."""
    make(tmp_path / "evil.tar.gz")
    with pytest.raises(RefusedError, match=why):
        extract_archive(tmp_path / "evil.tar.gz", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.tar.gz"]


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    """The number of entries has a limit."""
    path = tar_gz(tmp_path / "many.tar.gz", *(entry(f"t/{i}") for i in range(20)))
    extract_archive(path, tmp_path / "all", limits=ArchiveLimits(entries=21))
    with pytest.raises(RefusedError, match="over 20 entries"):
        extract_archive(path, tmp_path / "out", limits=ArchiveLimits(entries=20))
    assert not (tmp_path / "out").exists()


def test_an_existing_destination_is_left_alone(tmp_path: Path) -> None:
    """Unpacking never merges with, or replaces, what is there."""
    path = tar_gz(tmp_path / "a.tar.gz", GOOD)
    write_tree(tmp_path / "out", {"mine": b"1"})
    with pytest.raises(InputError, match="exists"):
        extract_archive(path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(InputError, match="cannot read"):
        extract_archive(tmp_path / "none.tar.gz", tmp_path / "new")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 511), value=st.integers(0, 255))
def test_any_header_byte_may_be_anything(position: int, value: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever one byte of a header says (checksum made right), the result is inside the target, or a refusal."""
    tmp = tmp_path_factory.mktemp("fuzz")
    raw = bytearray(entry("t/abc", data=b"1234")[0].tobuf(tarfile.USTAR_FORMAT))
    raw[position] = value
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + 256 + sum(raw[156:]))
    (tmp / "a.tar.gz").write_bytes(gzip.compress(bytes(raw) + bytes(1024)))
    try:
        extract_archive(tmp / "a.tar.gz", tmp / "out")
    except RefusedError:
        assert [p.name for p in tmp.iterdir()] == ["a.tar.gz"]
    else:
        assert sorted(p.name for p in tmp.iterdir()) == ["a.tar.gz", "out"]
        assert all(p.is_dir() or (p.is_file() and not p.is_symlink()) for p in (tmp / "out").rglob("*"))
