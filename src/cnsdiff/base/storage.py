"""Writing files so that nothing is ever lost or half-written, and checking what is read.

A file is written under a temporary name in its own folder, flushed to disk and renamed. A
directory is filled beside its final place and takes it in one step, in which the old one, if
there is one, gets the temporary name. A crash, a full disk or Ctrl-C therefore leaves either the
old content or the new under its own name, never a mixture. What a killed process leaves under
temporary names goes with the next writing of the same thing: a live writer holds a lock on what
it writes, and the system lifts the lock of a dead one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic_core import from_json

from cnsdiff.base.errors import CnsdiffError, InputError, RunError, StorageError
from cnsdiff.base.settings import Model, shown, validated
from cnsdiff.base.text import json_text, parameter, visible

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: What ``renameat2`` says of a file system, or a kernel, that cannot exchange.
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: Ends the name of what waits to be removed where the two cannot be exchanged.
_OLD = ".old"
#: Seconds after which an untouched temporary file is nobody's, where no lock tells.
_ABANDONED = 24 * 3600.0
#: Bytes of a name that is made a file name: systems allow 255, and a temporary name is longer.
_LONGEST = 200
#: Seconds to wait for a writer that is between two renames.
_PATIENCE = 2.0
#: How often what is replaced while it is read is read again.
_READINGS = 5


def storage_error(path: Path, error: BaseException) -> StorageError:
    """One sentence for an operating-system error met while writing ``path``."""
    full = isinstance(error, OSError) and error.errno in _FULL
    # pyarrow and safetensors wrap the system's error and keep only its text.
    full = full or any(os.strerror(code) in str(error) for code in _FULL)
    # NumPy keeps how much it wrote.
    full = full or re.search(r"\d+ requested and \d+ written", str(error)) is not None
    if full:
        return StorageError(
            f"{path}: the disk is full, so it was not written (what was there before is "
            "untouched); free some space and run the command again"
        )
    refused = StorageError(f"{path}: cannot be written: {error}; check the folder's permissions")
    refused.exit_code = InputError.exit_code
    return refused


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors, also those that libraries wrap, into a :class:`StorageError`."""
    try:
        yield
    except CnsdiffError:
        raise
    except Exception as error:
        if isinstance(error, OSError) or "os error" in str(error).lower():
            raise storage_error(path, error) from error
        raise


# -- who is writing ----------------------------------------------------------------------------


def _hold(path: Path) -> int | None:
    """A handle that locks a file or directory until it is closed or its process ends.

    ``None`` where the system has no such locks; BlockingIOError if another holds it.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # not on this file system
        os.close(handle)
        return None
    return handle


def _release(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether what is held is (still) what is called ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


@contextlib.contextmanager
def locked(folder: Path, busy: CnsdiffError) -> Iterator[None]:
    """Hold a directory until the block ends; the end of the process lifts the lock, too.

    Parameters
    ----------
    folder
        Made if it does not exist.
    busy
        Raised if another holds it.
    """
    with _system_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _held(folder, busy)
    if handle is None:
        with _lock_file(folder, busy):
            yield
        return
    try:
        yield
    finally:
        os.close(handle)


def _held(folder: Path, busy: CnsdiffError) -> int | None:
    while True:
        try:
            handle = _hold(folder)
        except BlockingIOError:
            raise busy from None
        if handle is None or _is_at(handle, folder):
            return handle
        os.close(handle)  # another took its place meanwhile


@contextlib.contextmanager
def _lock_file(folder: Path, busy: CnsdiffError) -> Iterator[None]:
    """As :func:`locked`, where a directory itself cannot be held (Windows, NFS)."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    with _system_errors(folder):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise busy from None
    try:
        yield
    finally:
        lock.release()


def as_file_name(name: str, mend: str) -> Path:
    """A name from outside as that of one new file or folder, here and nowhere else.

    Raises
    ------
    InputError
        It leads elsewhere, hides something, or is too long; ``mend`` says what to do instead.
    """
    if name in ("", ".", "..") or "/" in name or visible(name) != name:
        why = "cannot be the name of a folder"
    elif len(name.encode()) > _LONGEST:
        why = f"is longer than {_LONGEST} bytes, too long for the name of a folder"
    else:
        return Path(name)
    raise InputError(f"{name[:_LONGEST]!r} {why}; {mend}")


# -- temporary names ---------------------------------------------------------------------------


def _hidden_beside(path: Path) -> Path:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # the writers of tables would end in a TypeError
        raise InputError(f"{path}: is a path that is not UTF-8; choose another") from error
    # Not tempfile: its files are private, and what we write should obey the caller's umask.
    # Absolute: polars writes to the home folder what begins with a folder called ``~``.
    return path.parent.absolute() / f".{path.name}.{secrets.token_hex(8)}"


def _temporary(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A new file or directory under a temporary name beside ``path``, and the hold on it."""
    while True:
        temporary = _hidden_beside(path)
        make(temporary)
        try:
            handle = _hold(temporary)
        except (BlockingIOError, FileNotFoundError):  # taken for a leftover before it was held
            continue
        if handle is None or _is_at(handle, temporary):
            return temporary, handle
        os.close(handle)


def _hidden(folder: Path, names: Iterable[str], ending: str) -> list[Path]:
    """Entries of ``folder`` under temporary names of ``names``."""
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{16}}{ending}")
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if pattern.fullmatch(entry.name)]
    except OSError:  # no such folder, or one that may not be listed
        return []


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed process left in ``folder`` under temporary names of ``names``."""
    for entry in _hidden(folder, names, rf"({re.escape(_OLD)})?"):
        with contextlib.suppress(OSError):  # held by a live writer, or gone
            handle = _hold(entry)
            if handle is not None or time.time() - entry.stat().st_mtime > _ABANDONED:
                _remove(entry)
            _release(handle)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_whole(path: Path) -> None:
    """Remove a directory, and what a kill left of it: it is whole as long as it has its name."""
    path = _real(path)
    remove_leftovers(path.parent, [path.name])
    with _system_errors(path):
        if os.path.lexists(path):
            hidden = _hidden_beside(path)
            path.rename(hidden)
            _remove(hidden)


def recover(path: Path) -> None:
    """Give back its name to what a kill between two renames left aside.

    Only where a file system cannot exchange two directories is there such a moment; whoever is
    about to read or replace ``path`` calls this first.
    """
    ends = time.monotonic() + _PATIENCE
    while not os.path.lexists(path):
        asides = _hidden(path.parent, [path.name], re.escape(_OLD))
        if not asides:
            return
        late = time.monotonic() > ends
        with contextlib.suppress(OSError):
            handle = _hold(asides[0])
            if (handle is not None or late) and not os.path.lexists(path):
                asides[0].rename(path)
            _release(handle)
        if late:
            return
        time.sleep(0.01)


# -- writing -----------------------------------------------------------------------------------


def _sync(path: Path) -> None:
    """Flush a file or the entries of a directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _real(path: Path) -> Path:
    """Where ``path`` leads: what a link points to is replaced, not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path`` in one step."""
    path = _real(Path(path))
    with _system_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, [path.name])
        temporary, handle = _temporary(path, lambda place: place.touch(exist_ok=False))
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            _release(handle)


def unused(path: Path) -> Path:
    """A path at which nothing is: itself, or with ``-2``, ``-3`` … after its name."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(free for free in itertools.chain([path], others) if not os.path.lexists(free))


@contextlib.contextmanager
def atomic_directory(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside ``path`` that takes its place on success.

    With ``overwrite`` an existing directory is removed only after the new one stands; without
    it an existing, non-empty ``path`` is an error.

    Raises
    ------
    InputError
        ``path`` exists and ``overwrite`` is off.
    RunError
        Another process is writing into what is there.
    StorageError
        It cannot be written; what was there is untouched.
    """
    path = _real(Path(path))
    recover(path)
    remove_leftovers(path.parent, [path.name])
    _require_free(path, overwrite)
    with contextlib.ExitStack() as stack:
        if path.is_dir():
            stack.enter_context(locked(path, being_written(path)))
        stack.enter_context(_system_errors(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _temporary(path, Path.mkdir)
        try:
            yield temporary
            for entry in temporary.rglob("*"):
                _sync(entry)
            _sync(temporary)
            if overwrite:
                _swap(temporary, path)
            else:
                _take(temporary, path)
            _sync(path.parent)
        finally:
            _remove(temporary)
            _release(handle)


def being_written(path: Path) -> RunError:
    """The sentence for a directory that another process holds."""
    return RunError(
        f"{path}: another command is writing here; wait for it, or choose another directory"
    )


def foreign_to(folder: Path, own: Iterable[str]) -> str | None:
    """The name of something in ``folder`` that is none of ``own``, if there is any."""
    known = {".lock", *own}
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    # What a kill leaves of a file has its name in the middle.
    return next(
        (n for n in names if n not in known and n[1:].rpartition(".")[0] not in known), None
    )


def _require_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite and (not path.is_dir() or any(path.iterdir())):
        raise _exists(path)


def _exists(path: Path) -> InputError:
    return InputError(
        f"{path}: already exists; choose another directory or pass {parameter('overwrite', True)}"
    )


def _take(new: Path, path: Path) -> None:
    """Give ``new`` the name ``path``, which is free, or an empty directory's."""
    try:
        new.rename(path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another was quicker
            raise _exists(path) from error
        raise


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` in the place of ``path``; what was there is under a temporary name, or gone."""
    if not os.path.lexists(path):
        new.rename(path)
        return
    if _exchange(new, path):
        return
    aside = _hidden_beside(path)
    aside = aside.with_name(aside.name + _OLD)
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:  # Ctrl-C between the two renames must not lose the old one either
        aside.rename(path)
        raise
    _remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange what two names stand for in one step, where system and file system can."""
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The C library's ``renameat2``; ``None`` where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        call: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    found: Callable[..., int] = call
    return found


def write_with(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary)`` and move the result to ``path`` atomically."""
    with atomic_file(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json_text(value, indent=2) + "\n")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write a ``.npy`` file, not atomically.

    NumPy itself hands the data to C's buffered files, and on a full disk forgets to say that the
    last few kilobytes were not written.
    """
    import numpy as np

    with path.open("wb") as file:
        plain: Any = SimpleNamespace(write=file.write)  # all that NumPy then knows to use
        np.lib.format.write_array(plain, array, allow_pickle=False)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, the very bytes that the package of that name writes.

    That one writes under a temporary name of its own, readable by its owner alone, and refuses
    tensors that share memory. Here one tensor at a time is brought to the CPU, and none is copied
    that is there.
    """
    import torch

    # In the order in which that package writes them: wide elements first, so that each is aligned.
    names = {
        **{torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32"},
        **{torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16"},
        **{torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"},
    }
    place = {dtype: number for number, dtype in enumerate(names)}
    order = sorted(tensors, key=lambda name: (place[tensors[name].dtype], name))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def read_settled(manifest: Path, read: Callable[[], T]) -> T:
    """The result of ``read``, read again while somebody replaces what it reads.

    Parameters
    ----------
    manifest
        File that is replaced whenever something is that goes with it: alone, or with its directory.
    read
        Reads it, and what goes with it; may find that they do not fit together.
    """
    for _ in range(_READINGS):
        before = _identity(manifest)
        try:
            found = read()
        except (CnsdiffError, OSError):
            if _identity(manifest) == before:
                raise
        else:
            if _identity(manifest) == before:
                return found
    return read()


def _identity(file: Path) -> tuple[int, ...] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_parquet(source: Path | BinaryIO, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The table in an open Parquet file, or in that of exactly this name.

    To polars a path is a pattern: ``x[1]/items.parquet`` would be that of ``x1``. So it is never
    given one, here and in the readers below, but the open file.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not Parquet, is damaged, or lacks a column.
    """
    import polars as pl

    if isinstance(source, Path):
        with source.open("rb") as file:
            return read_parquet(file, columns)
    with _damage_told():
        return pl.read_parquet(source, columns=None if columns is None else list(columns))


def read_parquet_schema(path: Path) -> dict[str, pl.DataType]:
    """Names and types of the columns of a Parquet file; errors as of :func:`read_parquet`."""
    import polars as pl

    with _damage_told(), path.open("rb") as file:
        return dict(pl.read_parquet_schema(file))


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Raise polars' errors at damaged bytes, its panics among them, as a ValueError."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(first_line(error)) from error


def read_csv(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a large CSV file, whose quoted text may span lines."""
    import polars as pl

    with path.open("rb") as file:
        return pl.scan_csv(file, infer_schema_length=10_000).select(columns).collect()


def read_json_lines(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Some fields of a large file of JSON objects, one a line."""
    import polars as pl

    with path.open("rb") as file:
        return pl.scan_ndjson(file, schema=dict(schema)).select(*schema).collect()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is not JSON, is nested too deeply, or is not in UTF-8.
    """
    # Python's own reader ends with a RecursionError, and lets half of a surrogate pair through,
    # which cannot be printed.
    return from_json(Path(path).read_bytes())


def read_record(
    file: Path,
    model: type[Model],
    version: int,
    mend: str,
    error: type[CnsdiffError] = RunError,
    missing: CnsdiffError | None = None,
) -> Model:
    """A JSON file that we wrote, as the record that it should hold.

    Parameters
    ----------
    model, version
        What it should fit, and the ``schema_version`` that it should name.
    mend, error, missing
        As :func:`refusing_damage` takes them.
    """
    with refusing_damage(file, mend, error, missing):
        content = read_json(file)
        require_version(file, content, version, mend, error)
        return validated(model, content)


@contextlib.contextmanager
def refusing_damage(
    file: Path,
    mend: str,
    error: type[CnsdiffError] = RunError,
    missing: CnsdiffError | None = None,
) -> Iterator[None]:
    """Turn what the block finds wrong with a file of ours into a sentence.

    Parameters
    ----------
    mend
        What to do about it; ends the sentence.
    error
        The kind of what is raised.
    missing
        Raised if there is no such file; without it, that is damage, too.
    """
    try:
        yield
    except CnsdiffError:
        raise
    except (OSError, ValueError) as problem:
        if missing is not None and isinstance(problem, FileNotFoundError | NotADirectoryError):
            raise missing from problem
        raise error(f"{file}: is damaged ({first_line(problem)}); {mend}") from problem


def require_version(
    file: Path, content: Any, version: int, mend: str, error: type[CnsdiffError] = RunError
) -> None:
    """Refuse what names another ``schema_version``; what names none is left to its record."""
    stated = content.get("schema_version", version) if isinstance(content, dict) else version
    if stated != version or isinstance(stated, bool):
        raise error(
            f"{file}: has schema version {shown(stated)}, and this cnsdiff reads {version}; use "
            f"the version of cnsdiff that wrote it, or {mend}"
        )


def first_line(error: BaseException) -> str:
    """The message of a library's error, cut to fit into a sentence."""
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
