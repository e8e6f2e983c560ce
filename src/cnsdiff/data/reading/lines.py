"""Text files as numbered lines."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import polars as pl

from cnsdiff.base.errors import DataError
from cnsdiff.base.text import parameter
from cnsdiff.kernels.memory import require_memory

_SAMPLE = 1000  # lines by which files are told apart
_START = 1 << 20  # bytes in which these are looked for
_MARK = "\ufeff"
_GZIP = b"\x1f\x8b"
_WBITS = 31  # zlib's word for gzip
_CHUNK = 1 << 22  # bytes unpacked at a time
# Deflate makes text at most 1,030 times as small; of logs, whose every row differs, 5 to 50.
_RATIO = 300
_ALWAYS = 1 << 26  # bytes that any file may unpack to
_COPIES = 4  # of a text that reading holds at once, at the least


def read_lines(path: Path) -> pl.DataFrame:
    """The non-blank lines of a (possibly gzipped) UTF-8 file, without byte-order marks.

    A table with the columns ``line`` (1-based number in the file) and ``text``. Raises
    :class:`DataError` if the file is empty, binary, not UTF-8, a damaged gzip, or unpacks to more
    than a log can; :class:`InputError` if it is too large for the memory.
    """
    _require_room(path.stat().st_size, path)
    data = path.read_bytes()
    if data[:2] == _GZIP:
        data = _unpacked(data, path)
    text = _decode(data, path)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # One begins each file, and so a line of files that were put together.
    while f"\n{_MARK}" in text or text.startswith(_MARK):
        text = text.removeprefix(_MARK).replace(f"\n{_MARK}", "\n")
    lines = (
        pl.Series("text", [text]).str.split("\n").explode().to_frame().with_row_index("line", 1)
    ).filter(pl.col("text").str.contains(r"\S"))
    if lines.height == 0:
        raise DataError(f"{path}: is empty; give a file with at least one row")
    return lines


def first_lines(path: Path) -> list[str]:
    """The first non-blank lines of a text file, for telling what it is; none of a binary one."""
    with path.open("rb") as file:
        data = file.read(_START)
    if data[:2] == _GZIP:
        try:
            data = zlib.decompressobj(wbits=_WBITS).decompress(data, _START)
        except zlib.error:
            return []
    whole = len(data) < _START
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    lines = lines if whole else lines[:-1]
    return [line for line in lines if line.strip()][:_SAMPLE]


def _unpacked(data: bytes, path: Path) -> bytes:
    """The members of a gzip file, one after the other.

    :class:`DataError` if it is damaged, or a small file would fill the memory.
    """
    limit = max(_ALWAYS, _RATIO * len(data))
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while part := file.read(_CHUNK):
                unpacked += part
                _require_room(len(unpacked), path)
                if len(unpacked) > limit:
                    raise DataError(
                        f"{path}: unpacks to more than {_RATIO} times its size, which no log "
                        "does; check where it comes from, or unpack it yourself"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: is a damaged gzip file ({error}); fetch it again or unpack it"
        ) from error
    return bytes(unpacked)


def _require_room(size: int, path: Path) -> None:
    """:class:`InputError` where text of that many bytes is more than the memory can hold."""
    if size > _ALWAYS:
        require_memory(
            _COPIES * size,
            f"{path}: reading it",
            "give it as Parquet, or in parts of the log that matter",
        )


def _decode(data: bytes, path: Path) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
    if b"\0" in data or data[:4] == b"PK\x03\x04":
        raise DataError(
            f"{path}: is a binary file, not text; give text (unpacked or .gz), or Parquet "
            f"({parameter('format', 'parquet')})"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8 text; save the "
            "file as UTF-8 (a binary file cannot be read)"
        ) from error


def reject_markup(lines: pl.DataFrame, source: str) -> None:
    """Stop with a :class:`DataError` at JSON or a web page, which may pass for delimited text."""
    first = lines["text"][0].lstrip()
    for start, kind in (("{", "JSON"), ("[", "JSON"), ("<", "a web page or XML")):
        if first.startswith(start):
            raise DataError(
                f"{source}, line {lines['line'][0]}: looks like {kind}, not delimited text; "
                f"convert it to CSV or Parquet (or pass {parameter('format', 'text')} if these are "
                "ids)"
            )
