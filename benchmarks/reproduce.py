"""Make a measured table of docs/ again, and hold what comes out against what the page says.

    python benchmarks/reproduce.py                     # which there are, and how long each takes
    python benchmarks/reproduce.py theory alarm
    python benchmarks/reproduce.py false-negatives-experiments --files FOLDER

Commands, seeds and tolerances are in ``benchmarks/tables.yaml``; datasets are made in ``--work``
from the published files in ``--files``. Exit status 1 if a value is not within its tolerance.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("tables.yaml")


def command_of(run: str, places: dict[str, str]) -> list[str]:
    """The words of a command, ``$OUT`` and the like replaced."""
    words = shlex.split(run)
    for name, place in places.items():
        words = [word.replace(f"${name}", place) for word in words]
    return [sys.executable, *words]


def prepare(name: str, arguments: str, files: Path, folder: Path) -> None:
    """A dataset of ``data``, unless it is there."""
    if (folder / name).exists():
        return
    words = [
        str(files / word) if (files / word).exists() else word for word in shlex.split(arguments)
    ]
    command = [sys.executable, "-m", "cnsdiff", "prepare", *words, "--out", str(folder / name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def rows_of(text: str) -> list[dict[str, Any]]:
    """The rows of a JSON list, of an object, or of lines that are objects each."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return found if isinstance(found, list) else [found]


def differences(rows: list[dict[str, Any]], expect: list[dict[str, Any]]) -> list[str]:
    """What is not as expected, a sentence each."""
    problems = []
    for one in expect:
        where = one.get("where", {})
        matching = [row for row in rows if all(row.get(k) == v for k, v in where.items())]
        values = [row[one["field"]] for row in matching if one["field"] in row]
        if not values:
            problems.append(f"no row of {where or 'any kind'} has {one['field']}")
        problems += [
            f"{one['field']} of {where or 'a row'} is {value:.6g}, not within {one['within']:g} of "
            f"{one['value']:g}"
            for value in values
            if not abs(value - one["value"]) <= one["within"]
        ]
    return problems


def reproduce(name: str, book: dict[str, Any], files: Path, work: Path) -> list[str]:
    """Run the command of a table; what differs."""
    table, out = book["tables"][name], work / f"{name}.json"
    for dataset, arguments in book["data"].items():
        if f"$DATA/{dataset}" in table["run"]:
            prepare(dataset, arguments, files, work)
    places = {"OUT": str(out), "DATA": str(work), "FILES": str(files)}
    environment = {**os.environ, "CNSDIFF_DATA": str(files)}
    done = subprocess.run(
        command_of(table["run"], places),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stdout)
    if done.returncode:
        return [f"the command ended with status {done.returncode}"]
    written = out.read_text(encoding="utf-8") if "$OUT" in table["run"] else done.stdout
    return differences(rows_of(written), table.get("expect", []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--files", type=Path, default=Path("data"), help="published files")
    parser.add_argument("--work", type=Path, default=Path("results/tables"), help="what is made")
    options = parser.parse_args()
    book = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    unknown = [name for name in options.tables if name not in book["tables"]]
    if unknown:
        parser.error(f"no table {', '.join(unknown)}; there are {', '.join(book['tables'])}")
    if not options.tables:
        for name, table in book["tables"].items():
            print(f"{name:<30} about {table['minutes']:>3} min   docs/{table['page']}")
        return
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.tables:
        problems = reproduce(name, book, options.files.resolve(), work)
        failed |= bool(problems)
        print(f"{name}: " + ("; ".join(problems) or "as the page says"))
    sys.exit(failed)


if __name__ == "__main__":
    main()
