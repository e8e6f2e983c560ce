"""The way through a package index: pip where there is one, the index's own pages where not.

The tests that say so reach the index this machine is set up for, and fail where it does not
answer.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import zipfile
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from misbehaving_server import Reply
from polars.testing import assert_frame_equal

from cnsdiff.catalogue import ENTRIES, fetch, load, pypi, readers
from cnsdiff.catalogue.download import Checksum, DownloadError

WHEEL = ENTRIES["ml-100k"].wheel


@pytest.fixture
def no_pip(monkeypatch):
    monkeypatch.setattr(pypi, "pip_command", lambda: None)


@pytest.fixture
def no_settings(monkeypatch, tmp_path):
    """No pip configuration but what a test gives."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(pypi, "_pip_files", lambda: iter([tmp_path / "pip.conf"]))
    return tmp_path / "pip.conf"


@pytest.fixture
def index(web, no_pip, monkeypatch, tmp_path):
    """An index on the local server with a small wheel that has the data in it."""
    path = tmp_path / "wheel.whl"
    files = {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "1\t2\t3\t4\n",
        "ml-100k.user": "user_id:token\tage:token\tgender:token\toccupation:token\n1\t24\tM\tx\n",
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
        "class:token_seq\n2\tToy Story\t1995\tAnimation Children's\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", text)
    checksum = Checksum("sha256", "0" * 64).of(path)
    wheel = replace(WHEEL, checksum=checksum)
    entry = replace(ENTRIES["ml-100k"], wheel=wheel)
    monkeypatch.setitem(ENTRIES, "ml-100k", entry)
    monkeypatch.setenv("PIP_INDEX_URL", web.address("simple"))
    web.files[f"files/{WHEEL.file}"] = path.read_bytes()
    return web


HTML = f"""<!DOCTYPE html><html><body><a href="../../files/recbole-1.2.0-py3-none-any.whl">x</a>
<a href="../../files/{WHEEL.file}#sha256=00" data-requires-python="&gt;=3.7">y</a></body></html>"""
JSON = f"""{{"meta": {{"api-version": "1.1"}}, "name": "recbole", "files": [
{{"filename": "{WHEEL.file}", "url": "../../files/{WHEEL.file}", "hashes": {{}}}}]}}"""


@pytest.mark.parametrize(
    ("page", "kind"), [(HTML, "text/html"), (JSON, "application/vnd.pypi.simple.v1+json")]
)
def test_both_forms_of_an_index(index, tmp_path, patience, page, kind):
    index.replies = [Reply(body=page.encode(), headers={"Content-Type": kind})]
    done = fetch("ml-100k", home=tmp_path / "home", route="pypi", retry=patience.retry())
    assert [path for path, _ in index.seen] == ["/simple/recbole/", f"/files/{WHEEL.file}"]
    assert done.record.route == "pypi"
    source = load("ml-100k", home=tmp_path / "home")
    assert source.tables["log"].frame.rows() == [(1, 2, 3.0, 4)]
    assert source.features["item_features"].rows() == [
        (2, "Toy Story", 1995, "Animation|Children's")
    ]


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([Reply(code=404)], "the package index does not answer"),
        ([Reply(body=b"<a href='other.whl'>")], f"does not have {WHEEL.file}"),
        ([Reply(body=b"{", headers={"Content-Type": "application/json"})], "does not answer"),
        ([Reply(body=HTML.encode()), Reply(body=b"another")], "not the published one"),
    ],
)
def test_an_index_that_does_not_help(index, tmp_path, patience, replies, words):
    index.replies = replies
    with pytest.raises(DownloadError, match=words) as caught:
        fetch("ml-100k", home=tmp_path / "home", route="pypi", retry=patience.retry())
    assert "PIP_INDEX_URL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "home").rglob("*.whl*"))


def test_auto_goes_on_by_the_index_when_the_address_fails(index, tmp_path, patience, notes):
    index.replies = [Reply(code=500), Reply(body=HTML.encode())]
    options = {"retry": patience.retry(), "report": notes, "mirror": index.address("closed")}
    done = fetch("ml-100k", home=tmp_path / "home", **options)
    assert done.record.route == "pypi"
    assert patience.waits == []  # one attempt, and on
    assert notes.lines[0].startswith(index.address("closed/ml-100k.zip"))
    assert "going on by PyPI" in notes.lines[1]
    assert not (tmp_path / "home" / ".downloads").exists()


def test_official_does_not_go_on_by_the_index(index, tmp_path, patience):
    options = {"retry": patience.retry(), "mirror": index.address("closed")}
    with pytest.raises(DownloadError, match="404"):
        fetch("ml-100k", home=tmp_path / "home", route="official", **options)
    assert len(index.seen) == 1


def test_index_address(no_settings, monkeypatch):
    assert pypi.index_address() == "https://pypi.org/simple"
    no_settings.write_text("[global]\nindex-url = https://example.org/simple\n")
    assert pypi.index_address() == "https://example.org/simple"
    no_settings.write_text("not a configuration")
    assert pypi.index_address() == "https://pypi.org/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/other")
    assert pypi.index_address() == "https://example.org/other"


def fake_pip(folder, script):
    path = folder / "pip3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def path_only(monkeypatch, tmp_path):
    """An environment without pip of its own, and a path of one folder."""
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")
    return folder


def test_pip_is_found_where_there_is_one(path_only):
    assert pypi.pip_command() is None
    fake_pip(path_only, "exit 1")
    assert pypi.pip_command() is None
    fake_pip(path_only, "exit 0")
    assert pypi.pip_command() == [str(path_only / "pip3")]


def test_the_interpreters_own_pip_comes_first(path_only, monkeypatch):
    fake_pip(path_only, "exit 0")
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: name == "pip" or None)
    assert pypi.pip_command() == [sys.executable, "-m", "pip"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('[ "$1" = --version ] || { echo "ERROR: No matching distribution." >&2; exit 1; }',
         "pip did not bring recbole==1.2.1 (No matching distribution)"),
        ("exit 0", "pip did not bring recbole==1.2.1 (it gave another file)"),
        (f'while [ "$1" != --dest ] && [ $# -gt 1 ]; do shift; done; echo x > "$2/{WHEEL.file}"',
         "pip brought another recbole-1.2.1-py3-none-any.whl than the known one"),
    ],
)  # fmt: skip
def test_a_pip_that_fails_is_followed_by_the_index(
    index, path_only, tmp_path, patience, notes, monkeypatch, script, words
):
    fake_pip(path_only, script)
    monkeypatch.setattr(pypi, "pip_command", lambda: [str(path_only / "pip3")])
    index.replies = [Reply(body=HTML.encode())]
    options = {"retry": patience.retry(), "report": notes, "route": "pypi"}
    assert not fetch("ml-100k", home=tmp_path / "home", **options).already
    assert any(words in line for line in notes.lines), notes.lines


def check_ml_100k(source):
    """The numbers of its README."""
    log = source.tables["log"]
    assert (len(log), log.n_users, log.n_items) == (100_000, 943, 1_682)
    assert log.frame.columns == ["user", "item", "rating", "timestamp"]
    assert sorted(log.frame["rating"].unique()) == [1, 2, 3, 4, 5]
    assert log.frame.group_by("user").len()["len"].min() == 20
    users, items = source.features["user_features"], source.features["item_features"]
    assert users.columns == ["user", "age", "gender", "occupation"]
    assert dict(users["gender"].value_counts().iter_rows()) == {"M": 670, "F": 273}
    assert users["occupation"].n_unique() == 21
    assert items.columns == ["item", "title", "release_year", "genres"]
    assert items["genres"].str.split("|").explode().n_unique() == 19
    assert items["release_year"].is_between(1922, 1998).all()
    assert items.filter(pl.col("release_year").is_null())["item"].to_list() == [267]  # "unknown"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """ml-100k as the index of this machine gives it, by pip."""
    home = tmp_path_factory.mktemp("real")
    fetch("ml-100k", home=home, route="pypi")
    return home


def test_ml_100k_by_pip_for_real(real):
    record = fetch("ml-100k", home=real)
    assert record.already
    assert record.record.archive.sha256 == WHEEL.checksum.digest
    assert record.record.address == "recbole==1.2.1 by pip"
    source = load("ml-100k", home=real)
    check_ml_100k(source)
    assert source.provenance["threshold"] == 4.0


def test_ml_100k_without_any_pip_for_real(tmp_path, no_pip, real):
    done = fetch("ml-100k", home=tmp_path, route="pypi")
    assert done.record.address.startswith("http")
    check_ml_100k(load("ml-100k", home=tmp_path))


def test_ml_100k_by_a_pip_on_the_path_for_real(tmp_path, monkeypatch):
    """As in an environment made with --without-pip, which the README makes."""
    command = pypi.pip_command()
    assert command is not None, "this machine has no pip at all, and the README asks for one"
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: None)
    folder = tmp_path / "bin"
    folder.mkdir()
    fake_pip(folder, f'exec {shlex.join(command)} "$@"')
    # The rest of the path stays: the pip found above may be a script that needs it (pyenv's is).
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert pypi.pip_command() == [str(folder / "pip3")]
    done = fetch("ml-100k", home=tmp_path / "home", route="pypi")
    assert done.record.address == "recbole==1.2.1 by pip"


def test_both_layouts_of_ml_100k_say_the_same(real, tmp_path):
    """Written back in the form of GroupLens, whose server may be out of reach."""
    source = load("ml-100k", home=real)
    source.tables["log"].frame.write_csv(tmp_path / "u.data", separator="\t", include_header=False)
    users, items = source.features["user_features"], source.features["item_features"]
    users.with_columns(zip=pl.lit("00000")).write_csv(
        tmp_path / "u.user", separator="|", include_header=False
    )
    flags = np.array(
        [[genre in text.split("|") for genre in readers._GENRES] for text in items["genres"]]
    ).astype(int)
    lines = [
        f"{item}|{title}{'' if year is None else f' ({year})'}|||http://x|{'|'.join(map(str, row))}"
        for (item, title, year, _), row in zip(items.iter_rows(), flags, strict=True)
    ]
    (tmp_path / "u.item").write_bytes("\n".join(lines).encode("latin-1"))
    again = readers.ml_100k_grouplens(tmp_path)
    assert_frame_equal(again.tables["log"].frame, source.tables["log"].frame, check_dtypes=False)
    assert_frame_equal(again.features["user_features"], users)
    assert_frame_equal(again.features["item_features"], items)
