"""``cnsdiff prepare``: a log or splits in, a dataset directory out, or one sentence why not."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnsdiff import catalogue, load_dataset
from cnsdiff.base.errors import CnsdiffWarning
from cnsdiff.data import SPLITS
from cnsdiff.testing import tiny_source

TRAIN = "u1 a 5 100\nu1 b 3 101\nu2 a 1 102\nu2 c 4 103\nu3 b 5 104\nu3 b 5 105\n"
VALID = "u1 c 5 200\nu9 a 5 201\n"
OOD = "u2 b 5 300\nu1 a 5 301\n"


@pytest.fixture
def files(tmp_path):
    for name, text in (("train", TRAIN), ("valid", VALID), ("ood", OOD)):
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def arguments(folder, *more):
    return (
        "prepare",
        "--train", folder / "train.txt",
        "--valid", folder / "valid.txt",
        "--test-ood", folder / "ood.txt",
        "--out", folder / "data",
        *more,
    )  # fmt: skip


def test_files_become_a_dataset(cli, files):
    done = cli(*arguments(files, "--name", "tiny", "--licence", "mine"))
    assert (done.code, done.err) == (0, "")
    assert "tiny: 3 users, 3 items" in done.out
    assert "there is no test_iid split" not in done.out
    assert f"cnsdiff train {files / 'data'} --out runs/data" in done.out
    for column in ("duplicates", "also in train", "unknown to train"):
        assert column in " ".join(done.out.split())
    dataset = load_dataset(files / "data")
    assert dataset.name == "tiny"
    assert [len(dataset.split(name)) for name in dataset.split_names] == [5, 1, 1]
    assert dataset.manifest.source["licence"] == "mine"
    counts = dataset.manifest.splits
    assert counts["valid"].dropped_unknown == 1
    assert counts["test_ood"].overlap_train == 1


def test_json(cli, files):
    report = cli(*arguments(files, "--json")).json
    assert report["path"] == str(files / "data")
    manifest = json.loads((files / "data" / "manifest.json").read_text())
    assert {key: value for key, value in report.items() if key != "path"} == manifest


def test_a_threshold_drops_users_without_positives_and_counts_them(cli, files):
    options = ("--threshold", 5, "--json")
    report = cli("prepare", "--train", files / "train.txt", "--out", files / "d", *options).json
    train = report["splits"]["train"]
    assert (train["rows"], train["below_threshold"]) == (2, 3)
    assert train["users_without_positives"] == 1


def test_missing_splits_are_noted(cli, files):
    done = cli("prepare", "--train", files / "train.txt", "--out", files / "data")
    assert done.code == 0
    assert "no valid split (--valid FILE)" in " ".join(done.out.split())
    assert "no test_ood split (--test-ood FILE)" in " ".join(done.out.split())


def test_malformed_lines_can_be_skipped_and_are_counted(cli, files):
    (files / "train.txt").write_text("0\nu9\n" + TRAIN)
    cli(*arguments(files)).refused("train.txt, line 1:", "--skip-bad")
    assert not (files / "data").exists()
    done = cli(*arguments(files, "--skip-bad"))
    assert "malformed" in done.out
    manifest = load_dataset(files / "data").manifest
    assert manifest.splits["train"].skipped == 2
    problems = manifest.source["problems"]["train"]
    assert sum(problem["rows"] for problem in problems) == 2
    first = problems[0]
    assert f"note: train.txt: left out {first['rows']} rows with {first['reason']}" in done.out
    assert f"first in {first['place']}: {first['example']!r}" in done.out


def test_the_delimiter_can_be_named(cli, tmp_path):
    log = "".join(f"{n % 7},0;{n % 10 + 1}\n" for n in range(70))
    (tmp_path / "log.txt").write_text(log)
    call = ("prepare", tmp_path / "log.txt", "--scenario", "popularity", "--out", tmp_path / "d")
    cli(*call).refused("log.txt, line 1", "both divide every line", "--delimiter")
    assert cli(*call, "--delimiter", "semicolon").code == 0
    assert "0,0" in load_dataset(tmp_path / "d").users.to_list()
    cli(*call, "--delimiter", "x").refused("delimiter 'x' cannot separate fields")


BAD = {
    "empty file": ({"train.txt": ""}, (), ["train.txt", "empty"]),
    "only blank lines": ({"train.txt": "\n\n"}, (), ["train.txt"]),
    "malformed line": ({"train.txt": TRAIN + "lonely\n"}, (), ["train.txt, line 7:"]),
    "rating": ({"train.txt": TRAIN + "u1 d bad 5\n"}, (), ["train.txt, line 7", "bad"]),
    "timestamp": ({"train.txt": TRAIN + "u1 d 5 soon\n"}, (), ["train.txt, line 7", "soon"]),
    "missing file": ({"train.txt": None}, (), ["train.txt"]),
    "unknown pairs": ({"ood.txt": "x y 5 1\n"}, (), ["ood.txt", "none of its 1 pairs"]),
    "no positives": ({}, ("--threshold", 9), ["train.txt", "9"]),
    "no positives in valid": ({"valid.txt": "u1 c 1 1\n"}, ("--threshold", 5), ["valid.txt"]),
    "k-core": ({}, ("--user-core", 50), ["--threshold or the k-core"]),
    "format": ({}, ("--format", "exel"), ["exel"]),
    "missing column": (
        {"train.txt": "user,thing\n1,2\n"},
        ("--user-col", "user", "--item-col", "item"),
        ["train.txt", "'item'", "thing"],
    ),
    "web page": ({"train.txt": "<!DOCTYPE html>\n<html></html>\n"}, (), ["train.txt"]),
}


@pytest.mark.parametrize(("contents", "options", "words"), BAD.values(), ids=BAD)
def test_bad_input_writes_nothing(cli, files, untouched, contents, options, words):
    for name, text in contents.items():
        if text is None:
            (files / name).unlink()
        else:
            (files / name).write_text(text)
    untouched()
    cli(*arguments(files, *options)).refused(*words)
    untouched()


def test_what_exists_is_replaced_only_when_told(cli, files, untouched):
    cli(*arguments(files))
    (files / "train.txt").write_text("u1 a\nu2 c\n")
    (files / "valid.txt").write_text("u1 c\n")
    (files / "ood.txt").write_text("u2 a\n")
    untouched()
    cli(*arguments(files)).refused("already exists", "--overwrite")
    untouched()
    assert cli(*arguments(files, "--overwrite")).code == 0
    assert load_dataset(files / "data").n_users == 2


def test_overwrite_spares_what_is_no_dataset(cli, files, untouched):
    (files / "data").mkdir()
    (files / "data" / "thesis.tex").write_text("years of work")
    untouched()
    cli(*arguments(files, "--overwrite")).refused("no dataset")
    untouched()


def test_a_full_disk(cli, files, untouched, full_disk):
    cli(*arguments(files))
    untouched()
    with full_disk(200):
        done = cli(*arguments(files, "--overwrite"))
    done.refused("the disk is full", "untouched", "free some space", code=1)
    untouched()
    load_dataset(files / "data").split("train")


# -- a log divided by a scenario -----------------------------------------------------------------


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """``shop.csv`` (ratings and times), ``random.csv`` and ``users.csv``; the place to run in."""
    monkeypatch.chdir(tmp_path)
    source = tiny_source()
    for table, name in (("log", "shop.csv"), ("randomised", "random.csv")):
        source.tables[table].frame.write_csv(tmp_path / name)
    source.features["user_features"].write_csv(tmp_path / "users.csv")
    return tmp_path


DIVIDED = {
    "popularity": (),
    "temporal": ("--set", "quantile=0.7", "--set", "gap=3d"),
    "temporal at a date": ("--scenario", "temporal", "--set", "at=2020-10-01"),
    "exposure": ("--randomised", "random.csv", "--threshold", 4),
    "hybrid": ("--set", "second.strength=2", "--set", "first.quantile=0.7"),
    "user-group": (
        "--user-features",
        "users.csv",
        "--set",
        "attribute=age",
        "--set",
        "range=[20,30]",
    ),
    "user-group by cluster": ("--scenario", "user-group", "--strength", 0.5),
    "noise": ("--strength", 0.3, "--set", "kind=drop"),
}


@pytest.mark.parametrize("case", DIVIDED)
def test_a_log_becomes_a_dataset(cli, shop, case):
    scenario = case.split()[0]
    options = DIVIDED[case]
    if "--scenario" not in options:
        options = ("--scenario", scenario, *options)
    done = cli("prepare", "shop.csv", *options, "--seed", 3)
    assert (done.code, done.err) == (0, "")
    assert f"shop-{scenario}: " in done.out
    assert f"Wrote shop-{scenario}\nNext:\n  cnsdiff data describe shop-{scenario} " in done.out
    assert f"cnsdiff train shop-{scenario} --out runs/shop-{scenario}" in done.out
    assert re.search(r"rows read +│ 1,200 │", done.out)
    if scenario in ("temporal", "hybrid"):
        (line,) = [line for line in done.out.splitlines() if line.startswith("log: ")]
        assert re.search(r"(: |, )cut at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", line)
        assert line.count("cut") == 1
        assert {"cut", "cut_utc"} <= load_dataset(shop / f"shop-{scenario}").manifest.log.keys()
    dataset = load_dataset(shop / f"shop-{scenario}")
    assert dataset.split_names == SPLITS
    assert dataset.scenario == scenario
    assert dataset.manifest.settings["seed"] == 3
    assert dataset.manifest.source["files"]["log"] == "shop.csv"


@pytest.mark.parametrize("scenario", ["temporal", "hybrid"])
def test_several_cuts_are_a_dataset_each(cli, shop, scenario):
    ask = ("prepare", "shop.csv", "--scenario", scenario, "--horizon", "30d", "--cuts", 3)
    done = cli(*ask)
    assert (done.code, done.err) == (0, "")
    made = [load_dataset(shop / f"shop-{scenario}" / f"cut-{number}") for number in (1, 2, 3)]
    assert [dataset.name for dataset in made] == [f"shop-{scenario}-cut-{n}" for n in (1, 2, 3)]
    found = [dataset.manifest.log for dataset in made]
    assert [log["end"] - log["cut"] for log in found] == [30 * 86_400] * 3
    assert [log["cut"] for log in found[1:]] == [log["end"] for log in found[:-1]]
    assert done.out.count("\nlog: ") == 3
    assert len(re.findall(r"rows read +│ 1,200 │", done.out)) == 1
    assert f"Wrote shop-{scenario}/cut-3\nNext:\n" in done.out
    # The last of them is the scenario's own.
    assert cli(*ask[:-2], "--out", shop / "one").code == 0
    assert load_dataset(shop / "one").fingerprint == made[-1].fingerprint


def test_several_cuts_appear_whole_or_not_at_all(cli, shop, untouched):
    ask = ("prepare", "shop.csv", "--scenario", "temporal", "--out", shop / "d", "--cuts")
    report = cli(*ask, 2, "--json").json
    assert [cut["path"] for cut in report["cuts"]] == [str(shop / "d" / f"cut-{n}") for n in (1, 2)]
    untouched()
    cli(*ask, 2).refused("already exists", "--overwrite")
    cli(*ask, 9, "--overwrite").refused("no cut lies 8 horizons")
    untouched()
    assert cli(*ask, 2, "--overwrite").code == 0
    (shop / "d" / "notes.txt").write_text("mine")
    cli(*ask, 2, "--overwrite").refused("holds 'notes.txt' beside its cuts")


def test_the_dataset_is_called_after_its_directory(cli, shop):
    for options, name in (((), "exposed"), (("--name", "mine"), "mine")):
        out = shop / "data" / "exposed"
        done = cli("prepare", "shop.csv", "--scenario", "noise", "--out", out, *options,
                   "--overwrite")  # fmt: skip
        assert done.code == 0, done.err
        assert load_dataset(out).name == name


def test_labels_in_ready_splits_are_mentioned(cli, tmp_path):
    for name, pairs in {"train": "1,1,1\n1,2,0\n2,2,1\n2,3,0\n", "ood": "1,3,0\n2,1,1\n"}.items():
        (tmp_path / f"{name}.csv").write_text("user_id,item_id,label\n" + pairs)
    ready = ("prepare", "--train", tmp_path / "train.csv", "--test-ood", tmp_path / "ood.csv")
    done = cli(*ready, "--out", tmp_path / "d")
    assert "note: train, test_ood have ratings, and without --threshold each of them" in done.out
    done = cli(*ready, "--out", tmp_path / "e", "--threshold", 1)
    assert done.code == 0, done.err
    assert "have ratings" not in done.out


def test_ratings_that_nobody_asked_for_are_mentioned(cli, shop):
    done = cli("prepare", "shop.csv", "--scenario", "noise")
    assert "note: the log has ratings, and without --threshold each of them counts" in done.out
    assert "835 ratings ignored" in done.out
    for options in (("--threshold", 1), ("--rating-col", "none")):
        done = cli("prepare", "shop.csv", "--scenario", "noise", "--overwrite", *options)
        assert "ratings" not in done.out


def test_settings_arrive(cli, shop):
    rows = "".join(f"i{number},3\n" for number in range(40))
    (shop / "items.csv").write_text("item,price\n" + rows)
    manifest = cli(
        *("prepare", "shop.csv", "--scenario", "popularity", "--strength", 2, "--json"),
        *("--set", "ood_share=0.05", "--set", "valid_share=0.2", "--name", "s", "--out", "here"),
        *("--threshold", 2, "--period-col", "period", "--item-features", "items.csv"),
    ).json
    settings = manifest["settings"]
    assert (settings["strength"], settings["ood_share"], settings["valid_share"]) == (2, 0.05, 0.2)
    assert (manifest["name"], manifest["path"], settings["threshold"]) == ("s", "here", 2)
    assert sorted(manifest["environments"]) == ["app", "web"]
    assert manifest["tables"] == ["item_features"]


def test_the_same_seed_gives_the_same_dataset(cli, shop):
    prints = [
        cli(
            "prepare", "shop.csv", "--scenario", "noise", "--seed", seed, "--out", out, "--json"
        ).json["fingerprint"]
        for seed, out in ((1, "a"), (1, "b"), (2, "c"))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_fetched_data_set(cli, shop, monkeypatch):
    source = replace(tiny_source(), name="ml-100k", provenance={"threshold": 4.0})
    monkeypatch.setattr(catalogue, "load", lambda name: source)
    done = cli("prepare", "ml-100k", "--scenario", "popularity")
    assert "ratings of 4 and more count as positive, as usual for ml-100k" in done.out
    assert load_dataset(shop / "ml-100k-popularity").manifest.settings["threshold"] == 4
    quiet = cli("prepare", "ml-100k", "--scenario", "temporal", "--threshold", 2)
    assert "as usual" not in quiet.out


LINES = [f"u{u},i{i},5,{1_500_000_000 + 86400 * (u + i)}" for u in range(9) for i in range(9)]
HEAD = "user,item,rating,timestamp"


def log_of(lines, head=HEAD):
    return "\n".join([head, *lines]) + "\n"


def each(change):
    return log_of([",".join(change(*line.split(","))) for line in LINES])


def test_units_and_ids_are_read_as_the_options_say(cli, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(each(lambda u, i, r, t: (u.replace("u0", "NA"), i, r, t + "000")))
    ask = ("prepare", log, "--scenario", "temporal", "--literal-ids", "--out", tmp_path / "d")
    told = "'timestamp' are taken for milliseconds since 1970, 2017-07-14 to 2017-07-30"
    with pytest.warns(CnsdiffWarning, match=told):
        done = cli(*ask)
    assert done.code == 0, done.err
    made = load_dataset(tmp_path / "d")
    assert "NA" in made.users
    assert made.split("train").timestamps.max() < 1.6e9
    again = cli(*ask, "--overwrite", "--time-unit", "ms")
    assert (again.code, again.err) == (0, "")
    assert load_dataset(tmp_path / "d").fingerprint == made.fingerprint
    with pytest.warns(CnsdiffWarning):
        done = cli("prepare", log, "--scenario", "temporal")
    done.refused("line 2", "'NA'", "missing user")


REFUSED = {
    "no timestamps": (
        log_of([line.rpartition(",")[0] for line in LINES], "user,item,rating"),
        ("temporal",),
        ["log.csv: has no timestamps", "--timestamp-col"],
    ),
    "timestamps left out": (
        log_of(LINES),
        ("temporal", "--timestamp-col", "none"),
        ["log.csv: has no timestamps"],
    ),
    "one user": (
        each(lambda u, i, r, t: ("u1", f"{u}{i}", r, t)),
        ("popularity",),
        ["log.csv: has 1 user, and a scenario"],
    ),
    "one item": (
        each(lambda u, i, r, t: (f"{u}{i}", "i1", r, t)),
        ("user-group",),
        ["log.csv: has 1 item, and a scenario"],
    ),
    "all ratings below the threshold": (
        log_of(LINES),
        ("popularity", "--threshold", 6),
        ["log.csv: no rating reaches the threshold 6", "the highest is 5"],
    ),
    "no ratings for the threshold": (
        log_of([f"{u},{i}" for u in range(9) for i in range(9)], "user,item"),
        ("popularity", "--threshold", 4),
        ["log.csv: the threshold 4 needs ratings"],
    ),
    "a strength that leaves the OOD test empty": (
        log_of(LINES),
        ("user-group", "--strength", 0.01),
        ["log.csv: the scenario user-group leaves none of the 81 rows for test_ood", "strength"],
    ),
    "a strength that leaves nothing to train on": (
        log_of(LINES),
        ("noise", "--strength", 0.99),
        ["log.csv: only ", "strength 0.99 asks for", "lower strength"],
    ),
    "a cut before everything": (
        log_of(LINES),
        ("temporal", "--set", "at=2001-01-01"),
        ["log.csv: no row lies before the cut at 2001-01-01", "change at, quantile or gap"],
    ),
    "a gap over everything": (
        log_of(LINES),
        ("temporal", "--set", "gap=90d"),
        ["log.csv: no row lies after the cut and its gap"],
    ),
    "too small for valid": (
        log_of(LINES[:4] + LINES[9:13]),
        ("popularity", "--set", "valid_share=0.01"),
        ["log.csv: valid_share 0.01 of", "raise it"],
    ),
    "too small a log for its shares": (
        log_of(LINES[:3] + LINES[9:12]),
        ("noise", "--set", "ood_share=0.9"),
        ["log.csv: only ", "--user-core"],
    ),
    "future dates": (
        each(lambda u, i, r, t: (u, i, r, "2999-01-01")),
        ("temporal",),
        ["log.csv: 81 of 81 timestamps lie in the future", "2999-01-01"],
    ),
    "seconds said to be days": (
        each(lambda u, i, r, t: (u, i, r, t)),
        ("temporal", "--time-unit", "days"),
        ["log.csv, line 2, column 'timestamp'", "no time of the years 1 to 9999", "--time-unit"],
    ),
    "no unit": (
        log_of(LINES),
        ("popularity", "--time-unit", "msec"),
        ["unknown time unit 'msec' (did you mean 'ms'?)", "auto, s, ms, us, ns, days"],
    ),
    "mixed time zones": (
        each(lambda u, i, r, t: (u, i, r, "2020-01-01T00:00:00" + ("Z" if u == "u8" else ""))),
        ("temporal",),
        ["log.csv, line 74, column 'timestamp'", "zone"],
    ),
    "NaN ratings": (
        each(lambda u, i, r, t: (u, i, "nan" if (u, i) == ("u0", "i2") else r, t)),
        ("popularity", "--threshold", 4),
        ["log.csv, line 4, column 'rating': 'nan' is not a number", "--skip-bad"],
    ),
    "no randomised table": (
        log_of(LINES),
        ("exposure", "--threshold", 4),
        ["'randomised'", "--randomised"],
    ),
    "no features": (
        log_of(LINES),
        ("user-group", "--set", "attribute=age", "--set", "value=3"),
        ["log.csv: nothing is known of its users", "--user-features"],
    ),
    "unknown scenario": (log_of(LINES), ("populrity",), ["did you mean 'popularity'"]),
    "unknown setting": (
        log_of(LINES),
        ("popularity", "--set", "strenth=1"),
        ["unknown setting 'strenth' (did you mean 'strength'?)"],
    ),
    "a setting that is an option of the reader": (
        log_of(LINES),
        ("popularity", "--set", "skip_bad=true"),
        ["unknown setting 'skip_bad'"],
    ),
    "not key=value": (log_of(LINES), ("popularity", "--set", "strength"), ["key=value"]),
    "strength twice": (
        log_of(LINES),
        ("popularity", "--set", "strength=1", "--strength", 1),
        ["--strength and --set strength="],
    ),
    "horizon twice": (
        log_of(LINES),
        ("hybrid", "--set", "first.horizon=3d", "--horizon", "30d"),
        ["--horizon and --set horizon="],
    ),
    "no cut in time": (
        log_of(LINES),
        ("popularity", "--cuts", 2),
        ["several cuts are of a scenario that cuts in time", "not popularity"],
    ),
    "cut back twice": (
        log_of(LINES),
        ("temporal", "--cuts", 2, "--set", "back=1"),
        ["told apart by their 'back'"],
    ),
    "no strength to set": (
        log_of(LINES),
        ("temporal", "--strength", 1),
        ["temporal: unknown setting 'strength'"],
    ),
    "given": (log_of(LINES), ("given",), ["name a scenario that divides it"]),
}


@pytest.mark.parametrize(("text", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_a_log_that_cannot_be_divided(cli, tmp_path, untouched, text, options, words):
    (tmp_path / "log.csv").write_text(text)
    untouched()
    done = cli("prepare", tmp_path / "log.csv", "--scenario", *options, "--out", tmp_path / "data")
    done.refused(*words)
    untouched()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["LOG with --scenario NAME", "--train FILE"]),
        (("--scenario", "popularity"), ["LOG with --scenario NAME"]),
        (("log.csv",), ["log.csv: name a scenario", "popularity, temporal"]),
        (("log.csv", "--scenario", "noise", "--test-ood", "x"), ["--test-ood gives a ready one"]),
        (("--train", "x", "--scenario", "noise"), ["--scenario noise divides one log"]),
        (("--train", "x", "--strength", 1), ["--strength is for a scenario"]),
        (("--train", "x", "--set", "a=1"), ["--set is for a scenario"]),
        (("--train", "x", "--cuts", 2), ["--cuts is for a scenario"]),
        (("logg.csv", "--scenario", "noise"), ["logg.csv: no such file", "did you mean 'log.csv'"]),
    ],
)
def test_the_two_forms(cli, tmp_path, untouched, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(log_of(LINES))
    untouched()
    cli("prepare", *arguments).refused(*words)
    untouched()


def test_ready_splits_may_be_called_by_their_scenario(cli, files):
    assert cli(*arguments(files, "--scenario", "given")).code == 0
    report = cli("prepare", "--train", files / "train.txt", "--out", files / "e", "--json").json
    assert report["scenario"] == "given"


@pytest.mark.parametrize("held_out", [(), ("valid",), ("test-ood",), ("valid", "test-iid")])
def test_what_is_advised_next_works(cli, tmp_path, monkeypatch, held_out):
    monkeypatch.chdir(tmp_path)
    rows = [f"u{n % 30},i{n // 30}" for n in np.random.default_rng(0).permutation(600)]
    for split, count in {"train": 400, **dict.fromkeys(held_out, 60)}.items():
        Path(f"{split}.csv").write_text("\n".join(["user,item", *rows[:count]]))
        rows = rows[count:]
    files = [word for split in ("train", *held_out) for word in (f"--{split}", f"{split}.csv")]
    todo = [["prepare", *files, "--out", "data"]]
    done = []
    while todo:
        words = todo.pop(0)
        quick = ("--set", "training.epochs=1") if words[0] == "train" else ()
        outcome = cli(*words, *quick)
        assert outcome.code == 0, (words, outcome.err)
        done.append(words[0])
        for line in outcome.out.partition("Next:\n")[2].splitlines():
            command = shlex.split(line.partition("  #")[0])[1:]
            if command and command not in todo:
                todo.append(command)
        todo = [command for command in todo if command[0] not in done]
    assert {"prepare", "data", "train", "recommend"} <= set(done)


CLICKS = "user,item,kind\n" + "".join(
    f"u{n % 40},i{n * 7 % 31},{'buy' if n % 5 == 0 else 'view'}\n" for n in range(600)
) + "".join(f"bot,i{n % 31},view\n" for n in range(600))  # fmt: skip


def test_events_weigh_and_heavy_users_go(cli, tmp_path):
    (tmp_path / "clicks.csv").write_text(CLICKS)
    call = ("prepare", tmp_path / "clicks.csv", "--scenario", "popularity", "--event-col", "kind")
    done = cli(*call, "--out", tmp_path / "plain")
    assert "One user of 41 made 50% of the rows ('bot' 600" in done.out
    assert "holds the events 'view' (1,080), 'buy' (120), and all count alike" in done.out
    asked = ("--events", "buy=1,view=.25", "--max-per-user", 20, "--out", tmp_path / "d")
    done = cli(*call, *asked)
    assert done.code == 0
    assert "note: " not in done.out
    assert re.search(r"1 user with more than 20 pairs +│ +-31", done.out)
    dataset, plain = load_dataset(tmp_path / "d"), load_dataset(tmp_path / "plain")
    assert set(dataset.split("train").weights) == {0.25, 1.0}
    assert "bot" not in dataset.users.to_list()
    assert plain.split("train").weights is None
    assert dataset.manifest.settings["max_per_user"] == 20
    assert dataset.manifest.log["of_heavy_users"] == 31
    assert [step.name for step in dataset.manifest.funnel] == [
        *("read", "readable", "events", "pairs", "light"),
    ]
    for events, words in (
        ("bye", ("no event 'bye'", "did you mean 'buy'")),
        ("buy,buy", ("names 'buy' twice",)),
        ("buy=much", ("'much' is no weight of 'buy'",)),
        ("buy=0", ("--events gives no event a weight above 0",)),
    ):
        cli(*call, "--events", events, "--out", tmp_path / "x").refused(*words)
    cli(*call[:-2], "--events", "buy", "--out", tmp_path / "x").refused(
        "clicks.csv: no column is known to hold types of events",
        "'user', 'item', 'kind'",
        "--event-col",
    )


def test_ready_splits_may_have_events_and_heavy_users(cli, tmp_path):
    (tmp_path / "train.csv").write_text(CLICKS)
    (tmp_path / "valid.csv").write_text("user,item,kind\nu1,i1,buy\nu2,i5,view\nu3,i9,buy\n")
    call = ("prepare", "--train", tmp_path / "train.csv", "--valid", tmp_path / "valid.csv")
    asked = ("--event-col", "kind", "--events", "buy=2,view=1", "--max-per-user", 20)
    done = cli(*call, *asked, "--out", tmp_path / "d")
    assert done.code == 0, done.err
    assert "of heavy users" in " ".join(done.out.split())
    dataset = load_dataset(tmp_path / "d")
    assert dataset.manifest.splits["train"].model_dump()["of_heavy_users"] == 31
    assert set(dataset.split("valid").weights) <= {1.0, 2.0}


def test_several_files_of_item_features(cli, files, monkeypatch):
    monkeypatch.chdir(files)
    Path("items.csv").write_text("item,brand\na,x\nb,y\nc,x\n")
    Path("notes.csv").write_text("item,stars\nc,3\na,1\nb,2\n")
    Path("a=b").mkdir()
    for name in ("image.npy", "a=b/deep.npy"):
        np.save(name, np.eye(3))
    give = [("--item-features", file) for file in ("items.csv", "n=notes.csv", "image.npy")]
    done = cli(*arguments(files), *sum(give, ()), "--item-features", "a=b/deep.npy")
    assert (done.code, done.err) == (0, "")
    table = load_dataset(files / "data").table("item_features")
    assert table.columns == ["brand", "n.stars", "image", "deep"]
    assert table["n.stars"].to_list() == [1, 2, 3]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("=items.csv",), "=items.csv: write it as FILE or NAME=FILE"),
        (("items.csv", "image="), "image=: write it as FILE or NAME=FILE"),
        (("x=items.csv", "x=b.csv"), "x=b.csv: there is a table 'x' already; give it another name"),
        (("items.csv", "x=b.csv", "x.npy"), "x.npy: there is a table 'x' already"),
    ],
)
def test_features_that_are_named_wrongly(cli, files, texts, words):
    given = sum((("--item-features", text) for text in texts), ())
    done = cli(*arguments(files), *given)
    assert done.code == 2
    assert f"--item-features {words}" in done.err
    assert not (files / "data").exists()
