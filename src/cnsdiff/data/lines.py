"""Text files as numbered lines."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import polars as pl

from cnsdiff.errors import DataError

_SAMPLE = 1000


def read_lines(path: Path) -> pl.DataFrame:
    """The non-blank lines of a (possibly gzipped) UTF-8 file.

    Returns
    -------
    DataFrame
        Columns ``line`` (1-based number in the file) and ``text``.

    Raises
    ------
    DataError
        The file is empty, binary, not UTF-8, or a damaged gzip.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path}: is a damaged gzip file ({error}); fetch it again or unpack it"
            ) from error
    text = _decode(data, path)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = (
        pl.Series("text", [text]).str.split("\n").explode().to_frame().with_row_index("line", 1)
    ).filter(pl.col("text").str.contains(r"\S"))
    if lines.height == 0:
        raise DataError(f"{path}: is empty; give a file with at least one interaction")
    return lines


def _decode(data: bytes, path: Path) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: is UTF-16 text; save it as UTF-8")
    if b"\0" in data or data[:4] == b"PK\x03\x04":
        raise DataError(
            f"{path}: is a binary file, not text; give text (unpacked or .gz), or Parquet "
            "(--format parquet)"
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
    """Stop at what would pass for delimited text only by accident.

    Raises
    ------
    DataError
        The first line opens a JSON value or a web page.
    """
    first = lines["text"][0].lstrip()
    for start, kind in (("{", "JSON"), ("[", "JSON"), ("<", "a web page or XML")):
        if first.startswith(start):
            raise DataError(
                f"{source}, line {lines['line'][0]}: looks like {kind}, not delimited text; "
                "convert it to CSV or Parquet (or pass --format text if these are ids)"
            )


def sample_of(lines: pl.DataFrame) -> list[str]:
    """The first lines, from which delimiter and width are told."""
    return lines["text"].head(_SAMPLE).to_list()
