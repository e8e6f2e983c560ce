"""``cnsdiff train``: a run directory out, interrupted and resumed, or one sentence why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cnsdiff import Recommender
from cnsdiff.recommender.presets import PRESETS
from cnsdiff.recommender.run_directory import CHECKPOINT
from cnsdiff.training.checkpoint import TrainingState
from cnsdiff.training.progress import PlainReporter


def weights(run):
    return load_file(run / "weights.safetensors")


def same_weights(one, other) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def ctrl_c(monkeypatch):
    """Call it with an epoch: Ctrl-C is pressed after it, once."""
    real = PlainReporter.epoch

    def press_after(epoch: int) -> None:
        def pressing(self, record, *, best):
            real(self, record, best=best)
            if record["epoch"] == epoch:
                monkeypatch.setattr(PlainReporter, "epoch", real)
                raise KeyboardInterrupt

        monkeypatch.setattr(PlainReporter, "epoch", pressing)

    return press_after


def test_a_run(cli, world, tmp_path, fast):
    done = cli("train", world, "--out", tmp_path / "run", *fast, "--backbone", "mf", "--seed", 3)
    assert done.code == 0
    lines = done.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "mf + random: epoch 1/2",
        "mf + random: epoch 2/2",
    ]
    for command in (f"evaluate {tmp_path / 'run'} --references", f"report {tmp_path / 'run'}"):
        assert re.search(rf"^  cnsdiff {re.escape(command)}( |$)", done.out, re.MULTILINE)
    model = Recommender.load(tmp_path / "run")
    assert f"best epoch: {model.best_epoch_} of 2\nselected by: ndcg@20 0." in done.out
    assert model.config_.seed == 3
    assert model.config_.threads == 1
    assert model.dataset_path_ == world.resolve()


def test_json(cli, world, tmp_path, fast):
    report = cli("train", world, "--out", tmp_path / "run", *fast, "--json").json
    assert report["run"] == str(tmp_path / "run")
    assert report["epochs"] == 2
    assert report["selected_on"] == "valid"
    history = Recommender.load(tmp_path / "run").history_
    assert report["metric"] == "ndcg@20"
    assert report["value"] == history[report["best_epoch"] - 1]["validation"]["ndcg@20"]
    assert report["dial"] == Recommender.load(tmp_path / "run").dial_


@pytest.mark.parametrize(
    ("dial", "words"),
    [
        ("-0.25", "dial: -0.25 (popularity counts for less than in training)"),
        ("1", "dial: 1 (popularity counts for more than in training)"),
        ("off", "dial: 0 (scores as trained)"),
        ("auto", "dial: "),
    ],
)
def test_the_dial_in_words(cli, world, tmp_path, fast, dial, words):
    done = cli("train", world, "--out", tmp_path / "run", *fast, "--set", f"training.dial={dial}")
    assert done.code == 0, done.err
    assert words in done.out
    assert f"dial: {Recommender.load(tmp_path / 'run').dial_:g} (" in done.out


def test_selecting_under_an_anticipated_shift(cli, world, tmp_path, fast):
    out = tmp_path / "run"
    done = cli("train", world, "--out", out, *fast, "--select-on", "inverse-popularity")
    assert done.code == 0, done.err
    assert "validation pairs weigh as much as" in done.err
    assert "ndcg@20 (inverse-popularity) 0." in done.out
    model = Recommender.load(out)
    values = [epoch["validation"]["ndcg@20 (inverse-popularity)"] for epoch in model.history_]
    assert values[model.best_epoch_ - 1] == max(values)
    assert model.config_.training.select_on == "inverse-popularity"
    assert values != [epoch["validation"]["ndcg@20"] for epoch in model.history_]


def test_selecting_on_the_test_split_warns(cli, world, tmp_path, fast):
    """Even with a select_metric that is not computed, since the published rule picks by four."""
    settings = ("--set", "training.select_on=test_ood", "--set", "training.select_metric=mrr@7")
    cli("train", world, "--out", tmp_path / "run", *fast, *settings).refused("training.dial", "off")
    settings = (*settings, "--set", "training.dial=off")
    done = cli("train", world, "--out", tmp_path / "run", *fast, *settings)
    assert done.code == 0
    assert "WARNING: select_on=test_ood" in done.err
    assert "on test_ood" in done.out


def test_file_and_settings_and_python_agree(cli, world, tmp_path, fast):
    (tmp_path / "c.yaml").write_text(
        "seed: 7\nsampler:\n  name: random\n  n_negatives: 3\n"
        "training:\n  epochs: 9\n  batch_size: 64\nbackbone:\n  dim: 16\n"
    )
    done = cli(
        "train", world, "--out", tmp_path / "a", "--config", tmp_path / "c.yaml",
        "--set", "training.epochs=1", "--set", "backbone.layers=1", "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.err
    tree = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert (tree["seed"], tree["training"]["epochs"], tree["sampler"]["n_negatives"]) == (7, 1, 3)
    assert (tree["backbone"]["dim"], tree["backbone"]["layers"]) == (16, 1)
    python = Recommender(
        sampler="random",
        seed=7,
        threads=1,
        training={"epochs": 1, "batch_size": 64},
        sampler_options={"n_negatives": 3},
        backbone_options={"dim": 16, "layers": 1},
    )
    assert python.resolve() == Recommender.load(tmp_path / "a").config_
    # The resolved file is a configuration too.
    done = cli("train", world, "--out", tmp_path / "b", "--config", tmp_path / "a" / "config.yaml")
    assert done.code == 0, done.err
    assert same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(cli, world, tmp_path, preset):
    done = cli(
        "train", world, "--out", tmp_path / "run", "--preset", preset, "--set", "training.epochs=1"
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("options", "sampler", "loss", "init"),
    [
        ((), "exposure", "softmax", "spectral"),
        (("--sampler", "exposure"), "exposure", "softmax", "spectral"),
        (("--sampler", "random"), "random", "bpr", "xavier"),
        (("--set", "sampler.name=random"), "random", "bpr", "xavier"),
        (("--sampler", "random", "--preset", "default"), "random", "bpr", "xavier"),
    ],
)
def test_what_is_underneath(cli, world, tmp_path, options, sampler, loss, init):
    """The default's settings where no other sampler is named."""
    done = cli("train", world, "--out", tmp_path / "run", *options, "--set", "training.epochs=1")
    assert done.code == 0, done.err
    assert f"lightgcn + {sampler}: epoch 1/1" in done.err
    config = Recommender.load(tmp_path / "run").config_
    found = (config.sampler.name, config.objective.loss, config.backbone.init)
    assert found == (sampler, loss, init)
    assert config.training.dial == "auto"


# -- interrupted -------------------------------------------------------------------------------


def test_ctrl_c_and_resume(cli, world, tmp_path, fast, ctrl_c):
    more = (*fast, "--set", "training.epochs=4")
    cli("train", world, "--out", tmp_path / "whole", *more)
    run = tmp_path / "run"
    ctrl_c(2)
    done = cli("train", world, "--out", run, *more)
    done.refused(f"go on with `cnsdiff train --resume {run}`", "saved", code=130)
    assert TrainingState.load(run / CHECKPOINT).epoch == 2
    cli("evaluate", run).refused("has not finished", f"--resume {run}")
    cli("recommend", run, "--users", "1").refused("has not finished")
    resumed = cli("train", "--resume", run)
    assert resumed.code == 0
    lines = resumed.err.splitlines()
    assert "going on after epoch 2" in lines[0]
    assert "epoch 3/4" in lines[1]
    assert same_weights(run, tmp_path / "whole")
    cli("train", "--resume", run).refused("this run is finished", f"cnsdiff evaluate {run}")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_polite_kill(cli, world, tmp_path, fast, monkeypatch, name):
    """The end of the terminal is one, unless the command was started to survive it."""
    number = getattr(signal, name)
    monkeypatch.setattr(PlainReporter, "epoch", lambda *args, **more: os.kill(os.getpid(), number))
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    command = ("train", world, *fast, "--out")
    try:
        cli(*command, tmp_path / "run").refused("interrupted", "--resume", code=130)
        assert signal.getsignal(number) == signal.SIG_DFL
        if number == signal.SIGHUP:
            signal.signal(number, signal.SIG_IGN)  # as nohup does
            assert cli(*command, tmp_path / "survives").code == 0
    finally:
        signal.signal(number, before)


def test_the_same_command_again_resumes_too(cli, world, tmp_path, fast, ctrl_c, untouched):
    ctrl_c(1)
    assert cli("train", world, "--out", tmp_path / "run", *fast).code == 130
    untouched()
    other = cli("train", world, "--out", tmp_path / "run", *fast, "--seed", 9)
    other.refused("another configuration", "--resume", "choose another directory")
    untouched()
    assert cli("train", world, "--out", tmp_path / "run", *fast).code == 0


def test_resume_with_a_dataset_that_moved(cli, world, tmp_path, fast, ctrl_c):
    moved = shutil.copytree(world, tmp_path / "here")
    ctrl_c(1)
    cli("train", moved, "--out", tmp_path / "run", *fast)
    moved.rename(tmp_path / "there")
    cli("train", "--resume", tmp_path / "run").refused(str(moved), "no such dataset")
    assert cli("train", tmp_path / "there", "--resume", tmp_path / "run").code == 0


def test_a_full_disk_while_a_checkpoint_is_saved(cli, world, tmp_path, fast, ctrl_c, full_disk):
    more = (*fast, "--set", "training.epochs=4")
    cli("train", world, "--out", tmp_path / "whole", *more)
    run = tmp_path / "run"
    ctrl_c(2)
    cli("train", world, "--out", run, *more)
    before = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    with full_disk(20_000):
        done = cli("train", "--resume", run)
    done.refused(
        CHECKPOINT, "the disk is full", "free some space and run the command again", code=1
    )
    assert {entry.name: entry.read_bytes() for entry in run.iterdir()} == before
    assert cli("train", "--resume", run).code == 0
    assert same_weights(run, tmp_path / "whole")


def test_a_loss_that_blows_up_is_a_failure(cli, world, tmp_path, fast):
    done = cli("train", world, "--out", tmp_path / "run", *fast, "--set", "training.lr=1e20")
    done.refused("training stopped in epoch 1", "lower training.lr", code=1)


# -- refused -----------------------------------------------------------------------------------

BAD = {
    "unknown key": (["--set", "training.epocs=5"], ["--set: ", "'training.epocs'", "'epochs'"]),
    "unknown section": (["--set", "trainin.epochs=5"], ["'trainin'", "'training'"]),
    "unknown sampler key": (["--set", "sampler.n_negative=5"], ["did you mean 'n_negatives'"]),
    "unknown sampler": (["--sampler", "randm"], ["did you mean 'random'"]),
    "unknown backbone": (["--backbone", "lightgnc"], ["did you mean 'lightgcn'"]),
    "unknown preset": (["--preset", "author"], ["did you mean 'authors'"]),
    "no value": (["--set", "training.epochs"], ["--set training.epochs: write it as key=value"]),
    "no key": (["--set", "=5"], ["key=value"]),
    "not YAML": (["--set", "seed=[1"], ["seed=[1", "not valid YAML"]),
    "wrong type": (["--set", "training.epochs=many"], ["training.epochs", "many"]),
    "out of range": (["--set", "training.lr=-1"], ["training.lr", "-1"]),
    "no section": (["--set", "training=5"], ["training"]),
    "name for a section": (["--set", "backbone=mf"], ["--set: backbone must be a section", "mf"]),
    "device": (["--device", "gpu"], ["device: 'gpu' is not one of auto, cpu, cuda"]),
    "absent device": (["--device", "cuda:99"], ["'cuda:99' not found", "auto or cpu"]),
    "dial": (["--set", "training.dial=low"], ["training.dial: must be 'auto', 'off'", "'low'"]),
    "select on": (["--select-on", "popularity"], ["training.select_on", "'popularity'"]),
    "metric": (["--set", "training.select_metric=ndcg@7"], ["ndcg@7", "evaluation.ks"]),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_settings_start_nothing(cli, world, tmp_path, untouched, options, words):
    untouched()
    cli("train", world, "--out", tmp_path / "run", *options).refused(*words)
    untouched()


YAML = {
    "unknown key": ("training:\n  epocs: 5\n", ["c.yaml: ", "'training.epocs'", "'epochs'"]),
    "not YAML": ("training:\n  epochs: [5\n", ["c.yaml, line", "not valid YAML"]),
    "a list": ("- 1\n", ["c.yaml: must hold sections"]),
    "no text": (b"\xff\xfe\x00", ["c.yaml"]),
    "name for a section": ("sampler: random\n", ["c.yaml: sampler must be a section"]),
}


@pytest.mark.parametrize(("text", "words"), YAML.values(), ids=YAML)
def test_bad_configuration_files(cli, world, tmp_path, untouched, text, words):
    (tmp_path / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    untouched()
    cli("train", world, "--out", tmp_path / "run", "--config", tmp_path / "c.yaml").refused(*words)
    untouched()


def test_missing_configuration_file(cli, world, tmp_path):
    done = cli("train", world, "--out", tmp_path / "run", "--config", tmp_path / "none.yaml")
    done.refused("none.yaml: no such configuration file")


def test_what_is_missing(cli, world, run, tmp_path, untouched):
    untouched()
    cli("train").refused("needs a log or a dataset directory", "--out RUN")
    cli("train", world).refused("--out RUN")
    cli("train", tmp_path / "none", "--out", tmp_path / "r").refused(
        "none: no such log or dataset directory"
    )
    cli("train", run, "--out", tmp_path / "r").refused("manifest.json: is damaged")
    cli("train", "--resume", tmp_path / "none").refused("is not a run directory")
    cli("train", "--resume", world).refused("damaged")
    cli("train", "--resume", run, "--seed", 1).refused("give no others beside it")
    untouched()


def test_an_existing_out_is_kept(cli, world, run, tmp_path, fast, untouched):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    untouched()
    cli("train", world, "--out", run, *fast).refused("holds a finished run", "another directory")
    cli("train", world, "--out", tmp_path / "notes", *fast).refused("is not a run directory")
    cli("train", world, "--out", tmp_path / "notes" / "a.txt", *fast).refused("not a run directory")
    untouched()


def test_damaged_datasets(cli, world, tmp_path, fast):
    def damaged(name, change):
        copy = shutil.copytree(world, tmp_path / name)
        change(copy)
        return cli("train", copy, "--out", tmp_path / "run", *fast)

    def truncate(copy):
        (copy / "train.parquet").write_bytes((copy / "train.parquet").read_bytes()[:-9])

    def version(copy):
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 7}))

    damaged("truncated", truncate).refused("train.parquet: is truncated")
    damaged("version", version).refused("schema version 7")
    damaged("missing", lambda copy: (copy / "valid.parquet").unlink()).refused("valid.parquet")
    assert not (tmp_path / "run").exists()


def test_no_valid_split(cli, tmp_path, fast):
    (tmp_path / "t.txt").write_text("1 1\n1 2\n2 1\n3 3\n")
    cli("prepare", "--train", tmp_path / "t.txt", "--out", tmp_path / "d")
    done = cli("train", tmp_path / "d", "--out", tmp_path / "run", *fast)
    done.refused("has no valid split", "no pair to spare")
    assert not (tmp_path / "run").exists()
    (tmp_path / "t.txt").write_text("1 1\n1 2\n2 1\n2 2\n3 3\n")
    cli("prepare", "--train", tmp_path / "t.txt", "--out", tmp_path / "d2")
    done = cli("train", tmp_path / "d2", "--out", tmp_path / "run", *fast)
    assert done.code == 0, done.err
    assert Recommender.load(tmp_path / "run").model_.train.nnz == 5


def test_a_damaged_unfinished_run(cli, world, tmp_path, fast, ctrl_c):
    run = tmp_path / "run"
    ctrl_c(1)
    cli("train", world, "--out", run, *fast)
    checkpoint, config = (run / CHECKPOINT).read_bytes(), (run / "config.yaml").read_bytes()
    (run / CHECKPOINT).write_bytes(checkpoint[:-10])
    cli("train", "--resume", run).refused(CHECKPOINT, "damaged", "delete it")
    (run / CHECKPOINT).write_bytes(checkpoint)
    for content in (b"", b"[", b"seed: 1", b"\xff\xfe"):
        (run / "config.yaml").write_bytes(content)
        cli("train", "--resume", run).refused("config.yaml: is damaged")
    (run / "config.yaml").write_bytes(config.replace(b"seed: 0", b"seed: 1"))
    cli("train", "--resume", run).refused("another configuration")
    (run / "config.yaml").write_bytes(config)
    assert cli("train", "--resume", run).code == 0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("training.batch_size=1e20", "training.batch_size: "),
        ("threads=1000000", "threads: input should be less than or equal to 1024"),
        ("backbone.dim=1000000000", "backbone.dim: input should be less than or equal to 65536"),
    ],
)
def test_absurd_settings_are_refused_before_anything_is_made(
    cli, world, tmp_path, setting, sentence
):
    cli("train", world, "--out", tmp_path / "run", "--set", setting).refused(sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--threads", "--seed"])
def test_absurd_options_are_wrong_usage(cli, world, tmp_path, option):
    told = cli("train", world, "--out", tmp_path / "run", option, 2**70)
    assert told.code == 2
    assert option in told.err


def test_tables_that_memory_cannot_hold_are_refused(cli, world, tmp_path, monkeypatch, fast):
    monkeypatch.setattr("cnsdiff.kernels.memory.free_memory", lambda: 10**6)
    told = cli("train", world, "--out", tmp_path / "run", *fast, "--set", "backbone.dim=65536")
    told.refused("embeddings of size 65,536 needs about", "lower backbone.dim")
    sampler = ["--set", "sampler.name=dns", "--set", "sampler.candidates=100000"]
    told = cli("train", world, "--out", tmp_path / "run", "--set", "backbone.dim=1", *sampler)
    told.refused("100,000 candidates for each of", "lower sampler.candidates")
    sampler = ["--set", "sampler.name=cnsdiff", "--set", "sampler.hidden=4096"]
    told = cli("train", world, "--out", tmp_path / "run", "--set", "backbone.dim=1", *sampler)
    told.refused("1 hidden layers of width 4,096", "lower sampler.hidden")


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 64]"),
    ],
)
def test_memory_that_runs_out_is_told_in_a_sentence(
    cli, world, tmp_path, monkeypatch, fast, failure
):
    def fails(*_, **__):
        raise failure

    monkeypatch.setattr("cnsdiff.training.loop.Trainer.fit", fails)
    told = cli("train", world, "--out", tmp_path / "run", *fast)
    told.refused("training needs more memory than there is; lower training.batch_size")
    monkeypatch.setattr("cnsdiff.Recommender.fit", fails)  # any place that has no words of its own
    cli("train", world, "--out", tmp_path / "run", *fast).refused("there is not enough memory")


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (["--sampler", "foo"], "cnsdiff: --sampler: no sampler is called 'foo'"),
        (["--select-on", "invpop"], "cnsdiff: --select-on: training.select_on"),
        (["--backbone", "foo"], "cnsdiff: --backbone: no backbone is called 'foo'"),
        (["--set", "training.lr=-1"], "cnsdiff: --set: training.lr"),
        (["--sampler", "random", "--set", "training.lr=-1"], "cnsdiff: --set or --sampler: "),
    ],
)
def test_a_refusal_names_what_was_typed(cli, options, place):
    cli("train", "data", *options, "--out", "run").refused(place)


@pytest.fixture
def shop(tmp_path):
    """A log with times."""
    rows = np.random.default_rng(0).integers(0, [40, 30], size=(900, 2))
    lines = [f"u{user},i{item},{1_600_000_000 + 3600 * n}" for n, (user, item) in enumerate(rows)]
    file = tmp_path / "shop.csv"
    file.write_text("\n".join(["user,item,time", *lines]))
    return file


def test_a_log_is_trained_on_whole(cli, shop, tmp_path, fast, monkeypatch):
    run = tmp_path / "run"
    done = cli("train", shop, "--for", "temporal", "--out", run, *fast)
    assert done.code == 0
    model = Recommender.load(run)
    pairs = pl.read_csv(shop).unique(["user", "item"])
    assert model.model_.train.nnz == len(pairs)
    assert model.selected_on_ == "rehearsal"
    assert model.environment_ is not None
    assert model.dataset_path_ == (run / "dataset").resolve()
    # What is advised next works.
    monkeypatch.chdir(tmp_path)
    for line in done.out.partition("Next:\n")[2].splitlines():
        if words := shlex.split(line.partition("#")[0]):
            assert cli(*words[1:]).code == 0
    assert (tmp_path / "lists.csv").is_file()
    assert cli("report", run).code == 0


def test_a_log_is_trained_on_as_the_same_data_prepared(cli, shop, tmp_path, fast):
    assert cli("train", shop, "--for", "hybrid", "--out", tmp_path / "one", *fast).code == 0
    assert cli("prepare", "--train", shop, "--out", tmp_path / "data").code == 0
    same = ("--select-on", "rehearsal", "--set", "training.select_also=inverse-popularity")
    assert cli("train", tmp_path / "data", *same, "--out", tmp_path / "two", *fast).code == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_a_log_and_ctrl_c_and_a_moved_run(cli, shop, tmp_path, fast, ctrl_c):
    assert cli("train", shop, "--out", tmp_path / "whole", *fast).code == 0
    ctrl_c(1)
    assert cli("train", shop, "--out", tmp_path / "broken", *fast).code == 130
    (tmp_path / "broken").rename(tmp_path / "moved")
    assert cli("train", "--resume", tmp_path / "moved").code == 0
    assert same_weights(tmp_path / "whole", tmp_path / "moved")
    finished = cli("train", "--resume", tmp_path / "moved")  # which no split is left to evaluate
    finished.refused("this run is finished; write lists with `cnsdiff recommend")


def test_a_log_that_cannot_be_trained_on_leaves_nothing(
    cli, shop, world, tmp_path, untouched, fast
):
    undated = tmp_path / "undated.csv"
    undated.write_text("\n".join(["user,item", *(f"{n % 7},{n % 5}" for n in range(60))]))
    run = tmp_path / "run"
    for place, options, words in (
        (tmp_path / "nix.csv", (), "no such log or dataset directory"),
        (undated, ("--for", "temporal"), "has no timestamps"),
        (undated, ("--for", "temporl"), "did you mean 'temporal'?"),
        (shop, ("--for", "temporal", "--select-on", "valid"), "drop one of the two"),
        (shop, ("--user-col", "nix"), "has no column 'nix'"),
        (world, ("--user-col", "nix"), "--user-col is for reading a log"),
        (world, ("--threshold", "3"), "--threshold is for reading a log"),
    ):
        untouched()
        refused = cli("train", place, "--out", run, *options, *fast)
        assert refused.code == 2
        assert words in refused.err.splitlines()[-1]
        untouched()


def test_the_data_of_a_run_that_never_began_are_not_taken_for_another_log(
    cli, shop, tmp_path, fast
):
    run = tmp_path / "run"
    assert cli("train", shop, "--out", run, *fast).code == 0
    for file in run.iterdir():  # as a kill would leave it
        if file.is_file():
            file.unlink()
    other = tmp_path / "other.csv"
    other.write_text("\n".join(shop.read_text().splitlines()[:500]))
    assert cli("train", other, "--out", run, *fast).code == 0
    assert Recommender.load(run).model_.train.nnz < 500
    refused = cli("train", shop, "--out", run, *fast)
    assert refused.code == 2
    assert "holds a finished run" in refused.err


def test_a_log_whose_users_come_once_is_chosen_on_validation(cli, tmp_path, fast):
    """Of each user all rows are of one day, so nobody comes again after a cut."""
    rows = [f"u{n // 12},i{(n * 7) % 25},{1_600_000_000 + 86_400 * (n // 12)}" for n in range(720)]
    log = tmp_path / "once.csv"
    log.write_text("\n".join(["user,item,time", *rows, f"u0,i1,{1_600_000_000 + 86_400 * 59}"]))
    done = cli("train", log, "--out", tmp_path / "auto", *fast)
    assert done.code == 0
    assert "validation chooses, as fewer than 20 users come again" in done.err
    assert Recommender.load(tmp_path / "auto").environment_ is None
    named = cli("train", log, "--for", "temporal", "--out", tmp_path / "named", *fast)
    assert named.code == 0
    assert "fewer than 20 users choose by chance" in named.err
    assert Recommender.load(tmp_path / "named").environment_ is not None
