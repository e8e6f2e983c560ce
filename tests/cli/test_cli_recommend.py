"""``cnsdiff recommend``: lists for some or all users."""

from __future__ import annotations

import polars as pl
import pytest

from cnsdiff import Recommender


@pytest.fixture
def model(run) -> Recommender:
    return Recommender.load(run)


def test_a_table(cli, run, model):
    user = model.users_[0]
    done = cli("recommend", run, "--users", user, "--k", 3)
    assert (done.code, done.err) == (0, "")
    for item in model.recommend([user], 3)["item"]:
        assert f" {item} " in done.out


def test_all_ways_of_naming_users_agree(cli, run, model, tmp_path):
    ids = model.users_.to_list()
    (tmp_path / "users.txt").write_text("\n".join(map(str, ids[:3])) + "\n\n")
    expected = model.recommend(ids[:3], 4).to_dicts()
    by_name = cli("recommend", run, "--users", f"{ids[0]}, {ids[1]},{ids[2]},", "--k", 4, "--json")
    assert by_name.json == expected
    from_file = cli("recommend", run, "--users-from", tmp_path / "users.txt", "--k", 4, "--json")
    assert from_file.json == expected
    everyone = cli("recommend", run, "--all-users", "--k", 4, "--json").json
    assert everyone == model.recommend(model.users_, 4).to_dicts()
    # A product's last bit may depend on how many users are ranked at once.
    for one, other in zip(everyone, expected, strict=False):
        assert one == {**other, "score": pytest.approx(other["score"], rel=1e-5)}


def test_read_at_another_dial(cli, run, model):
    for dial in (-2, 0, 0.5):
        report = cli("recommend", run, "--all-users", "--k", 4, "--dial", dial, "--json").json
        assert report == model.recommend(model.users_, 4, dial=dial).to_dicts()
    assert report != model.recommend(model.users_, 4, dial=-2).to_dicts()
    cli("recommend", run, "--all-users", "--dial", "inf").refused("the dial is inf", "finite")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_out(cli, run, model, tmp_path, suffix):
    out = tmp_path / "lists" / f"top.{suffix}"
    done = cli("recommend", run, "--all-users", "--k", 5, "--out", out)
    assert f"rows to {out}" in " ".join(done.out.split())
    read = pl.read_csv if suffix == "csv" else pl.read_parquet
    table, expected = read(out), model.recommend(model.users_, 5)
    assert table.drop("score").equals(expected.drop("score"))
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]
    report = cli("recommend", run, "--all-users", "--k", 5, "--out", out, "--json").json
    assert report == {"out": str(out), "rows": expected.height}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_full_disk_leaves_the_old_lists(cli, run, tmp_path, untouched, full_disk, suffix):
    out = tmp_path / f"top.{suffix}"
    cli("recommend", run, "--all-users", "--k", 2, "--out", out)
    untouched()
    with full_disk(1000):
        done = cli("recommend", run, "--all-users", "--k", 20, "--out", out)
    done.refused(f"top.{suffix}", "the disk is full", code=1)
    untouched()


def test_unknown_users(cli, run, model):
    user = model.users_[0]
    done = cli("recommend", run, "--users", f"{user},nobody")
    done.refused("1 of 2 users did not occur in training", "'nobody'", "--cold popular")
    cli("recommend", run, "--users", "98765").refused("98765", "--cold popular")
    report = cli("recommend", run, "--users", "nobody", "--cold", "popular", "--k", 2, "--json")
    expected = model.recommend(["nobody"], 2, cold="popular").to_dicts()
    assert report.json == expected
    assert [row["rank"] for row in expected] == [1, 2]


BAD = {
    "nobody asked for": ([], ["--users 1,2,3 or --users-from FILE or --all-users"]),
    "two ways": (["--users", "1", "--all-users"], ["say for whom"]),
    "no ids": (["--users", " , "], ["--users names nobody"]),
    "missing file": (["--users-from", "none.txt"], ["none.txt: cannot be read"]),
    "kind of file": (["--all-users", "--out", "top.xlsx"], ["must end in .parquet or .csv"]),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_refused(cli, run, tmp_path, monkeypatch, untouched, options, words):
    monkeypatch.chdir(tmp_path)
    untouched()
    cli("recommend", run, *options).refused(*words)
    untouched()


def test_files_that_name_nobody(cli, run, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    cli("recommend", run, "--users-from", tmp_path / "empty.txt").refused("holds no user ids")
    cli("recommend", run, "--users-from", tmp_path / "binary.txt").refused("cannot be read as text")


def test_usage(cli, run):
    for options in (["--k", "0"], ["--cold", "best"], ["--k", "many"], ["--nonsense"]):
        done = cli("recommend", run, "--all-users", *options)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert done.out == ""


def test_a_choice_that_is_none_of_the_choices(cli, run):
    said = " ".join(
        cli("recommend", run, "--all-users", "--cold", "foo").err.replace("│", "").split()
    )
    assert "Invalid value for '--cold': must be 'error' or 'popular', not 'foo'" in said


def test_text_ids(cli, tmp_path, fast):
    (tmp_path / "t.txt").write_text("007 a\n007 b\nx c\ny a\ny d\n")
    (tmp_path / "v.txt").write_text("007 c\nx a\n")
    files = ("--train", tmp_path / "t.txt", "--valid", tmp_path / "v.txt")
    cli("prepare", *files, "--out", tmp_path / "d")
    kept = ("--set", "training.refit=false")
    cli("train", tmp_path / "d", "--out", tmp_path / "run", *fast, *kept)
    report = cli("recommend", tmp_path / "run", "--users", "007,x", "--json").json
    assert [row["user"] for row in report] == ["007"] + ["x"] * 2
    assert {row["item"] for row in report} == {"b", "d"}
    everything = ("--users", "007,x", "--seen", "train", "--json")
    report = cli("recommend", tmp_path / "run", *everything).json
    assert [row["user"] for row in report] == ["007"] * 2 + ["x"] * 3
    assert {row["item"] for row in report[:2]} == {"c", "d"}
    cli("recommend", tmp_path / "run", "--users", "7").refused("'7'")


def items_of(report):
    return [row["item"] for row in report]


def test_items_ruled_out_and_chosen_from(cli, run, model, tmp_path):
    user, other = model.users_[:2].to_list()
    everything = items_of(cli("recommend", run, "--users", user, "--k", 9, "--json").json)
    a, b, c, *_ = everything
    lists, each, frame = (tmp_path / name for name in ("items.txt", "each.csv", "each.parquet"))
    lists.write_text(f"item_id\n{a}\n{b}\n")
    each.write_text(f"user_id,item_id\n{user},{a}\n{other},{c}\n")
    pl.read_csv(each).write_parquet(frame)
    ask = ("recommend", run, "--users", user, "--k", 9, "--json")
    assert items_of(cli(*ask, "--exclude", lists).json)[:7] == everything[2:]
    assert sorted(items_of(cli(*ask, "--only", lists).json)) == sorted([a, b])
    for table in (each, frame):
        assert items_of(cli(*ask, "--exclude", table).json)[:8] == everything[1:]
        assert items_of(cli(*ask, "--only", table).json) == [a]
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "unknown.txt").write_text("98765\n")
    ask = ask[:-1]
    cli(*ask, "--only", tmp_path / "none.txt").refused("none.txt", "one a line")
    cli(*ask, "--only", tmp_path / "unknown.txt").refused("1 of 1 items", "98765")
    cli(*ask, "--only", tmp_path / "gone.txt").refused("no such file")


def test_similar(cli, run, model, tmp_path):
    first = model.items_[0]
    expected = model.similar([first], 3).to_dicts()
    assert cli("similar", run, "--items", first, "--k", 3, "--json").json == expected
    (tmp_path / "items.txt").write_text(f"item\n{first}\n")
    by_file = ("similar", run, "--items-from", tmp_path / "items.txt", "--k", 3)
    assert cli(*by_file, "--json").json == expected
    assert f" {expected[0]['similar']} " in cli(*by_file).out
    assert cli(*by_file, "--out", tmp_path / "all.csv").code == 0
    assert pl.read_csv(tmp_path / "all.csv").height == 3
    (tmp_path / "not.txt").write_text(f"{expected[0]['similar']}\n")
    fewer = cli(*by_file, "--exclude", tmp_path / "not.txt", "--json").json
    assert [row["similar"] for row in fewer][:2] == [row["similar"] for row in expected[1:]]
    everyone = cli("similar", run, "--all-items", "--k", 1, "--json").json
    assert [row["item"] for row in everyone] == model.items_.to_list()
    cli("similar", run).refused("--items 1,2,3 or --items-from FILE or --all-items")
    cli("similar", run, "--items", "98765").refused("1 of 1 items", "98765")


def test_files_of_users_as_other_programs_write_them(cli, run, model, tmp_path):
    users = model.users_[:2].to_list()
    expected = model.recommend(users, 2).to_dicts()
    files = {
        "mark.txt": b"\xef\xbb\xbf%d\r\n%d\r\n" % tuple(users),
        "header.csv": b"user_id\n%d\n%d\n" % tuple(users),
        "floats.txt": b"%d.0\n%d.0\n" % tuple(users),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        ask = ("recommend", run, "--users-from", tmp_path / name, "--k", 2, "--json")
        assert cli(*ask).json == expected, name
        # A mark or a header that stayed would be a user of its own here.
        assert cli(*ask, "--cold", "popular").json == expected, name
