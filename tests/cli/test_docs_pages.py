"""Every block of code in the README and the documentation is run, or held to the code otherwise.

A page is run from top to bottom in a folder of its own, as a reader would paste it: all its Python
in one session, commands in this process. What would take minutes, a
network or several machines is not run but parsed: the command exists, and so do its options.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import typer
import yaml

from cnsdiff import Recommender, prepare
from cnsdiff.benchmark.grid import Grid
from cnsdiff.cli.app import app
from cnsdiff.recommender.config import Config, resolve_config
from cnsdiff.serving.config import ServiceConfig

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)

#: What stands in for the files that a page takes for granted.
FILES = {
    "README.md": ("ratings.csv",),
    "audit.md": ("ratings.csv",),
    "choosing.md": ("ratings.csv", "sales.csv", "panel.csv", "data/mine"),
    "closed-form.md": ("data/mine",),
    "compare-honestly.md": ("ratings.csv",),
    "content.md": ("ratings.csv", "items.csv", "arrivals.csv", "images.npy", "new-images.npy"),
    "data.md": ("ratings.csv", "clicks.csv", "train.csv", "valid.csv", "iid.csv", "ood.csv"),
    "diagnostics.md": ("data/food", "data/yelp2018"),
    "plugins.md": ("ratings.csv",),
    "recommend.md": ("ratings.csv", "data/mine", "runs/mine"),
    "report.md": ("data/mine", "runs/mine"),
    "scenarios.md": ("ratings.csv", "random.csv"),
    "serving.md": ("ratings.csv",),
}

#: Commands that are parsed and not run, and why. The first pattern that fits decides.
PARSED = {
    r"python3 -m (venv|pip)|\.venv/bin/|sh tests/install-services": "installs all; CI runs it",
    r"pip install|export ": "changes the environment",
    r"mkdocs ": "serves until it is stopped; tests/test_site.py builds the site",
    r"cnsdiff serve ": "serves until it is stopped; tests/serving starts it",
    r".*sqlite:///cnsdiff\.db": "needs the store of a service; tests of update and audit make some",
    r"curl ": "needs a service; tests/serving/test_service_http.py sends the same",
    r"cnsdiff train .*--ray ": "starts a cluster; tests/training/test_cluster.py does",
    r"torchrun ": "starts processes; tests/training/test_distributed.py does",
    r"python benchmarks/": "takes minutes to hours",
    r"cnsdiff benchmark ": "takes minutes to hours; tests/benchmark runs small grids",
    r"cnsdiff (report|evaluate|recommend) results/": "takes a benchmark's results; tests make some",
    r"cnsdiff quickstart": "takes most of a minute; tests/cli/test_cli_commands.py runs it",
    r"cnsdiff (data fetch|prepare) (ml-100k|yahoo-r3|food|yelp|coat)": "needs the network",
    r".*\b(cuda|yahoo-r3|coat|user\.txt|train\.txt)\b": "needs a GPU or published files",
}

#: Languages of blocks that say nothing to a machine, or that the site's build reads.
PROSE = {"text", "source"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, one a line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [
            shlex.join(part)
            for line in words
            for joined, part in ((k, list(g)) for k, g in groupby(line, lambda w: w == "&&"))
            if not joined
        ]


def blocks_of(page: Path) -> list[Block]:
    found = []
    for indent, info, text in FENCE.findall(page.read_text(encoding="utf-8")):
        language, _, options = info.partition(" ")
        title = re.search(r'title="([^"]+)"', options)
        plain = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        found.append(Block(language, title and title[1], plain))
    return found


PAGES = {
    page.name: blocks
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
    if (blocks := blocks_of(page))
}


def of_language(*languages: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{page}-{at}")
        for page, blocks in PAGES.items()
        for at, block in enumerate(blocks)
        if block.language in languages
    ]


def reason_to_parse(command: str) -> str | None:
    return next((why for pattern, why in PARSED.items() if re.match(pattern, command)), None)


def test_every_block_is_of_a_language_that_something_checks() -> None:
    known = {"python", "bash", "yaml", "json", "toml"} | PROSE
    strangers = {
        (page, block.language)
        for page, blocks in PAGES.items()
        for block in blocks
        if block.language not in known
    }
    assert not strangers


def test_commands_are_ours_or_their_exception_is_named() -> None:
    bash = [block for blocks in PAGES.values() for block in blocks if block.language == "bash"]
    commands = [command for block in bash for command in block.commands]
    assert not [c for c in commands if not c.startswith("cnsdiff ") and not reason_to_parse(c)]
    for pattern in PARSED:
        assert any(re.match(pattern, command) for command in commands), (
            f"no longer needed: {pattern}"
        )
    assert PAGES.keys() >= FILES.keys()


# -- run -------------------------------------------------------------------------------------------


def write_log(path: Path, seed: int = 0, part: int | None = None) -> None:
    """A log, or one of four parts that share no pair, as splits are."""
    rng = np.random.default_rng(seed)
    pairs = pl.DataFrame({"user": rng.integers(0, 60, 3000), "item": rng.integers(0, 40, 3000)})
    log = pairs.with_columns(
        rating=pl.Series(rng.integers(1, 6, 3000)),
        timestamp=pl.Series(rng.integers(1_600_000_000, 1_620_000_000, 3000)),
    )
    kept = True if part is None else (pl.col("user") + pl.col("item")) % 4 == part
    log.filter(kept).write_csv(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that :data:`FILES` names."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("ratings", "random")):
        write_log(folder / f"{name}.csv", seed)
    for part, name in enumerate(("train", "valid", "iid", "ood")):
        write_log(folder / f"{name}.csv", part, part)
    log = pl.read_csv(folder / "ratings.csv")
    log.group_by("item").len().write_csv(folder / "sales.csv")
    log.filter(pl.col("user") < 9).sample(fraction=0.2, seed=0).write_csv(folder / "panel.csv")
    items = pl.DataFrame({"item": log["item"].unique().sort()}).with_columns(
        brand="brand " + (pl.col("item") % 7).cast(pl.String), price=pl.col("item") * 1.5
    )
    items.write_csv(folder / "items.csv")
    items[:2].with_columns(item=pl.Series([9001, 9002])).write_csv(folder / "arrivals.csv")
    images = np.random.default_rng(0).normal(size=(len(items), 4))
    np.save(folder / "images.npy", images)
    np.save(folder / "new-images.npy", images[:2])
    event = pl.col("rating").replace_strict({5: "purchase", 4: "cart"}, default="view")
    log.with_columns(event=event).drop("rating").write_csv(folder / "clicks.csv")
    dataset = prepare(folder / "ratings.csv", "temporal", threshold=4, seed=0)
    for name in ("mine", "food", "yelp2018"):
        dataset.save(folder / "data" / name)
    Recommender("mf", "random", training={"epochs": 2}).fit(dataset, run=folder / "runs/mine")
    return folder


Cli = Callable[..., Any]

RUN = [
    page
    for page, blocks in PAGES.items()
    if any(
        block.language == "python"
        or (block.language == "bash" and not all(map(reason_to_parse, block.commands)))
        for block in blocks
    )
]


#: The only liberties taken with a page: training ends early, and worlds are small.
SHORTER = {
    "audit": ("--budget", "5s", "--shifts", "popularity", "--threads", "1"),
    "train": ("--set", "training.epochs=2"),
    "simulate": ("--users", "90", "--items", "100", "--exposures", "30"),
}
#: The same in Python.
SMALLER = {
    r'"epochs": \d+': '"epochs": 2',
    r"budget=\d+": "budget=5",
    r"n_users=\d+": "n_users=90",
    r"n_items=\d+": "n_items=100",
    r"exposures=\d+": "exposures=30",
}


def run_command(cli: Cli, command: str) -> None:
    words = shlex.split(command)[1:]
    outcome = cli(*words, *SHORTER.get(words[0], ()))
    assert outcome.code == 0, (command, outcome.err)


#: Runs each line of its input, a folder to start anew in and code or both, and answers with what
#: went wrong. One process for all pages, since most of what they would take is importing. A page
#: starts with one thread: an audit leaves as many as there are cores.
DRIVER = """
import json, os, sys, traceback, types
import torch
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    folder, code = json.loads(line)
    if folder is not None:
        os.chdir(folder)
        torch.set_num_threads(1)
        os.environ["CNSDIFF_HOME"] = os.path.join(folder, "home")
        sys.modules["__main__"] = page = types.ModuleType("__main__")
    answer = ""
    try:
        exec(compile(code, "<page>", "exec"), page.__dict__)
    except BaseException:
        answer = traceback.format_exc()
    print(json.dumps(answer), file=answers, flush=True)
"""


class Session:
    """A Python that runs the blocks of one page after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start_page(self, folder: Path) -> None:
        """Forget all names; the next blocks are run in ``folder``."""
        self._send(str(folder), "")

    def run(self, code: str) -> None:
        for pattern, small in SMALLER.items():
            code = re.sub(pattern, small, code)
        self._send(None, code)

    def _send(self, folder: str | None, code: str) -> None:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        print(json.dumps([folder, code]), file=stdin, flush=True)
        problem = json.loads(stdout.readline() or '"Python ended"')
        assert not problem, f"{code}\n{problem}"


@pytest.fixture(scope="module")
def python() -> Iterator[Session]:
    session = Session()
    yield session
    session.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_from_top_to_bottom(
    page: str,
    files: Path,
    cli: Cli,
    python: Session,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python.start_page(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    torch.set_num_threads(1)
    for name in FILES.get(page, ()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (files / name).is_dir() else shutil.copy
        copy(files / name, tmp_path / name)
    for block in PAGES[page]:
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            python.run(block.text)
        if block.language == "bash":
            for command in block.commands:
                if not reason_to_parse(command):
                    run_command(cli, command)


# -- parsed ----------------------------------------------------------------------------------------


def parse_ours(words: Sequence[str]) -> None:
    """Fail as the command line would for an unknown command or option, or a wrong value."""
    command = typer.main.get_command(app)
    context = command.make_context("cnsdiff", list(words), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)


def parse_benchmark(words: Sequence[str]) -> None:
    """The script exists, and its options are first arguments of some call."""
    tree = ast.parse((ROOT / words[0]).read_text(encoding="utf-8"))
    given = [call.args for call in ast.walk(tree) if isinstance(call, ast.Call)]
    known = {args[0].value for args in given if args and isinstance(args[0], ast.Constant)}
    unknown = {word for word in words[1:] if word.startswith("--")} - known
    assert not unknown, (words[0], unknown)


def parse_pip(words: Sequence[str]) -> None:
    """What is installed is this package, with extras that it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        if word in {"-q", "--no-compile", "-c", "-e", "constraints.txt"}:
            continue
        requirement = re.fullmatch(r"(?:cnsdiff|\.)(?:\[([\w,]+)\])?", word)
        assert requirement, word
        extras = (requirement[1] or "").split(",")
        assert set(extras) - {""} <= project["optional-dependencies"].keys(), word


def parse(command: str) -> None:
    words = shlex.split(command)
    if words[0] == "cnsdiff":
        parse_ours(words[1:])
    elif words[0] == "torchrun":
        from torch.distributed.run import parse_args

        given = parse_args(words[1:])
        assert (given.module, given.training_script) == (True, "cnsdiff")
        parse_ours(given.training_script_args)
    elif command.startswith("python benchmarks/"):
        parse_benchmark(words[1:])
    elif "install" in words and "venv" not in words:
        parse_pip(words[words.index("install") + 1 :])
    else:
        # The two commands of the README (tests/test_docs.py holds them to CI), and the like.
        others = ("python3 -m", "sh ", ".venv/bin/", "export ", "mkdocs ", "curl ")
        assert command.startswith(others), command


@pytest.mark.parametrize("block", of_language("bash"))
def test_commands_parse(block: Block) -> None:
    for command in block.commands:
        parse(command)


@pytest.mark.parametrize("words", [["trian", "data"], ["train", "data", "--sampel", "dns"]])
def test_parsing_refuses_what_the_command_line_would(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such (command|option)"):
        parse_ours(words)


@pytest.mark.parametrize("block", of_language("yaml"))
def test_yaml_is_a_grid_or_a_configuration(block: Block) -> None:
    tree = yaml.safe_load(block.text)
    if "methods" in tree:
        Grid.model_validate(tree)
    elif block.title == "service.yaml":
        ServiceConfig.model_validate(tree)
    else:
        assert tree.keys() <= Config.model_fields.keys()
        resolve_config(tree)


@pytest.mark.parametrize("block", of_language("json", "toml"))
def test_json_and_toml_parse(block: Block) -> None:
    assert (json.loads if block.language == "json" else tomllib.loads)(block.text)
