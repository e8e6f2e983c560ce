"""Damaged inputs by the thousand: each is read, or refused in one sentence that names it.

    python benchmarks/reliability/fuzz.py [--inputs 10000] [--seed 0] [--workers 2]
                                          [--only text config …] [--number N] [--json FILE]

Small, sound files of every kind that cnsdiff reads are damaged: bytes are flipped, cut and put in,
lines doubled and shuffled, fields and values replaced by what breaks readers (``nan``, ``1e309``,
``::``, a byte order mark, NUL, quotation marks, markup, escape sequences, huge integers, deep
nesting), columns renamed and retyped. Files in directories with checksums mostly get a fitting one.
Each is read in this process, within a time and a memory bound, and as far as a command would go on
with it: a log is also prepared, a run also asked for lists, a dataset also described. It counts

    read        no complaint;
    refused     a CnsdiffError of one line that names the input;
    traceback   anything else: another error, a message of several lines or without the name;
    too long    not done within the bound;
    died        the process was ended by it.

Prints a table and the first of each kind of failure; exits 1 unless all are read or refused.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from safetensors.torch import load_file, save_file

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.audit.lists import read_lists
from cnsdiff.audit.vectors import read_vectors
from cnsdiff.base.errors import CnsdiffError
from cnsdiff.base.storage import read_parquet, sha256
from cnsdiff.benchmark.grid import read_grid
from cnsdiff.benchmark.plan import materialise, plan
from cnsdiff.benchmark.run import run
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.workers import ThisProcess
from cnsdiff.cli.commands.recommend import ids_asked, item_choice
from cnsdiff.data import read_features, read_interactions
from cnsdiff.diagnostics import describe
from cnsdiff.recommender.config import read_config_file, resolve_config
from cnsdiff.report.document import document_of
from cnsdiff.report.html import render_html
from cnsdiff.shifts import prepare
from cnsdiff.tuning import tune

SECONDS, BYTES = 10.0, 4 * 2**30
OUTCOMES = ("read", "refused", "traceback", "too long", "died")

#: What breaks readers, as a field of text.
TOKENS = (
    *("", " ", "nan", "NaN", "inf", "-inf", "1e309", "-1e309", "None", "null", "NA", "\\N", "-0"),
    *("\ufeff", "\0", '"', "'", '""', "::", "\t", ",", ";", "|", "\r", "\r\n", "\n", "\\", "#"),
    *("9" * 30, "-1", str(2**53 + 1), str(2**63), str(2**64), "1e18", "0x10", "1_000", "007", "+1"),
    *("[/]", "[bold]", "<script>alert(1)</script>", "\x1b[2J", "\x1b]0;x\x07", "=1+1", "{0}", "%s"),
    *(
        "../../etc/passwd",
        "é",
        "\u202e",
        "\u2028",
        "𝟙",
        "１",
        "a" * 300,
        "2020-01-01",
        "99999-01-01",
    ),
    *(
        "2020-01-01T00:00:00Z",
        "1,5",
        "true",
        "user",
        "user_id:token",
        "&a",
        "*a",
        "!!python/name:os",
    ),
)
#: The same as a value of JSON or YAML.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**70, 10**400, 1e308, float("nan"), float("inf"), -0.5, [], {}, [[]]),
    *("", "x", "nan", "[/]", "\0", "../..", "9" * 30, "<b>", "\x1b[2J", "a" * 300, {"": ""}),
)


class OverTime(BaseException):
    """The bound on time is reached."""


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes
    ----------
    seeds
        Names of sound inputs: files, or directories.
    read
        Reads one as a command would.
    """

    seeds: tuple[str, ...]
    read: Callable[[Path], object]


# -- what is damaged -------------------------------------------------------------------------------


def write_sound(folder: Path) -> None:
    """Write small, sound inputs of every kind but those of :func:`write_reports`."""
    rng = np.random.default_rng(0)
    n = 60
    log = pl.DataFrame(
        {
            "user_id": rng.integers(1, 13, n),
            "item_id": rng.integers(1, 16, n),
            "rating": rng.integers(1, 6, n),
            "timestamp": 1_600_000_000 + np.sort(rng.integers(0, 10**7, n)),
        }
    ).unique(["user_id", "item_id"], maintain_order=True)
    text = log.with_columns(
        user_id=pl.format("u{}", "user_id"), item_id=pl.format("i,{}", "item_id")
    )
    lines: dict[str, list[str]] = defaultdict(list)
    for user, item, rating, when in log.iter_rows():
        lines["u.dat"].append(f"{user}::{item}::{rating}::{when}")
        lines["u.txt"].append(f"{user} {item}")
        lines["u.inter"].append(f"{user}\t{item}\t{rating}\t{when}")
    lines["u.inter"].insert(0, "user_id:token\titem_id:token\trating:float\ttimestamp:float")
    for (user,), own in log.group_by("user_id", maintain_order=True):
        lines["adjacency.txt"].append(" ".join(map(str, (user, *own["item_id"].to_list()))))
    files = {name: folder / name for name in lines}
    for name, file in files.items():
        file.write_text("\n".join(lines[name]) + "\n", encoding="utf-8")

    def table(name: str, frame: pl.DataFrame, separator: str = ",") -> None:
        if name.endswith(".parquet"):
            frame.write_parquet(folder / name)
        else:
            frame.write_csv(folder / name, separator=separator)

    table("log.csv", log)
    table("text.csv", text)
    table("european.csv", log, separator=";")
    table("dates.csv", log.with_columns(pl.from_epoch("timestamp").dt.to_string("iso")))
    table("log.tsv", text, separator="\t")
    table("log.parquet", log)
    table("text.parquet", text)
    for name in ("u.dat", "log.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    people = (
        log.select("user_id")
        .unique(maintain_order=True)
        .with_columns(age=pl.int_range(pl.len()), place=pl.lit("x, y"), title=pl.lit('a "b"'))
    )
    lists = log.select("user_id", "item_id", score=pl.col("rating") / 5)
    ranked = log.select("user_id", "item_id", rank=pl.int_range(pl.len()).over("user_id") + 1)
    world = ConfoundedWorld(n_users=30, n_items=25, exposures=12, seed=0).dataset()
    world.save(folder / "world")
    given = Recommender("mf", "random", training={"epochs": 1, "batch_size": 64}, seed=1)
    given.fit(load_dataset(folder / "world"), run=folder / "run")
    config = folder / "config.yaml"
    config.write_text((folder / "run" / "config.yaml").read_text(encoding="utf-8"))
    grid = folder / "grid.yaml"
    grid.write_text(GRID, encoding="utf-8")
    (folder / "few.yaml").write_text(FEW, encoding="utf-8")
    users = folder / "users.txt"
    users.write_text("".join(f"{user}\n" for user in given.users_[:5]))
    vectors = folder / "vectors"
    vectors.mkdir()
    ids, width = np.arange(12), 4
    arrays = {
        "users": ids,
        "items": np.array([f"i{i}" for i in ids]),
        "user_embeddings": rng.normal(size=(12, width)).astype(np.float32),
        "item_embeddings": rng.normal(size=(12, width)).astype(np.float32),
    }
    np.savez(folder / "vectors.npz", **arrays)
    for name, key in zip(
        ("user_ids", "item_ids", "user_vectors", "item_vectors"), arrays, strict=True
    ):
        np.save(vectors / f"{name}.npy", arrays[key])
    rows = arrays["user_embeddings"].tolist()
    both = pl.DataFrame(
        {"kind": ["user"] * 12 + ["item"] * 12, "id": [*ids, *ids], "vector": rows * 2}
    )
    table("vectors.parquet", both)
    for name, frame in (("people", people), ("lists", lists), ("ranked", ranked)):
        table(f"{name}.csv", frame)
        table(f"{name}.parquet", frame)


GRID = """\
name: small
datasets:
  world:
    simulate: {n_users: 30, n_items: 25, exposures: 12, shift: popularity}
    anticipate: inverse-popularity
  later: {simulate: &world {n_users: 30, n_items: 25, exposures: 12}, scenario: temporal}
methods:
  mostpop: {reference: mostpop, group: reference}
  dns: {set: {sampler.name: dns}}
  ours: {set: {sampler.name: exposure}, search: {training.lr: {low: 0.001, high: 0.1, log: true}}}
seeds: [0, 1]
budget: {epochs: 2}
set: {backbone: {name: mf, dim: 4}, training: {batch_size: 64}}
"""


FEW = """\
name: few
datasets:
  world: {simulate: {n_users: 30, n_items: 25, exposures: 12}, anticipate: inverse-popularity}
methods: {mostpop: {reference: mostpop}, random: {set: {sampler.name: random}}}
seeds: [0, 1]
budget: {epochs: 2}
set: {backbone: {name: mf, dim: 4}, training: {batch_size: 64}}
"""


def write_reports(folder: Path) -> None:
    """Write an audit, a study and a benchmark, beside what :func:`write_sound` has written."""
    from cnsdiff.audit.audit import run_audit
    from cnsdiff.audit.log import Reading
    from cnsdiff.audit.splits import Options

    rng = np.random.default_rng(3)
    users, items = 160, 90
    tastes = rng.normal(size=(users, 4)) @ rng.normal(size=(4, items))
    best = np.argsort(-tastes - rng.gumbel(size=(users, items)), axis=1)[:, :24]
    log = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), 24),
            "item": best.ravel(),
            "timestamp": 1_600_000_000 + rng.integers(0, 30_000_000, users * 24),
        }
    )
    log.write_csv(folder / "shop.csv")
    lists = log.group_by("user", maintain_order=True).agg(pl.col("item").reverse()).explode("item")
    lists.write_csv(folder / "ours.csv")
    outside = {"recommendations": [f"ours={folder / 'ours.csv'}"]}
    reading = Reading(str(folder / "shop.csv"))
    run_audit(Options(reading, folder / "all", budget=6.0, threads=1, **outside))
    (folder / "audit").mkdir()
    shutil.copy(folder / "all" / "audit.json", folder / "audit")
    quick = Recommender("mf", "random", training={"epochs": 2, "batch_size": 64}, seed=1)
    tune(quick, load_dataset(folder / "world"), trials=10, out=folder / "tuning")
    (folder / "study").mkdir()
    shutil.copy(folder / "tuning" / "study.json", folder / "study")
    grid, store = read_grid(folder / "few.yaml"), Store(folder / "benchmark")
    store.open(grid)
    places = {n: materialise(n, entry, store.data) for n, entry in grid.datasets.items()}
    with ThisProcess() as workers, store.writing():
        run(plan(grid, places), store, workers)


def read_and_prepare(file: Path) -> None:
    """A log, and what ``prepare`` and ``data describe`` make of it."""
    log = read_interactions(file)
    try:
        dataset = prepare(log, "popularity", ood_share=0.2)
    except CnsdiffError:
        return  # too little is left of it, and that is told of the log as a whole
    describe(dataset)


def _adjacency(file: Path) -> None:
    read_interactions(file, format="adjacency")


def _frame(file: Path) -> None:
    try:
        frame = read_parquet(file)
    except (OSError, ValueError):
        return  # what is no table is not what is looked at here
    read_interactions(frame)


def _dataset(folder: Path) -> None:
    dataset = load_dataset(folder)
    for name in dataset.split_names:
        dataset.split(name)
    for name in dataset.table_names:
        dataset.table(name)
    repr(dataset)
    describe(dataset)


def _run(folder: Path) -> None:
    model = Recommender.load(folder)
    scores = model.recommend(model.users_[:2], 3)["score"]
    if not scores.is_finite().all():
        raise AssertionError("a score is not finite")


def _report(folder: Path) -> None:
    render_html(document_of(folder))


def _features(file: Path) -> None:
    read_features(file, "user")


_KNOWN = SimpleNamespace(users_=pl.Series(range(1, 13)), items_=pl.Series(range(1, 16)))


def _users(file: Path) -> None:
    ids_asked("user", None, file, _KNOWN.users_)


def _items(file: Path) -> None:
    item_choice(file, _KNOWN)  # type: ignore[arg-type]


def _config(file: Path) -> None:
    resolve_config(read_config_file(file), source=str(file))


TARGETS = {
    "text": Target(("u.dat", "u.txt", "u.dat.gz"), read_and_prepare),
    "csv": Target(
        ("log.csv", "text.csv", "european.csv", "dates.csv", "log.csv.gz"), read_and_prepare
    ),
    "tsv": Target(("log.tsv",), read_and_prepare),
    "inter": Target(("u.inter",), read_interactions),
    "adjacency": Target(("adjacency.txt",), _adjacency),
    "parquet": Target(("log.parquet", "text.parquet"), read_and_prepare),
    "frame": Target(("log.parquet", "text.parquet"), _frame),
    "features": Target(("people.csv", "people.parquet"), _features),
    "config": Target(("config.yaml",), _config),
    "grid": Target(("grid.yaml",), read_grid),
    "dataset": Target(("world",), _dataset),
    "run": Target(("run",), _run),
    "embeddings": Target(("vectors.npz", "vectors", "vectors.parquet"), read_vectors),
    "lists": Target(("lists.csv", "ranked.csv", "lists.parquet", "ranked.parquet"), read_lists),
    "users": Target(("users.txt",), _users),
    "items": Target(("users.txt", "log.csv", "log.parquet"), _items),
    "audit": Target(("audit",), _report),
    "study": Target(("study",), _report),
    "benchmark": Target(("benchmark",), _report),
}


# -- how -------------------------------------------------------------------------------------------


def damage(seed: Path, place: Path, rng: random.Random) -> tuple[Path, str]:
    """A damaged copy of a sound input in the empty folder ``place``; and what was done to it."""
    copy = place / seed.name
    if seed.is_dir():
        shutil.copytree(seed, copy)
        file = rng.choice(sorted(file for file in copy.rglob("*") if file.is_file()))
    else:
        shutil.copy(seed, copy)
        file = copy
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ways = _WAYS.get(file.suffix, ()) if rng.random() < 0.6 else ()
        if not ways:
            ways = (
                (_lines, _tokens, _tokens) if _is_text(file) and rng.random() < 0.6 else (_bytes,)
            )
        way = rng.choice(ways)
        # What is damaged already may not be understood again; a panic of Polars is no Exception.
        with contextlib.suppress(Exception, pl.exceptions.PanicException):
            way(file, rng)
            done.append(way.__name__.strip("_"))
    if seed.is_dir() and file.exists() and rng.random() < 0.9:
        _sign(copy)
    return copy, f"{file.name}: {', '.join(done)}"


def _is_text(file: Path) -> bool:
    return file.suffix not in (".parquet", ".npz", ".npy", ".safetensors", ".gz")


def _bytes(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100))
    match rng.randrange(6):
        case 0:
            for _ in range(length):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[at:]
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = rng.randbytes(length)
        case 4:
            data[at:at] = data[max(at - length, 0) : at] * rng.choice((1, 2, 50))
        case 5:
            data = (
                bytearray(rng.choice((b"", b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1", b"\x1f\x8b")))
                + data
            )
    file.write_bytes(data)


def _lines(file: Path, rng: random.Random) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    match rng.randrange(6):
        case 0:
            rng.shuffle(lines)
        case 1:
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        case 2:
            lines = lines * 2
        case 3:
            del lines[rng.randrange(len(lines))]
        case 4:
            lines = [line.rstrip(b"\r\n") + rng.choice((b"\r", b"\r\n", b"\n\n")) for line in lines]
        case 5:
            text = b"".join(lines).decode()
            lines = [
                text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1")), "replace")
            ]
    file.write_bytes(b"".join(lines))


def _tokens(file: Path, rng: random.Random) -> None:
    """Put a token into the place of a field, or beside it, in one line or in all."""
    lines = file.read_text(encoding="utf-8").split("\n")
    token, beside = rng.choice(TOKENS), rng.random() < 0.3
    delimiter = next((d for d in ("::", "\t", ";", ",", " ") if d in lines[0]), " ")
    chosen = range(len(lines)) if rng.random() < 0.2 else [rng.randrange(len(lines))]
    field = rng.randrange(4)
    for at in chosen:
        fields = lines[at].split(delimiter)
        n = field % len(fields)
        fields[n] = f"{fields[n]}{token}" if beside else token
        lines[at] = delimiter.join(fields)
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="")


def _tree(value: Any, rng: random.Random) -> Any:
    """A tree of JSON or YAML with one part changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        match rng.randrange(12):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return {rng.choice(TOKENS) if k == key else k: v for k, v in value.items()}
            case 2:
                return {**value, rng.choice(TOKENS): value[key]}
            case _:
                return {**value, key: _tree(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[: at + 1] + value[at:]
            case _:
                return [*value[:at], _tree(value[at], rng), *value[at + 1 :]]
    if rng.random() < 0.05:
        return _deep(rng.choice((50, 500)))
    return rng.choice(VALUES)


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _json(file: Path, rng: random.Random) -> None:
    tree = _tree(json.loads(file.read_text(encoding="utf-8")), rng)
    file.write_text(json.dumps(tree), encoding="utf-8")


def _yaml(file: Path, rng: random.Random) -> None:
    text = file.read_text(encoding="utf-8")
    match rng.randrange(8):
        case 0:
            brackets = rng.choice(("[", "{a: ", "- ", "? ")) * rng.choice((10, 2000))
            text = f"{text}\nx: {brackets}\n"
        case 1:
            bomb = "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
            text = f"{text}\nb0: &b0 x\n{bomb}"
        case 2:
            text += "\nbackbone: &x {dim: *x}\n"
        case _:
            text = yaml.safe_dump(_tree(yaml.safe_load(text), rng), sort_keys=False)
    file.write_text(text, encoding="utf-8")


def _table(file: Path, rng: random.Random) -> None:
    frame = pl.read_parquet(file.read_bytes())
    name = rng.choice(frame.columns)
    column = frame[name]
    kinds = (pl.String, pl.Float64, pl.Int8, pl.UInt64, pl.Boolean, pl.Date, pl.Datetime, pl.Binary)
    match rng.randrange(10):
        case 0:
            frame = frame.drop(name)
        case 1:
            frame = frame.rename({name: rng.choice(TOKENS)})
        case 2:
            frame = frame.with_columns(column.cast(rng.choice(kinds), strict=False))
        case 3:
            odd = rng.choice(
                (None, -1, 10**6, 2**62, 0.5, float("nan"), float("inf"), "x", "\0", b"x")
            )
            at = pl.int_range(pl.len()) == rng.randrange(max(frame.height, 1))
            plain = pl.lit(odd, dtype=column.dtype if odd is None else None)
            frame = frame.with_columns(pl.when(at).then(plain).otherwise(pl.col(name)).alias(name))
        case 4:
            frame = frame.with_columns(pl.lit(rng.choice((*VALUES[:6], "x"))).alias(name))
        case 5:
            frame = frame.head(rng.randrange(frame.height + 1))
        case 6:
            frame = pl.concat([frame, frame])
        case 7:
            frame = frame.with_columns(pl.concat_list(name).alias(name))
        case 8:
            frame = frame.with_columns(pl.struct(name).alias(name))
        case 9:
            frame = frame.with_columns(pl.col(name).reverse())
    frame.write_parquet(file)


def _tensors(file: Path, rng: random.Random) -> None:
    tensors = load_file(file)
    name = rng.choice(list(tensors))
    value = tensors[name]
    match rng.randrange(6):
        case 0:
            del tensors[name]
        case 1:
            tensors[f"{name}x"] = tensors.pop(name)
        case 2:
            tensors[name] = value.to(rng.choice((torch.float64, torch.float16, torch.int64)))
        case 3:
            tensors[name] = value.flatten()[: rng.randrange(value.numel() + 1)].clone()
        case 4:
            tensors[name] = torch.full_like(value, rng.choice((float("nan"), float("inf"), 3e38)))
        case 5:
            tensors[name] = value[: rng.randrange(len(value) + 1)].clone()
    save_file(tensors, file)


def _odd_array(value: Any, rng: random.Random) -> Any:
    match rng.randrange(7):
        case 0:
            return value.astype(object)
        case 1:
            return value.astype(rng.choice((str, float, np.int8, bool, complex, "S3")))
        case 2:
            return value[: rng.randrange(len(value) + 1)]
        case 3:
            return value.reshape(rng.choice(((1, -1), (-1,), (-1, 1, 1))))
        case 4:
            odd = np.array(value)
            odd.flat[rng.randrange(odd.size)] = rng.choice((-1, 0, 10**6))
            return odd
        case 5:
            return np.full(value.shape, rng.choice((np.nan, np.inf, 3e38)))
        case _:
            return np.array(rng.choice(VALUES[:6]))


def _npz(file: Path, rng: random.Random) -> None:
    with np.load(file) as held:
        arrays = dict(held)
    name = rng.choice(list(arrays))
    match rng.randrange(4):
        case 0:
            del arrays[name]
        case _:
            arrays[name] = _odd_array(arrays[name], rng)
    np.savez(file, **arrays)


def _npy(file: Path, rng: random.Random) -> None:
    if rng.random() < 0.7:
        np.save(file, _odd_array(np.load(file), rng))
        return
    # A header that promises more than there is.
    shape = rng.choice(((10**12,), (10**9, 4), (-1,), (2**63, 2), (3,)))
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        data, {"descr": rng.choice(("<f4", "|O", "<i8")), "fortran_order": False, "shape": shape}
    )
    file.write_bytes(data.getvalue() + b"x" * 64)


def _packed(file: Path, rng: random.Random) -> None:
    inner = file.with_suffix("")
    inner.write_bytes(gzip.decompress(file.read_bytes()))
    rng.choice((_bytes, _lines, _tokens))(inner, rng)
    file.write_bytes(gzip.compress(inner.read_bytes()))
    inner.unlink()


_WAYS: dict[str, tuple[Callable[[Path, random.Random], None], ...]] = {
    ".json": (_json,),
    ".yaml": (_yaml,),
    ".parquet": (_table,),
    ".safetensors": (_tensors,),
    ".npz": (_npz,),
    ".npy": (_npy,),
    ".gz": (_packed,),
}


def _sign(folder: Path) -> None:
    """Write checksums into a manifest that fit the files, as they are now."""
    file = folder / "manifest.json"
    with contextlib.suppress(Exception):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for name in manifest.get("sha256", ()):
            manifest["sha256"][name] = sha256(folder / name)
        for name in manifest.get("files", ()):
            manifest["files"][name]["sha256"] = sha256(folder / name)
        file.write_text(json.dumps(manifest), encoding="utf-8")


# -- what comes of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What came of one input; ``said`` is the message, or the end of the traceback."""

    number: int
    target: str
    outcome: str
    done: str = ""
    said: str = ""


def kind_of(number: int) -> str:
    """Which kind the input of this number is of: they take turns."""
    return list(TARGETS)[number % len(TARGETS)]


def attempt(number: int, seed: int, sound: Path, place: Path) -> Outcome:
    """Damage the input of this number, in the folder ``place``, and read it."""
    rng = random.Random(f"{seed}/{number}")
    name = kind_of(number)
    target = TARGETS[name]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    damaged, done = damage(sound / rng.choice(target.seeds), place, rng)
    outcome, said = "read", ""
    try:
        with _bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(damaged)
    except CnsdiffError as error:
        outcome, said = "refused", str(error)
        if problem := _no_sentence(said, damaged):
            outcome, said = "traceback", f"{problem}: {said!r}"
    except OverTime:
        outcome = "too long"
    except BaseException:  # a library's panic is no Exception
        outcome, said = "traceback", traceback.format_exc()
    return Outcome(number, name, outcome, done, said)


def _no_sentence(message: str, damaged: Path) -> str | None:
    """Why a message is none that a user can be shown."""
    if any(ord(letter) < 32 or letter in "\x7f\u2028" for letter in message):
        return "control characters"
    if len(message) > 1500:
        return f"{len(message)} letters"
    if any(0xD800 <= ord(letter) < 0xE000 for letter in message):
        return "cannot be printed"
    if damaged.name not in message and "DataFrame" not in message:
        return "does not name the input"
    return None


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise OverTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _work(numbers: Sequence[int], seed: int, sound: Path, place: Path, pipe: Connection) -> None:
    """Attempt these in a process of their own, which some may end."""
    torch.set_num_threads(1)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (own + BYTES, own + BYTES))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a decoder that panics says so there
    for number in numbers:
        pipe.send(number)
        pipe.send(attempt(number, seed, sound, place))
    pipe.send(None)


def fuzz(numbers: Sequence[int], seed: int, sound: Path, place: Path) -> Iterator[Outcome]:
    """The outcomes of these inputs; a process that one of them ends is begun again after it."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(numbers, seed, sound, place, theirs))
        process.start()
        theirs.close()
        number = None
        while True:
            if not ours.poll(60 + 3 * SECONDS):
                process.kill()
            try:
                told = ours.recv()
            except EOFError:
                process.join()
                if number is None:
                    raise RuntimeError(f"a process ended at once: {process.exitcode}") from None
                said = f"exit code {process.exitcode}"
                yield Outcome(number, kind_of(number), "died", said=said)
                numbers = numbers[numbers.index(number) + 1 :]
                break
            if told is None:
                process.join()
                return
            if isinstance(told, Outcome):
                yield told
            else:
                number = told


def _table_of(outcomes: list[Outcome]) -> str:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in outcomes:
        counts[one.target][one.outcome] += 1
        counts["all"][one.outcome] += 1
    rows = [("", "inputs", *OUTCOMES)]
    for name in [*(n for n in counts if n != "all"), "all"]:
        found = counts[name]
        rows.append((name, f"{found.total():,}", *(f"{found[outcome]:,}" for outcome in OUTCOMES)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            (
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            )
        )
        for row in rows
    )


def _last(said: str) -> str:
    """The line by which failures are told apart."""
    lines = [line for line in said.splitlines() if line.strip()]
    places = [
        line.strip() for line in lines if line.lstrip().startswith("File ") and "cnsdiff" in line
    ]
    return f"{(lines or [''])[-1][:200]}   {places[-1] if places else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=TARGETS, metavar="KIND")
    parser.add_argument("--number", type=int, help="This input alone, and all that is said of it.")
    parser.add_argument("--sound", type=Path, help="Keep the sound inputs here, or take those.")
    parser.add_argument("--json", type=Path, help="Write all failures here.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sound = options.sound or folder / "sound"
        if not sound.exists():
            sound.mkdir(parents=True)
            write_sound(sound)
            write_reports(sound)
        for target in TARGETS.values():
            for name in target.seeds:
                target.read(sound / name)
        if options.number is not None:
            one = attempt(options.number, options.seed, sound, folder / "damaged")
            print(one.target, one.done, one.outcome, one.said, sep="\n")
            return
        numbers = [n for n in range(options.inputs) if kind_of(n) in (options.only or TARGETS)]
        started = time.perf_counter()
        with ThreadPoolExecutor(options.workers) as pool:
            outcomes = [
                one
                for part in pool.map(
                    lambda at: list(
                        fuzz(
                            numbers[at :: options.workers],
                            options.seed,
                            sound,
                            folder / f"damaged-{at}",
                        )
                    ),
                    range(options.workers),
                )
                for one in part
            ]
        seconds = time.perf_counter() - started
    print(_table_of(outcomes))
    print(f"{len(outcomes):,} inputs in {seconds:.0f} s; seed {options.seed}")
    failures = [one for one in outcomes if one.outcome not in ("read", "refused")]
    alike: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for one in failures:
        alike[one.target, _last(one.said)].append(one)
    for (target, said), ones in sorted(alike.items(), key=lambda entry: -len(entry[1])):
        first = ones[0]
        print(
            f"{len(ones)} × {target} {first.outcome}, as --number {first.number} "
            f"({first.done}): {said}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in failures], indent=2))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
