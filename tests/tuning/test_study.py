"""A study as a file, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from cnsdiff.base.errors import RunError
from cnsdiff.base.search_space import Space
from cnsdiff.tuning import Study, read_study
from cnsdiff.tuning.study import Importances, Share, Trial, best_trial, next_commands

CONFIG = {"seed": 0, "training": {"lr": 0.002}, "backbone": {"dim": 64}}
SPACES = {
    "backbone.dim": Space(choices=(32, 64, None)),
    "training.lr": Space(low=0.001, high=0.1, log=True),
}


def trial(number: int, value: float | None, state="completed", lr=0.01, **more) -> Trial:
    setting = {"backbone.dim": 64, "training.lr": lr}
    curve = () if value is None else ((1, value / 2), (2, value))
    course = {"value": value, "best_epoch": 2, "epochs": 2, "curve": curve}
    return Trial(number=number, state=state, setting=setting, **course, **more)


def study(*trials: Trial, importances: Importances | None = None) -> Study:
    dataset = {"name": "shop", "scenario": "temporal", "path": "/data/my shop", "fingerprint": "f"}
    return Study(
        dataset=dataset,
        objective="ndcg@20",
        config=CONFIG,
        searched=SPACES,
        left_out=("objective.l2 is fixed",),
        asked=20,
        pruning=True,
        trials=trials,
        importances=importances,
    )


SHARES = {
    "training.lr": Share(share=0.61, low=0.4, high=0.8),
    "backbone.dim": Share(share=0.39, low=0.1, high=0.5),
}
FOUND = Importances(shares=SHARES, n_trials=9, leader="training.lr")


def test_a_file_holds_all_of_it(tmp_path):
    trials = (
        trial(0, 0.25, dial=0.5, seconds=1.5),
        trial(1, 0.2, "pruned"),
        trial(2, None, "failed", error="a loss became NaN"),
        trial(3, 0.25, same_as=0),
    )
    for written in (study(*trials, importances=FOUND), study()):
        written.write(tmp_path)
        assert read_study(tmp_path) == written
    study(*trials).write(tmp_path)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["best"] == {"trial": 0, "value": 0.25}
    assert record["verdict"] == study(*trials).verdict()


def test_the_best_of_equal_ones_is_the_first():
    assert best_trial([trial(0, 0.1), trial(1, 0.3), trial(2, 0.3), trial(3, 0.4, "pruned")]) == (
        trial(1, 0.3)
    )
    assert best_trial([trial(0, 0.4, "pruned"), trial(1, None, "failed")]) is None


@pytest.mark.parametrize(
    ("trials", "importances", "said"),
    [
        ((), None, "No setting has been tried yet."),
        ((trial(0, None, "failed"),), None, "None of 1 setting could be trained to its end."),
        (
            (trial(0, 0.25),),
            None,
            "The configuration as given reaches ndcg@20 0.2500 on validation; nothing else was "
            "tried.",
        ),
        (
            (trial(0, 0.25), trial(1, 0.2), trial(2, None, "failed")),
            FOUND,
            "The configuration as given reaches ndcg@20 0.2500 on validation, and none of 2 "
            "settings is better.",
        ),
        (
            (trial(0, 0.25), trial(1, 0.3)),
            FOUND,
            "The best of 2 settings reaches ndcg@20 0.3000 on validation, 20.0% over the "
            "configuration as given; training.lr accounts for 61% of the differences.",
        ),
        (
            (trial(0, None, "failed"), trial(1, 0.3)),
            FOUND.model_copy(update={"leader": None}),
            "The best of 2 settings reaches ndcg@20 0.3000 on validation.",
        ),
    ],
)
def test_verdicts(trials, importances, said):
    assert study(*trials, importances=importances).verdict() == said


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (0.095, {"training.lr": Space(low=0.001, high=0.4, log=True)}),
        (0.00105, {"training.lr": Space(low=0.00025, high=0.1, log=True)}),
        (0.01, {}),
    ],
)
def test_near_an_end_it_says_where_to_look_on(lr, expected):
    assert study(trial(0, 0.1), trial(1, 0.3, lr=lr)).wider() == expected
    assert study(trial(0, 0.3, lr=lr), trial(1, 0.1)).wider() == {}, "the best is as given"


def test_whole_numbers_stay_whole_and_above_zero():
    spaces = {"n": Space(low=2, high=64, integer=True, log=True)}

    def best(n: int) -> dict[str, Space]:
        tried = tuple(
            Trial(number=at, state="completed", setting={"n": size}, value=0.1 + at)
            for at, size in enumerate((8, n))
        )
        return study().model_copy(update={"trials": tried, "searched": spaces}).wider()

    assert best(64) == {"n": Space(low=2, high=256, integer=True, log=True)}
    assert best(2) == {"n": Space(low=1, high=64, integer=True, log=True)}
    spaces = {"n": Space(low=1, high=64, integer=True, log=True)}
    assert best(1) == {}


def test_the_table_of_trials():
    table = study(trial(0, 0.25), trial(1, None, "failed", error="no", lr=0.002)).table()
    assert table.columns == [
        *("trial", "state", "value", "best_epoch", "epochs", "dial", "seconds", "error"),
        *("backbone.dim", "training.lr"),
    ]
    assert table["training.lr"].to_list() == [0.01, 0.002]
    assert table["backbone.dim"].dtype == pl.Int64
    assert table["value"].to_list() == [0.25, None]
    mixed = study().model_copy(update={"searched": {"x": Space(choices=(1, "a", None))}})
    tried = tuple(
        Trial(number=n, state="failed", setting={"x": x}) for n, x in enumerate((1, "a", None))
    )
    assert mixed.with_trials(tried).table()["x"].to_list() == ["1", "a", None]
    assert study().table().height == 0


def test_commands_to_go_on_with_can_be_pasted():
    commands = list(map(str, next_commands(study(), Path("my study"))))
    assert commands[0] == "cnsdiff evaluate 'my study/best' --references"
    assert "train '/data/my shop' --config 'my study/best.yaml'" in commands[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no study"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema_version": 9}', "schema version 9, and this cnsdiff reads 1"),
        ('{"schema_version": 1}', "is damaged"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, words):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunError, match=words):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("config",), {}, "config has no seed"),
        (("config",), {"seed": 1}, "config has no 'backbone.dim', which was searched"),
        (("config",), [], "config: "),
        (("dataset", "name"), None, "dataset.name: "),
        (("objective",), 7, "objective: "),
        (("asked",), "5", "asked: "),
        (("searched", "training.lr"), {"low": 2, "high": 1}, "searched.training.lr: "),
        (("trials", 0, "state"), "x", "trials.0.state: "),
        (("trials", 0, "value"), None, "trials.0: completed, but has no value"),
        (("trials", 0, "value"), float("nan"), "trials.0.value: "),
        (("trials", 0, "setting"), {}, "trials.0.setting has no "),
        (("trials", 0, "setting", "training.lr"), [], "trials.0.setting.training.lr"),
        (("trials", 0, "curve"), [[1]], "trials.0.curve.0.1: "),
        (("importances",), {"shares": {}, "n_trials": 3, "leader": "x"}, "importances: leader"),
        (
            ("importances",),
            {"shares": {}, "n_trials": 3, "leader": None},
            "importances do not match",
        ),
    ],
)
def test_an_edited_study_is_refused_with_the_field(tmp_path, path, value, words):
    study(trial(0, 0.25)).write(tmp_path)
    record = json.loads((tmp_path / "study.json").read_text())
    parent = record
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"study\.json: is damaged") as caught:
        read_study(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trial_with_a_strange_key_is_damage(tmp_path):
    study(trial(0, 0.25)).write(tmp_path)
    record = json.loads((tmp_path / "study.json").read_text())
    record["trials"][0]["colour"] = "red"
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match="is damaged"):
        read_study(tmp_path)
