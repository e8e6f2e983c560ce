"""One file over HTTP, from servers that fail in every usual way."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from misbehaving_server import Reply

from cnsdiff.base.errors import StorageError
from cnsdiff.catalogue.download import Checksum, DownloadError, Retry, download

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA = Checksum("sha256", hashlib.sha256(BODY).hexdigest())


@pytest.fixture
def get(web, patience, notes, tmp_path):
    """Download ``a.zip`` and compare it with what is served."""
    web.files["a.zip"] = BODY

    def run(*names: str, expect: bytes | None = BODY, **options):
        options.setdefault("retry", patience.retry())
        target = tmp_path / "a.zip"
        addresses = [web.address(name) for name in names or ("a.zip",)]
        address = download(addresses, target, report=notes, **options)
        assert target.read_bytes() == expect
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
        return address

    return run


def test_a_good_server(get, web, notes, patience):
    assert get(checksum=SHA) == web.address("a.zip")
    assert get() == web.address("a.zip")  # replaces what is there
    assert notes.begun == [("a.zip", 0, len(BODY))] * 2
    assert notes.received == 2 * len(BODY)
    assert patience.waits == []
    assert web.ranges == [None, None]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_checksums(get, algorithm):
    get(checksum=Checksum(algorithm, hashlib.new(algorithm, BODY).hexdigest()))


def test_dropped_connections_are_resumed(get, web, notes, patience):
    web.replies = [Reply(cut=100_000), Reply(cut=50_000), Reply(cut=1)]
    get(checksum=SHA)
    assert web.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert {headers.get("if-range") for _, headers in web.seen[1:]} == {'"one"'}
    assert notes.received == len(BODY)  # no byte came twice
    assert patience.waits == [1, 2, 4]
    assert "the connection broke after 100 kB; trying again in 1 s" in notes.lines[0]


def test_the_last_change_serves_where_there_is_no_etag(get, web):
    changed = "Wed, 21 Oct 2015 07:28:00 GMT"
    web.always = Reply(etag=None, headers={"Last-Modified": changed})
    web.replies = [Reply(etag=None, headers={"Last-Modified": changed}, cut=1000)]
    get(checksum=SHA)
    assert web.seen[1][1]["if-range"] == changed
    assert web.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_again(get, web, etag):
    web.replies, web.always = [Reply(cut=1000, etag=etag)], Reply(etag=etag)
    get()
    assert web.ranges == [None, None]


def test_a_server_without_ranges_starts_again(get, web):
    web.replies, web.always = [Reply(cut=200_000)], Reply(ranges=False)
    get(checksum=SHA)
    assert web.ranges == [None, "bytes=200000-"]


def test_a_file_changed_between_attempts_is_not_mixed(get, web):
    web.replies = [Reply(cut=200_000)]
    web.always = Reply(etag='"two"', body=OTHER)
    get(expect=OTHER)
    assert web.ranges == [None, "bytes=200000-"]


def test_another_part_than_asked_for_is_not_appended(get, web):
    wrong = Reply(code=206, headers={"Content-Range": f"bytes 5-9/{len(BODY)}"})
    web.replies = [Reply(cut=200_000), wrong]
    get(checksum=SHA)
    assert web.ranges == [None, "bytes=200000-", None]


def test_a_refused_range_starts_again(get, web):
    web.replies = [Reply(cut=200_000), Reply(code=416)]
    get(checksum=SHA)
    assert web.ranges == [None, "bytes=200000-", None]


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504, 408])
def test_a_busy_server_is_asked_again(get, web, patience, code):
    web.replies = [Reply(code=code), Reply(code=code)]
    get()
    assert patience.waits == [1, 2]


@pytest.mark.parametrize(
    ("asked", "waited"),
    [("7", 7), ("0", 0), ("99999", 120), ("-3", 0), ("soon", 1), ("nan", 1), ("", 1)],
)
def test_retry_after_in_seconds(get, web, patience, asked, waited):
    web.replies = [Reply(code=429, headers={"Retry-After": asked})]
    get()
    assert patience.waits == [waited]


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(60, 50, 61), (-60, 0, 0), (9999, 120, 120)]
)
def test_retry_after_as_a_date(get, web, patience, seconds, least, most):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    web.replies = [Reply(code=503, headers={"Retry-After": date})]
    get()
    assert least <= patience.waits[0] <= most


def failing(get, *words: str, **options) -> str:
    with pytest.raises(DownloadError) as caught:
        get(**options)
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in text
    for word in words:
        assert word in text, (word, text)
    return text


@pytest.mark.parametrize("code", [500, 503])
def test_patience_ends(get, web, patience, tmp_path, code):
    web.always = Reply(code=code)
    failing(get, web.address("a.zip"), str(code), "6 attempts", "look there", advice="look there")
    assert patience.waits == [1, 2, 4, 8, 16]
    assert len(web.seen) == 6
    assert list(tmp_path.iterdir()) == []


def test_waits_have_an_upper_bound():
    assert [Retry(longest_wait=5).wait(n) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_not_repeated(get, web, patience, code):
    web.always = Reply(code=code)
    failing(get, f"the server says {code}", "see the page", advice="see the page")
    assert len(web.seen) == 1
    assert patience.waits == []


def test_progress_starts_the_count_again(get, web, patience):
    web.replies = [Reply(cut=20_000) for _ in range(9)]
    get(checksum=SHA, retry=patience.retry(attempts=2, worthwhile=20_000))
    assert patience.waits == [1] * 9


def test_crumbs_do_not_last_for_ever(get, web, patience):
    web.always = Reply(cut=10)
    failing(get, "6 attempts", "the connection broke")
    assert len(web.seen) == 6


def test_a_short_body_never_becomes_the_file(get, web, tmp_path):
    web.always = Reply(short=1000)
    expected = hashlib.sha256(BODY[:1000]).hexdigest()
    failing(get, f"expected {SHA}", f"found sha256:{expected}", "removed", checksum=SHA)
    assert list(tmp_path.iterdir()) == []
    assert len(web.seen) == 1


def test_a_wrong_file_is_removed_and_what_was_there_stays(get, web, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"old")
    web.always = Reply(body=OTHER)
    failing(get, f"expected {SHA}", hashlib.sha256(OTHER).hexdigest(), checksum=SHA)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"old"


def test_mirrors_are_tried_in_order(get, web, notes):
    web.files |= {"bad.zip": OTHER, "late.zip": OTHER}
    assert get("gone.zip", "bad.zip", "a.zip", "late.zip", checksum=SHA) == web.address("a.zip")
    assert [path for path, _ in web.seen] == ["/gone.zip", "/bad.zip", "/a.zip"]
    assert "404" in notes.lines[0]
    assert "not the published one" in notes.lines[1]


def test_a_part_of_one_address_is_not_continued_from_another(get, web, patience):
    web.files["b.zip"] = OTHER
    web.replies = [Reply(cut=1000), Reply(code=404)]
    get("b.zip", "a.zip", checksum=SHA)
    assert web.ranges == [None, "bytes=1000-", None]


def test_all_addresses_failing_names_each(get, web):
    text = failing(lambda **options: get("x.zip", "y.zip", **options))
    assert web.address("x.zip") in text
    assert web.address("y.zip") in text


def test_nobody_listens(get, patience, tmp_path, notes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot be reached .*6 attempts"):
        download([f"http://127.0.0.1:{port}/a"], tmp_path / "a", retry=patience.retry())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["ftp://x/a", "nothing", "http://a:b/c"])
def test_an_address_that_is_none(address, tmp_path, patience):
    with pytest.raises(DownloadError, match="cannot be asked for"):
        download([address], tmp_path / "a", retry=patience.retry())
    assert patience.waits == []


def test_a_silent_server_is_left(get, web, patience):
    web.replies = [Reply(cut=1000, stall=5.0)]
    started = time.monotonic()
    get(checksum=SHA, retry=patience.retry(read_timeout=0.2))
    assert time.monotonic() - started < 3
    assert web.ranges == [None, "bytes=1000-"]


def test_a_later_call_goes_on_where_an_earlier_one_ended(get, web, patience, tmp_path):
    web.replies = [Reply(cut=100_000), Reply(code=404)]
    failing(get, "404")
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip.part", "a.zip.part.json"}
    get(checksum=SHA)
    assert web.ranges[-1] == "bytes=100000-"


def test_a_complete_part_needs_no_request(get, web, tmp_path):
    web.replies = [Reply(cut=100_000), Reply(code=404)]
    failing(get, "404")
    (tmp_path / "a.zip.part").write_bytes(BODY)
    asked = len(web.seen)
    get(checksum=SHA)
    assert len(web.seen) == asked


@pytest.mark.parametrize("notes_text", [None, "", "[1]", "{"])
def test_a_part_of_unknown_origin_is_not_used(get, web, tmp_path, notes_text):
    (tmp_path / "a.zip.part").write_bytes(OTHER[:5000])
    if notes_text is not None:
        (tmp_path / "a.zip.part.json").write_text(notes_text)
    get()
    assert web.ranges == [None]


def test_a_full_disk_leaves_nothing(get, web, tmp_path, full_disk):
    (tmp_path / "a.zip").write_bytes(b"old")
    with full_disk(100_000), pytest.raises(StorageError, match=r"a\.zip: the disk is full"):
        get()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"old"


def test_a_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        download([web.address("a")], tmp_path / "file" / "a")


PROGRAM = """
import sys
from pathlib import Path
from cnsdiff.catalogue.download import download
download([sys.argv[1]], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_can_be_continued(get, web, tmp_path, end):
    web.replies = [Reply(cut=150_000, stall=30.0)]
    command = [sys.executable, "-c", PROGRAM, web.address("a.zip"), str(tmp_path / "a.zip")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ))
    part, deadline = tmp_path / "a.zip.part", time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(end)
    assert process.wait(20) != 0
    have = part.stat().st_size
    assert 0 < have <= 150_000
    get(checksum=SHA)
    assert web.ranges == [None, f"bytes={have}-"]
