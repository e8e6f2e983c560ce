"""Taking files out of folders and archives, and nothing else."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from cnsdiff.base.errors import DataError
from cnsdiff.catalogue.bundle import open_bundle

FILES = {"top/a.txt": b"a" * 5000, "top/deep/b.txt": b"b", "c.txt": b"c", "top/c.txt": b"no"}


def tar_of(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(params=["folder", "zip", "tar", "tar.gz", "tar.xz"])
def bundle_path(request, tmp_path, zipped):
    path = tmp_path / f"given.{request.param}"
    if request.param == "zip":
        path.write_bytes(zipped(FILES))
    elif request.param == "folder":
        for name, content in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    else:
        tar_of(path, FILES, "w:" + request.param.partition(".")[2])
    return path


@pytest.fixture
def into(tmp_path):
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def test_named_files_and_no_others(bundle_path, into, below):
    with open_bundle(bundle_path) as bundle:
        assert set(bundle.files) == {"a.txt", "b.txt", "c.txt"}
        bundle.copy(["b.txt", "c.txt"], into, limit=10)
    assert below(into) == {"b.txt": b"b", "c.txt": b"c"}  # c: the one nearest to the top


def test_more_than_it_may_hold(bundle_path, into):
    with open_bundle(bundle_path) as bundle, pytest.raises(DataError, match=r"more than 5\.0 kB"):
        bundle.copy(["a.txt", "b.txt"], into, limit=5000)


def test_a_bomb_that_lies_about_its_size(tmp_path, into, zipped):
    honest = zipped({"a.txt": b"\0" * 50_000_000})
    lying = honest.replace((50_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert len(lying) < 100_000
    for name, content in {"honest.zip": honest, "lying.zip": lying}.items():
        (tmp_path / name).write_bytes(content)
        with open_bundle(tmp_path / name) as bundle, pytest.raises(DataError):
            bundle.copy(["a.txt"], into, limit=1_000_000)
        assert (into / "a.txt").stat().st_size <= 1_000_000


def test_one_plain_file(tmp_path, into, below):
    (tmp_path / "a.csv").write_text("x")
    with open_bundle(tmp_path / "a.csv") as bundle:
        bundle.copy(bundle.files, into, limit=10)
    assert below(into) == {"a.csv": b"x"}


EVIL = ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "a/.."]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_point_outside(tmp_path, zipped, below, name, kind):
    path = tmp_path / "given"
    if kind == "zip":
        path.write_bytes(zipped({"a.txt": b"a", name: b"evil"}))
    else:
        tar_of(path, {"a.txt": b"a", name: b"evil"}, "w")
    before = below(tmp_path)
    with (
        pytest.raises(DataError, match=r"given: holds .* outside of the archive"),
        open_bundle(path),
    ):
        raise AssertionError("opened")
    assert below(tmp_path) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_a_tar_are_not_files(tmp_path, kind):
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with open_bundle(tmp_path / "t.tar") as bundle:
        assert bundle.files == {}


def test_links_in_a_zip_are_not_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        member = zipfile.ZipInfo("a.txt")
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with open_bundle(tmp_path / "z.zip") as bundle:
        assert bundle.files == {}


ARCHIVES = ["zip", "tar.gz", "tar.xz"]


@pytest.mark.parametrize("bundle_path", ARCHIVES, indirect=True)
def test_changed_bytes(bundle_path, into):
    data = bytearray(bundle_path.read_bytes())
    at = data.index(b"top/a.txt") + 12 if bundle_path.suffix == ".zip" else len(data) // 2
    data[at : at + 4] = bytes(byte ^ 0xFF for byte in data[at : at + 4])
    bundle_path.write_bytes(data)
    with pytest.raises(DataError, match="is a damaged archive"), open_bundle(bundle_path) as bundle:
        bundle.copy(["a.txt"], into, limit=10_000)


@pytest.mark.parametrize("bundle_path", ["tar", *ARCHIVES], indirect=True)
def test_cut_short(bundle_path, into):
    data = bundle_path.read_bytes()
    bundle_path.write_bytes(data[: 3000 if bundle_path.suffix == ".tar" else len(data) // 2])
    with pytest.raises(DataError, match="is a damaged archive"), open_bundle(bundle_path) as bundle:
        bundle.copy(["a.txt"], into, limit=10_000)


def test_a_zip_with_a_password(tmp_path, into, zipped):
    plain = bytearray(zipped({"a.txt": b"a"}))
    plain[6] |= 1  # the flag of encryption, in the file's and the directory's header
    plain[plain.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "z.zip").write_bytes(bytes(plain))
    with open_bundle(tmp_path / "z.zip") as bundle, pytest.raises(DataError, match="password"):
        bundle.copy(["a.txt"], into, limit=10)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such file"), open_bundle(tmp_path / "x"):
        raise AssertionError("opened")
