"""Help, version, doctor and quickstart."""

from __future__ import annotations

import re
import sys

import numpy as np
import polars as pl
import pytest

from cnsdiff import Recommender, load_dataset
from cnsdiff.base.text import install_command
from cnsdiff.cli.commands import quickstart
from cnsdiff.evaluation import Evaluation
from cnsdiff.evaluation.protocol import SplitEvaluation

COMMANDS = ["quickstart", "simulate", "prepare", "train", "evaluate", "recommend", "doctor"]
DATA_COMMANDS = ["data list", "data fetch", "data describe"]


@pytest.mark.parametrize("command", [*COMMANDS, *DATA_COMMANDS])
def test_help_has_an_example(cli, command):
    done = cli(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: cnsdiff {command}" in done.out
    assert "--json" in done.out


def test_help_lists_every_command(cli):
    done = cli("--help")
    assert done.code == 0
    for command in [*COMMANDS, "data"]:
        assert command in done.out
    assert "cnsdiff quickstart" in done.out
    listed = cli("data", "--help").out
    assert all(command.removeprefix("data ") in listed for command in DATA_COMMANDS)


def test_version(cli):
    import importlib.metadata

    done = cli("--version")
    assert (done.code, done.out) == (0, f"cnsdiff {importlib.metadata.version('cnsdiff')}\n")


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--nonsense"], ["prepare"]])
def test_wrong_usage(cli, arguments):
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err


def test_doctor(cli):
    report = cli("doctor", "--json").json
    assert report["missing"]["core"] == []
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"cnsdiff", "torch", "polars"} <= report["versions"].keys()
    assert report["compute"]["auto_device"] in ("cpu", "cuda")
    done = cli("doctor")
    assert done.code == 0
    for word in ("torch", "threads", "core", "complete"):
        assert word in done.out


def test_doctor_names_what_an_extra_lacks(cli, monkeypatch):
    needed = ["torch>=2.5", 'no-such-part[x]>=1; extra == "bench"', "numpy; extra == 'other'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    missing = cli("doctor", "--json").json["missing"]
    assert missing == {"core": [], "bench": ["no-such-part"], "other": []}
    lines = {line.split()[0]: line for line in cli("doctor").out.splitlines()}
    assert f"missing no-such-part  ({install_command('bench')})" in lines["bench"]
    assert lines["other"].split() == ["other", "complete"]


@pytest.mark.slow
def test_quickstart(cli, tmp_path):
    out = tmp_path / "quick"
    done = cli("quickstart", "--epochs", 1, "--out", out)
    assert done.code == 0, done.err
    verdict, *rest = done.out.splitlines()
    assert verdict.startswith("On the clicks of the next three months the default is ")
    table = rest[: rest.index("Next:")]
    assert max(map(len, table)) <= 88
    assert max(len(line) for line in table if line[:1] in "│┃┏└") <= 80
    for word in ("recent-mostpop", "itemknn, rehearsed", "cnsdiff", "OOD test", "Kept in"):
        assert word in "\n".join(table)
    assert "cnsdiff train ratings.csv --for temporal --out run" in done.out
    assert "exposure: epoch 1/1" in done.err
    dataset = load_dataset(out / "dataset")
    for name, selected in (("random", "valid"), ("cnsdiff", "valid"), ("exposure", "rehearsal")):
        model = Recommender.load(out / name)
        assert (model.config_.sampler.name, model.selected_on_) == (name, selected)
        assert model.dataset_path_ == (out / "dataset").resolve()
        model.evaluate(dataset, ["test_ood"])
    assert cli("recommend", out / "exposure", "--users", "0,1", "--json").json
    before = sorted(entry.name for entry in out.iterdir())
    cli("quickstart", "--out", out).refused("already exists", "another --out")
    assert sorted(entry.name for entry in out.iterdir()) == before


@pytest.mark.slow
def test_quickstart_json_keeps_nothing(cli, tmp_path, monkeypatch):
    def out_of_memory(self, train):
        raise MemoryError

    small = quickstart.WORLD | {"n_users": 200, "n_items": 100, "exposures": 30.0}
    monkeypatch.setattr(quickstart, "WORLD", small)
    monkeypatch.setattr("cnsdiff.references.ItemKNN._fit", out_of_memory)
    monkeypatch.chdir(tmp_path)
    report = cli("quickstart", "--epochs", 1, "--json").json
    assert list(report["models"]) == ["mostpop", "recent-mostpop", *quickstart.MODELS]
    reason = "there is not enough memory for it"
    assert report["left_out"] == {"itemknn": reason, "itemknn, rehearsed": reason}
    assert {"test_iid", "test_ood"} == report["models"]["exposure"]["splits"].keys()
    assert "the best reference, " in report["verdict"] and "itemknn" not in report["verdict"]
    shares = report["false_negatives"]
    assert shares.keys() == quickstart.MODELS.keys()
    # Of all pairs a third is liked, and fewer where those that were clicked are left out.
    assert 0.2 < shares["random"] < 0.4
    assert report["path"] is None
    assert not list(tmp_path.iterdir())


def judged(mean: float, seed: int) -> Evaluation:
    """NDCG@20 of 400 users about a mean, as a model would have it."""
    values = np.random.default_rng(seed).normal(mean, 0.02, 400)
    users = pl.DataFrame({"user": np.arange(400), "ndcg@20": values})
    return Evaluation({"test_ood": SplitEvaluation({"ndcg@20": values.mean()}, 400, 0, users)})


@pytest.mark.parametrize(
    ("ours", "random", "reference", "words"),
    [
        (0.12, 0.06, 0.10, (r"9\d% better \(9\d–10\d%\) than random", r"20% better \(.*%\) than")),
        (0.08, 0.10, 0.16, (r"\d\d% worse \(1\d–2\d%\) than random", r"50% worse \(.*\) than the")),
        (0.10, 0.10, 0.05, ("level with random negatives and", "better .* than the best")),
        (0.10, 0.0, 0.10, (" than random negatives and", "level with the best reference")),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_say(ours, random, reference, words):
    results = {
        "mostpop": judged(reference / 2, 1),
        "itemknn, rehearsed": judged(reference, 2),
        "random": judged(random, 3),
        "cnsdiff": judged(0.3, 4),
        "exposure": judged(ours, 5),
    }
    sentence = quickstart.verdict(results)
    for pattern in words:
        assert re.search(pattern, sentence), sentence
    assert "the best reference, itemknn rehearsed (NDCG@20)." in sentence
    del results["mostpop"], results["itemknn, rehearsed"]
    assert "reference" not in quickstart.verdict(results)
