"""A data set in its folder: from the web, by hand, again, and after all that can go wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from misbehaving_server import Reply

from cnsdiff.base.errors import CnsdiffError, DataError, InputError, StorageError
from cnsdiff.catalogue import ENTRIES, fetch, load, status
from cnsdiff.catalogue.download import Checksum, DownloadError

TRAIN, TEST = "0 5 0\n1 0 2\n", "3 0 0\n0 0 4\n"
COAT = {"coat/train.ascii": TRAIN, "coat/test.ascii": TEST, "coat/propensities.ascii": "1 1\n"}


@pytest.fixture
def get(web, patience, notes, home, zipped):
    """Fetch from the local server, which has ``coat.zip``."""
    web.files["coat.zip"] = zipped(COAT)

    def run(name="coat", **options):
        options.setdefault("mirror", web.address(""))
        options.setdefault("retry", patience.retry())
        return fetch(name, report=notes, **options)

    return run


@pytest.fixture
def published(web, monkeypatch):
    """Make what is served now the published ``coat.zip``."""

    def publish():
        digest = hashlib.md5(web.files["coat.zip"]).hexdigest()
        entry = replace(ENTRIES["coat"], checksum=Checksum("md5", digest))
        monkeypatch.setitem(ENTRIES, "coat", entry)

    return publish


def test_fetch_and_load(get, web, home, below):
    assert status(ENTRIES["coat"]) == "absent"
    done = get()
    assert (done.already, done.folder) == (False, home / "coat")
    assert set(below(home)) == {"coat/train.ascii", "coat/test.ascii", "coat/source.json"}
    record = done.record
    assert json.loads((home / "coat" / "source.json").read_text()) == record.model_dump()
    archive = web.files["coat.zip"]
    assert record.archive.model_dump() == {
        "file": "coat.zip",
        "bytes": len(archive),
        "sha256": hashlib.sha256(archive).hexdigest(),
    }
    assert record.files["train.ascii"].model_dump() == {
        "bytes": len(TRAIN),
        "sha256": hashlib.sha256(TRAIN.encode()).hexdigest(),
    }
    assert (record.address, record.route) == (web.address("coat.zip"), "mirror")
    assert record.checked_against is None
    assert status(ENTRIES["coat"]) == "fetched"
    source = load("coat")
    assert source.name == "coat"
    assert source.tables["log"].frame.rows() == [(0, 1, 5.0), (1, 0, 1.0), (1, 2, 2.0)]
    assert source.tables["randomised"].frame.rows() == [(0, 0, 3.0), (1, 2, 4.0)]
    assert source.provenance["threshold"] == 4.0
    assert source.provenance["files"] == record.model_dump()["files"]
    assert str(home) not in json.dumps(dict(source.provenance))


def test_again_does_nothing(get, web):
    first = get()
    again = get()
    assert again.already
    assert again.record == first.record
    assert len(web.seen) == 1


def test_force_fetches_again_and_tells_what_changed(get, web, zipped, notes):
    get()
    second = get(force=True)
    assert not second.already
    assert notes.lines == []
    web.files["coat.zip"] = zipped(COAT | {"coat/train.ascii": "0 1 0\n1 0 2\n"})
    get(force=True)
    assert notes.lines == [
        f"{web.address('coat.zip')}: has changed since it was fetched on {second.record.fetched}"
    ]
    assert load("coat").tables["log"].frame.row(0) == (0, 1, 1.0)


@pytest.mark.parametrize("harm", ["change", "remove"])
def test_damage_is_seen_and_mended(get, home, notes, harm):
    get()
    path = home / "coat" / "train.ascii"
    if harm == "change":
        path.write_text(TRAIN.replace("5", "4"))
        words = "train.ascii is not what was fetched"
    else:
        path.unlink()
        words = "train.ascii is missing"
        assert status(ENTRIES["coat"]) == "damaged"
    with pytest.raises(DataError, match=rf"{words}; run: cnsdiff data fetch coat --force"):
        load("coat")
    assert not get().already
    assert words in notes.lines[0]
    assert path.read_text() == TRAIN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99, "files": {}}'])
def test_a_damaged_record(get, home, text):
    get()
    (home / "coat" / "source.json").write_text(text)
    assert status(ENTRIES["coat"]) == "damaged"
    for read in (get, lambda: load("coat")):
        with pytest.raises(DataError, match=r"source\.json: cannot be used .* force=True"):
            read()
    assert get(force=True).record.name == "coat"
    assert load("coat").name == "coat"


def test_a_folder_of_somebody_else_is_not_replaced(get, home, web):
    (home / "coat").mkdir(parents=True)
    (home / "coat" / "mine.txt").write_text("mine")
    with pytest.raises(
        InputError, match="was not fetched by cnsdiff; move it away, or pass force=True"
    ):
        get()
    assert (home / "coat" / "mine.txt").read_text() == "mine"
    assert web.seen == []
    get(force=True)
    assert not (home / "coat" / "mine.txt").exists()


def test_published_checksums_are_verified(get, web, published, home, below):
    published()
    done = get()
    assert done.record.checked_against == f"md5:{hashlib.md5(web.files['coat.zip']).hexdigest()}"
    before = below(home)
    web.files["coat.zip"] += b"more"
    with pytest.raises(DownloadError, match=r"expected md5:.*found md5:.*removed"):
        get(force=True)
    assert below(home) == before


def broken(get, web, zipped, kind):
    """Let the server misbehave; what the sentence must then hold."""
    evil = zipped(COAT | {"../evil": "x"})
    other = zipped({"readme": "x"})
    cases = {
        "404": (Reply(code=404), DownloadError, "404"),
        "403": (Reply(code=403), DownloadError, "local_copy="),
        "500": (Reply(code=500), DownloadError, "6 attempts"),
        "drops": (Reply(cut=10), DownloadError, "the connection broke"),
        "evil": (Reply(body=evil), DataError, "outside of the archive"),
        "other": (Reply(body=other), DataError, "does not hold train.ascii, test.ascii"),
        "page": (Reply(body=b"<html>log in</html>"), DataError, "damaged archive"),
        "short": (Reply(short=60), DataError, "damaged archive"),
    }
    web.always, error, words = cases[kind]
    return error, words


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("kind", ["404", "403", "500", "drops", "evil", "other", "page", "short"])
def test_failures_leave_what_was_there(get, web, zipped, home, below, kind, there, tmp_path):
    if there:
        get()
    before = below(home)
    error, words = broken(get, web, zipped, kind)
    with pytest.raises(error) as caught:
        get(force=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    after = below(home)
    parts = {".downloads/coat/coat.zip.part", ".downloads/coat/coat.zip.part.json"}
    assert {name: after[name] for name in after.keys() - parts} == before
    # Only a broken connection leaves something to go on with.
    assert (after.keys() - before.keys() == parts) == (kind == "drops")
    assert not (tmp_path / "evil").exists()
    web.always = Reply()
    assert not get(force=True).already
    assert {name.partition("/")[0] for name in below(home)} == {"coat"}


@pytest.mark.parametrize("size", [0, 200, 700])
def test_a_full_disk_leaves_what_was_there(get, web, zipped, home, below, full_disk, size):
    rows = "".join("1 " * 300 + "\n" for _ in range(50))
    get()
    before = below(home)
    web.files["coat.zip"] = zipped(COAT | {"coat/train.ascii": rows})
    assert len(web.files["coat.zip"]) < 1000 < len(rows)
    with full_disk(size), pytest.raises(StorageError, match="the disk is full"):
        get(force=True)
    assert below(home) == before


def test_a_bomb_is_not_unpacked(get, monkeypatch, home, below):
    monkeypatch.setitem(ENTRIES, "coat", replace(ENTRIES["coat"], unpacked=15))
    with pytest.raises(DataError, match="unpacks to more than 15 B"):
        get()
    assert below(home) == {}


def test_the_advice_names_the_page_and_the_way_by_hand(get, web):
    web.always = Reply(code=404)
    with pytest.raises(DownloadError) as caught:
        get()
    for words in ("coat.zip: the server says 404", ENTRIES["coat"].home_page, "local_copy='PATH'"):
        assert words in str(caught.value)


def test_the_mirror_of_the_environment(get, web, monkeypatch):
    monkeypatch.setenv("CNSDIFF_MIRROR", web.address("deep/er"))
    web.files["deep/er/coat.zip"] = web.files.pop("coat.zip")
    assert get(mirror=None).record.address == web.address("deep/er/coat.zip")


def test_a_mirror_that_is_no_address(get):
    with pytest.raises(InputError, match="start it with https"):
        get(mirror="example.org/data")


def test_plain_files_are_kept_as_they_come(get, web, home):
    import gzip

    text = "user_id,parent_asin,rating,timestamp\nA,B,5.0,1588687728923\n"
    web.files["Gift_Cards.csv.gz"] = gzip.compress(text.encode())
    done = get("amazon-2023/Gift_Cards")
    assert done.folder == home / "amazon-2023" / "Gift_Cards"
    assert (done.folder / "Gift_Cards.csv.gz").read_bytes() == web.files["Gift_Cards.csv.gz"]
    assert load("amazon-2023/Gift_Cards").tables["log"].frame.rows() == [
        ("A", "B", 5.0, 1588687728)
    ]
    assert not (home / ".downloads").exists()


def test_by_hand(get, web, tmp_path, home, below, published):
    folder = tmp_path / "mine" / "deep"
    folder.mkdir(parents=True)
    (folder / "user.txt").write_text("0,1,5\n")
    (folder / "random.txt").write_text("0,0,3\n")
    (folder / "notes.txt").write_text("not taken")
    before = below(tmp_path / "mine")
    record = get("yahoo-r3", local_copy=tmp_path / "mine", accept_terms=True).record
    assert set(below(home / "yahoo-r3")) == {"user.txt", "random.txt", "source.json"}
    assert (record.route, record.address) == ("by hand", "mine")
    assert (record.archive, record.terms_accepted) == (None, True)
    assert below(tmp_path / "mine") == before
    (tmp_path / "c.zip").write_bytes(web.files["coat.zip"])
    published()
    assert get("coat", local_copy=tmp_path / "c.zip").record.checked_against is not None
    (tmp_path / "c.zip").write_bytes(web.files["coat.zip"] + b" ")
    assert get("coat", local_copy=tmp_path / "c.zip", force=True).record.checked_against is None
    assert web.seen == []


@pytest.mark.parametrize("name", ["yahoo-r3", "food", "yelp"])
def test_terms_must_be_accepted_and_files_be_got_by_hand(get, name, web, home, tmp_path):
    entry = ENTRIES[name]
    for given in (None, tmp_path):
        with pytest.raises(InputError) as caught:
            get(name, local_copy=given)
        assert entry.home_page in str(caught.value)
        assert "accept_terms=True" in str(caught.value)
    with pytest.raises(InputError, match=r"no open address; .*--from FILE-OR-FOLDER") as caught:
        get(name, accept_terms=True)
    assert entry.home_page in str(caught.value)
    with pytest.raises(DataError, match=entry.layouts[0].required[0]):
        get(name, accept_terms=True, local_copy=tmp_path)
    with pytest.raises(DataError, match="no such file"):
        get(name, accept_terms=True, local_copy=tmp_path / "missing")
    assert web.seen == []
    assert not home.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "ml100k"}, ["'ml100k'", "did you mean 'ml-100k'", "data list"]),
        ({"name": "amazon-2023/all_beauty"}, ["did you mean 'amazon-2023/All_Beauty'"]),
        ({"route": "pipy"}, ["unknown route", "did you mean 'pypi'"]),
        ({"route": "pypi"}, ["coat: no package carries it"]),
    ],
)
def test_wrong_requests(get, options, words, home):
    with pytest.raises(InputError) as caught:
        get(**options)
    assert caught.value.exit_code == 2
    for word in words:
        assert word in str(caught.value)
    assert not home.exists()


def test_loading_what_is_not_there(home):
    with pytest.raises(
        InputError, match=r"coat: is not fetched yet; run: cnsdiff data fetch coat$"
    ):
        load("coat")
    with pytest.raises(InputError, match="--from PATH --accept-terms"):
        load("yelp")
    with pytest.raises(InputError, match="did you mean 'coat'"):
        load("coad")


def test_home_can_be_given(get, web, tmp_path, home):
    elsewhere = tmp_path / "elsewhere"
    assert get(home=elsewhere).folder == elsewhere / "coat"
    assert load("coat", home=elsewhere).name == "coat"
    assert not home.exists()


def test_interruption_leaves_the_part_and_the_next_call_goes_on(get, web, notes, home, below):
    real = notes.advance

    def interrupt(size):
        real(size)
        raise KeyboardInterrupt

    web.replies = [Reply(cut=100, stall=0.5)]
    notes.advance = interrupt
    with pytest.raises(KeyboardInterrupt):
        get()
    assert set(below(home)) == {
        ".downloads/coat/coat.zip.part",
        ".downloads/coat/coat.zip.part.json",
    }
    notes.advance = real
    get()
    assert web.ranges == [None, "bytes=100-"]
    assert notes.received == len(web.files["coat.zip"])


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_entries_are_whole(entry):
    assert entry.home_page.startswith("https://")
    assert entry.what and entry.shift and entry.licence and entry.terms and entry.citation
    assert bool(entry.addresses) != entry.ask
    assert all(address.startswith("https://") for address in entry.addresses)
    assert entry.columns[:2] == ("user", "item")
    for checksum in [entry.checksum, entry.wheel and entry.wheel.checksum]:
        if checksum:
            assert len(checksum.digest) == {"md5": 32, "sha256": 64}[checksum.algorithm]
            assert int(checksum.digest, 16) >= 0
    assert all(layout.required for layout in entry.layouts)


def test_every_failure_is_ours():
    assert issubclass(DownloadError, CnsdiffError)
