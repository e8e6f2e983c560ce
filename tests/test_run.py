"""The run directory: complete, checked, and never unpickled."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cnsdiff import ConfoundedWorld, Recommender, load_dataset
from cnsdiff.base.errors import RunError, StorageError
from cnsdiff.base.storage import locked, sha256
from cnsdiff.evaluation import Dialled, EmbeddingScorer
from cnsdiff.evaluation.dial import standardised_log
from cnsdiff.recommender import run_directory as run_module
from cnsdiff.recommender.run_directory import CHECKPOINT, SCHEMA_VERSION, read_manifest, read_run
from cnsdiff.training.progress import Reporter

FILES = [
    "config.yaml",
    "history.parquet",
    "items.parquet",
    "manifest.json",
    "seen.parquet",
    "train.parquet",
    "users.parquet",
    "weights.safetensors",
]
CHECKED = [name for name in FILES if name != "manifest.json"]
TRAINING = {"epochs": 3, "batch_size": 64, "validate_every": 2}


class Stop(Reporter):
    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def epoch(self, record, *, best):
        if record["epoch"] == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0).dataset()
    return load_dataset(made.save(tmp_path_factory.mktemp("world") / "dataset"))


def recommender() -> Recommender:
    return Recommender(sampler="cnsdiff", training=TRAINING)


@pytest.fixture(scope="module")
def kept(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    recommender().fit(world, run=run)
    return run


@pytest.fixture
def run(kept, tmp_path):
    """A finished run that may be damaged."""
    return shutil.copytree(kept, tmp_path / "run")


@pytest.fixture
def unfinished(world, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        recommender().fit(world, run=tmp_path / "unfinished", reporter=Stop(2))
    return tmp_path / "unfinished"


def edit(run, change) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))


# -- what is there -----------------------------------------------------------------------------


def test_the_files_of_a_finished_run(kept, world):
    assert sorted(entry.name for entry in kept.iterdir()) == FILES
    manifest = json.loads((kept / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["schema_version"] == SCHEMA_VERSION
    assert sorted(manifest["sha256"]) == CHECKED
    assert manifest["versions"].keys() == {"python", "torch", "numpy"}
    assert manifest["dataset"]["fingerprint"] == world.fingerprint
    assert manifest["dataset"]["path"] == str(world.path.resolve())
    assert manifest["epochs"] == 3
    assert manifest["dial"] == Recommender.load(kept).dial_
    assert pl.read_parquet(kept / "users.parquet")["id"].equals(world.users)
    train = pl.read_parquet(kept / "train.parquet")
    pairs = set(zip(world.split("train").users, world.split("train").items, strict=True))
    assert set(train.iter_rows()) == pairs


def test_the_configuration_is_resolved_and_reproduces(kept):
    tree = yaml.safe_load((kept / "config.yaml").read_text())
    options = {f"{name}_options": tree.pop(name) for name in ("backbone", "sampler")}
    assert Recommender(**options, **tree).resolve() == recommender().resolve()


def test_the_files_of_an_unfinished_run(unfinished):
    names = sorted(entry.name for entry in unfinished.iterdir())
    assert names == [CHECKPOINT, "config.yaml", "manifest.json"]
    assert read_manifest(unfinished).status == "training"
    with pytest.raises(RunError, match=r"has not finished; go on with `cnsdiff train --resume"):
        Recommender.load(unfinished)


def test_history_keeps_what_was_and_was_not_validated(kept):
    table = pl.read_parquet(kept / "history.parquet")
    assert table["epoch"].to_list() == [1, 2, 3]
    assert table["valid/ndcg@20"].is_null().to_list() == [True, False, False]
    assert {"train/loss", "train/hardness", "seconds", "validation_seconds"} <= set(table.columns)
    records = Recommender.load(kept).history_
    assert records[0]["validation"] == {}
    assert records[1]["validation"]["ndcg@20"] == table["valid/ndcg@20"][1]


@pytest.mark.parametrize("select_on", ["valid", "test_ood"])
def test_a_run_from_before_the_dial(kept, run, world, select_on):
    """It reads as it was, and at another dial by the training counts."""
    tree = yaml.safe_load((run / "config.yaml").read_text())
    del tree["training"]["dial"]
    tree["training"]["select_on"] = select_on
    (run / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    weights = load_file(run / "weights.safetensors")
    del weights["environment"]
    save_file(weights, run / "weights.safetensors")

    def before(manifest):
        del manifest["dial"]
        manifest["sha256"] |= {name: sha256(run / name) for name in CHECKED}

    edit(run, before)
    old, new = Recommender.load(run), Recommender.load(kept)
    assert (old.dial_, old.config_.training.dial) == (0.0, "off")
    users = world.users[:9]
    assert old.recommend(users).equals(new.recommend(users, dial=0))
    counts = torch.from_numpy(np.bincount(world.split("train").items, minlength=world.n_items))
    inner = EmbeddingScorer(old.user_embeddings_, old.item_embeddings_)
    read = Dialled(inner, standardised_log(counts), -1.0)
    assert torch.equal(
        old.model_.scorer(dial=-1.0).score_block(torch.arange(9), 0, world.n_items),
        read.score_block(torch.arange(9), 0, world.n_items),
    )
    old.save(run, overwrite=True)
    assert Recommender.load(run).recommend(users).equals(old.recommend(users))


def test_nothing_is_unpickled(kept, world, unfinished, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    Recommender.load(kept).recommend(world.users[:3])
    recommender().fit(world, run=unfinished)
    Recommender.load(unfinished)


def test_no_file_is_a_pickle_or_a_torch_archive(kept, unfinished):
    for folder in (kept, unfinished):
        for file in folder.iterdir():
            # A safetensors file is the length of its header (8 bytes), then the header, as JSON.
            skip = 8 if file.suffix == ".safetensors" else 0
            expected = {
                ".parquet": b"PAR1",
                ".json": b"{",
                ".yaml": b"backbone",
                ".safetensors": b"{",
            }
            assert file.read_bytes()[skip:].startswith(expected[file.suffix]), file.name


# -- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKED)
def test_missing(run, name):
    (run / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: is missing from the run; restore it"):
        Recommender.load(run)


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("keep", [0, 10, -1])
def test_truncated(run, name, keep):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:keep])
    with pytest.raises(RunError, match=rf"{name}: .*checksum \(truncated or changed\); restore"):
        Recommender.load(run)


@pytest.mark.parametrize("name", CHECKED)
def test_tampered(run, name):
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name}: its content does not match"):
        Recommender.load(run)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"x"', "null", "{}", b"\xff\xfe\x00"])
def test_a_manifest_that_is_none(run, content):
    data = content if isinstance(content, bytes) else content.encode()
    (run / "manifest.json").write_bytes(data)
    with pytest.raises(RunError, match=r"manifest.json: is damaged \(.*\); train again"):
        Recommender.load(run)


@pytest.mark.parametrize("value", [None, [], "x", 7, {}, "absent"])
@pytest.mark.parametrize(
    "path",
    [
        ("status",),
        ("config_fingerprint",),
        ("dataset",),
        ("dataset", "fingerprint"),
        ("dataset", "path"),
        ("dataset", "name"),
        ("sha256",),
        ("sha256", "weights.safetensors"),
        ("best_epoch",),
        ("dial",),
        ("versions",),
        ("created_by",),
        ("epochs",),
    ],
    ids="/".join,
)
def test_a_manifest_with_wrong_values_is_refused_or_harmless(run, world, path, value):
    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value
        if value == "absent":
            del manifest[path[-1]]

    edit(run, change)
    try:
        model = Recommender.load(run)
    except RunError as error:
        assert str(run) in str(error)
    else:
        model.recommend(world.users[:2])
        _ = model.dataset_path_, model.best_epoch_


def test_a_manifest_without_a_checksum(run):
    edit(run, lambda manifest: manifest["sha256"].pop("weights.safetensors"))
    with pytest.raises(RunError, match=r"weights\.safetensors"):
        Recommender.load(run)


@pytest.mark.parametrize("version", [0, 5, "1", None])
def test_another_schema_version(run, version):
    edit(run, lambda manifest: manifest.update(schema_version=version))
    with pytest.raises(RunError, match=rf"schema version {version!r}, and this cnsdiff reads 1"):
        Recommender.load(run)


def test_no_run(tmp_path, world):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "nothing", tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match=r"is not a run directory .*cnsdiff train DATASET --out"):
            Recommender.load(place)
    with pytest.raises(RunError, match="damaged"):
        read_run(world.path)


def _table(change):
    def damage(file):
        change(pl.read_parquet(file)).write_parquet(file)

    return damage


def _weights(change):
    def damage(file):
        weights = load_file(file)
        change(weights)
        save_file(weights, file)

    return damage


def _text(content):
    return lambda file: file.write_bytes(content)


#: What a file may hold although its checksum fits, and what is said of it.
UNFIT = {
    "a list": ("config.yaml", _text(b"- 1"), "must be a mapping"),
    "latin-1": ("config.yaml", _text("é: 1".encode("latin-1")), "can't decode"),
    "deep": ("config.yaml", _text(b"[" * 5000), "nested too deeply"),
    "no sampler": ("config.yaml", _text(b"backbone: {name: mf}\ntraining: {}"), "sampler"),
    "unknown key": (
        "config.yaml",
        _text(b"backbone: {name: mf}\nsampler: {name: random}\ntraining: {}\nsource: x"),
        "unknown key 'source'",
    ),
    "few users": ("users.parquet", _table(lambda t: t.head(3)), "train.parquet"),
    "few items": ("items.parquet", _table(lambda t: t.head(3)), "train.parquet"),
    "float ids": ("users.parquet", _table(lambda t: t.cast(pl.Float64)), "Float64"),
    "an id twice": ("items.parquet", _table(lambda t: t.with_columns(id=0)), "an id twice"),
    "no id": ("items.parquet", _table(lambda t: t.cast({"id": pl.Int64}) * None), "without an id"),
    "renamed id": ("users.parquet", _table(lambda t: t.rename({"id": "x"})), "columns ['x']"),
    "renamed": ("train.parquet", _table(lambda t: t.rename({"user": "x"})), "no column 'user'"),
    "null": (
        "train.parquet",
        _table(lambda t: t.with_columns(item=pl.lit(None, dtype=pl.Int32))),
        "holds item numbers",
    ),
    "no epochs": ("history.parquet", _table(lambda t: t.head(0)), "has no epoch"),
    "text": (
        "history.parquet",
        _table(lambda t: t.with_columns(seconds=pl.lit("x"))),
        "no column 'seconds'",
    ),
    "no items": (
        "weights.safetensors",
        _weights(lambda w: w.pop("item_embeddings")),
        "has no item_embeddings",
    ),
    "fewer vectors": (
        "weights.safetensors",
        _weights(lambda w: w.update(user_embeddings=w["user_embeddings"][:5].clone())),
        "has user_embeddings of",
    ),
    "shorter vectors": (
        "weights.safetensors",
        _weights(lambda w: w.update(user_embeddings=w["user_embeddings"][:, :5].clone())),
        "differ in length",
    ),
    "huge": ("weights.safetensors", _weights(lambda w: w["item_embeddings"].fill_(3e38)), "finite"),
    "nan": (
        "weights.safetensors",
        _weights(lambda w: w["user_embeddings"].fill_(torch.nan)),
        "no finite score",
    ),
    "infinite dial step": (
        "weights.safetensors",
        _weights(lambda w: w["environment"].fill_(torch.inf)),
        "no finite score",
    ),
    "double": (
        "weights.safetensors",
        _weights(lambda w: w.update(user_embeddings=w["user_embeddings"].double())),
        "float64",
    ),
}


@pytest.mark.parametrize(("name", "damage", "said"), UNFIT.values(), ids=UNFIT)
def test_a_file_that_fits_its_checksum_but_not_the_run(run, name, damage, said):
    damage(run / name)
    edit(run, lambda manifest: manifest["sha256"].update({name: sha256(run / name)}))
    with pytest.raises(RunError, match=re.escape(said)) as caught:
        Recommender.load(run)
    assert str(caught.value).startswith(str(run))
    assert "\n" not in str(caught.value)


def test_a_manifest_nested_deeply(run):
    (run / "manifest.json").write_text('{"schema_version": ' + "[" * 100_000)
    with pytest.raises(RunError, match=r"manifest\.json: is damaged"):
        Recommender.load(run)


# -- beginning and going on --------------------------------------------------------------------


def test_a_finished_run_is_not_trained_over(run, world):
    before = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    with pytest.raises(RunError, match="holds a finished run; choose another directory"):
        recommender().fit(world, run=run)
    assert {entry.name: entry.read_bytes() for entry in run.iterdir()} == before


def test_other_things_are_not_trained_over(tmp_path, world):
    (tmp_path / "notes.txt").write_text("x")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(RunError, match="exists and is not a run directory"):
            recommender().fit(world, run=place)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    recommender().fit(world, run=tmp_path / "empty")
    Recommender.load(tmp_path / "empty")


LEFT = {
    "nothing but a temporary file": (".manifest.json.0123456789abcdef",),
    "the manifest alone": ("manifest.json", ".config.yaml.0123456789abcdef"),
    "a half-written checkpoint": (
        "manifest.json",
        "config.yaml",
        ".checkpoint.safetensors.0123456789abcdef",
    ),
    "everything but the manifest's last word": (
        "manifest.json",
        CHECKPOINT,
        "config.yaml",
        "weights.safetensors",
        ".users.parquet.0123456789abcdef",
    ),
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_killed_at_any_point_it_goes_on_and_leaves_no_rubbish(
    unfinished, kept, world, tmp_path, left
):
    """The states between two writes, in the order in which they are written."""
    place = tmp_path / "killed"
    place.mkdir()
    for name in left:
        source = unfinished / name
        (place / name).write_bytes(source.read_bytes() if source.exists() else b"half")
    model = recommender().fit(world, run=place)
    assert sorted(entry.name for entry in place.iterdir()) == FILES
    assert torch.equal(model.user_embeddings_, Recommender.load(kept).user_embeddings_)


def test_a_run_that_is_replaced_while_it_is_read(run, kept, world, monkeypatch):
    """By a whole other one, at each moment of reading: what is read is of one run."""
    for seed, function in enumerate(("read_manifest", "read_config", "_verified", "load_file")):
        model = Recommender("mf", "random", seed=seed, training={"epochs": 1})
        model.fit(world)
        real = getattr(run_module, function)

        def replaced_first(*arguments, function=function, real=real, model=model):
            monkeypatch.setattr(run_module, function, real)
            model.save(run, overwrite=True)
            return real(*arguments)

        monkeypatch.setattr(run_module, function, replaced_first)
        found = Recommender.load(run)
        assert found.config_ == model.config_
        assert torch.equal(found.item_embeddings_, model.item_embeddings_)


def test_killed_after_the_manifests_last_word(run, unfinished, world):
    """A checkpoint left beside a complete manifest does no harm, and goes."""
    shutil.copy(unfinished / CHECKPOINT, run / CHECKPOINT)
    Recommender.load(run).recommend(world.users[:1])
    with pytest.raises(RunError, match="holds a finished run"):
        recommender().fit(world, run=run)
    assert sorted(entry.name for entry in run.iterdir()) == FILES


def test_a_run_appears_with_its_configuration(world, tmp_path, monkeypatch):
    """So that there is no moment at which it could be neither resumed nor begun again."""
    seen = []
    real = Path.rename

    def rename(self, target):
        seen.append(sorted(entry.name for entry in self.iterdir()))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    recommender().fit(world, run=tmp_path / "new")
    assert seen == [["config.yaml", "manifest.json"]]


def test_one_training_at_a_time(unfinished, kept, world):
    before = {entry.name: entry.read_bytes() for entry in unfinished.iterdir()}
    with locked(unfinished, RunError("held")):
        with pytest.raises(RunError, match="another training is running here"):
            recommender().fit(world, run=unfinished)
        with pytest.raises(RunError, match="another command is writing here"):
            Recommender.load(kept).save(unfinished, overwrite=True)
        assert {entry.name: entry.read_bytes() for entry in unfinished.iterdir()} == before
    recommender().fit(world, run=unfinished)
    Recommender.load(kept).save(unfinished, overwrite=True)


def test_a_full_disk_at_the_end_keeps_the_run_resumable(unfinished, kept, world, full_disk):
    size = (unfinished / CHECKPOINT).stat().st_size
    # The checkpoint fits once more, the weights (which hold more than a share of it) do not.
    weights = (kept / "weights.safetensors").stat().st_size
    assert weights < size
    recommender_ = recommender()
    with pytest.raises(KeyboardInterrupt):
        recommender_.fit(world, run=unfinished, reporter=Stop(3))
    with full_disk(weights - 1), pytest.raises(StorageError, match="disk is full"):
        recommender_.fit(world, run=unfinished)
    assert read_manifest(unfinished).status == "training"
    model = recommender_.fit(world, run=unfinished)
    assert torch.equal(model.user_embeddings_, Recommender.load(kept).user_embeddings_)


def test_save_on_a_full_disk_leaves_what_was_there(kept, run, full_disk):
    model = Recommender.load(kept)
    before = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    with full_disk(5_000), pytest.raises(StorageError, match="disk is full"):
        model.save(run, overwrite=True)
    assert {entry.name: entry.read_bytes() for entry in run.iterdir()} == before
    assert [entry.name for entry in run.parent.iterdir()] == ["run"]
