"""A whole audit: results, going on after Ctrl-C, other settings, recommenders of one's own."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from audit_parts import log_frame, options
from scipy.sparse import csr_array

from cnsdiff import Recommender
from cnsdiff.audit import audit as audit_module
from cnsdiff.audit import findings, training
from cnsdiff.audit.advice import advice, reading_options, train_command
from cnsdiff.audit.audit import run_audit
from cnsdiff.audit.judging import TESTS, Setting, choose, judge
from cnsdiff.audit.log import Log, Reading, read_log
from cnsdiff.audit.record import FILE, NOT_COMPARABLE, LeftOut, read_audit
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.audit.splits import clear, prepare_splits
from cnsdiff.audit.training import METHODS, Clock, audit_grid
from cnsdiff.audit.wording import can_tell, verdict
from cnsdiff.base.errors import CnsdiffWarning, InputError, RunError
from cnsdiff.benchmark.fit import best_of, fit_reference, objectives
from cnsdiff.benchmark.progress import Reporter
from cnsdiff.benchmark.store import Store
from cnsdiff.cli.app import app
from cnsdiff.data import Source, load_dataset
from cnsdiff.display.wording import number, percent, percent_span
from cnsdiff.evaluation import rank
from cnsdiff.evaluation.anticipation import PEOPLE
from cnsdiff.evaluation.significance import Interval
from cnsdiff.recommender.config import resolve_config
from cnsdiff.references import EASE, REFERENCES
from cnsdiff.report.audit import _loss_figure, audit_document, plain_rows
from cnsdiff.report.document import Card, document_of
from cnsdiff.report.html import render_html


@pytest.fixture(scope="module")
def audited(log, tmp_path_factory):
    """An audit under one shift, and what it found."""
    out = tmp_path_factory.mktemp("audits") / "shop"
    asked = options(log, out, shifts=("popularity",), budget=8.0)
    with pytest.MonkeyPatch.context() as patch:
        # However slow the machine is, each training gets its second.
        patch.setattr(Clock, "allot", lambda clock, n: 1.0)
        patch.setattr(training, "REFERENCE_SHARE", 100.0)
        return asked, run_audit(asked)


def rows_of(result):
    return {row.key: row for row in result.shifts[0].table}


def test_the_result_holds_numbers_with_intervals_and_the_words_that_go_with_them(audited):
    asked, result = audited
    content = json.loads((asked.out / FILE).read_text())
    assert (
        content == result.model_dump(mode="json") == read_audit(asked.out).model_dump(mode="json")
    )
    (shift,) = result.shifts
    rows = rows_of(result)
    references = {"mostpop/valid", "recent-mostpop/valid", "itemknn/valid", "ease/valid"}
    assert references | {"usual/valid"} <= rows.keys()
    assert "recent-mostpop/valid+dial" not in rows  # popularity has no dial
    assert shift.usual == "usual/valid"
    for row in rows.values():
        for estimate in (row.iid, row.ood, row.lost_matched):
            assert estimate.low <= estimate.value <= estimate.high
    lost = rows["usual/valid"].lost_matched
    usual = "The usual recommender (LightGCN with random negatives)"
    assert result.verdict == verdict(usual, "ndcg@20", [("if popularity shifted", lost)])
    assert result.log.threshold == 4
    assert result.log.columns["rating"] == "rating"
    assert any("threshold changes that" in note for note in result.log.notes)
    assert result.failures == []
    assert len(result.log.checksum) == 64


def test_the_choice_is_made_by_validation_alone(audited):
    _, result = audited
    (shift,) = result.shifts
    expecting = [r for r in shift.table if r.selection == "inverse-popularity+dial"]
    best = max(expecting, key=lambda row: row.validation)
    assert shift.recommendation.expected == best.key
    today = [r for r in shift.table if r.selection in ("valid", "valid+dial")]
    assert shift.recommendation.plain == max(today, key=lambda r: r.validation).key


def test_a_choice_that_the_test_does_not_bear_out_is_not_taken(audited):
    _, result = audited
    advice = result.shifts[0].recommendation
    assert advice.chosen == (advice.expected if advice.brings.sign > 0 else advice.plain)
    assert advice.words.startswith(("Use ", "Keep ", "Try both "))


@pytest.mark.parametrize("expected_wins", [True, False])
@pytest.mark.parametrize("best_today", ["exposure", "ease"])
def test_a_setting_for_exposure_is_called_a_bet_and_the_plain_reading_shown(
    audited, expected_wins, best_today
):
    """Whatever wins, and although another method is the best today."""
    asked, _ = audited
    dataset = load_dataset(asked.out / "popularity" / "dataset")
    rng = np.random.default_rng(0)
    users = {test: np.unique(dataset.split(test).users) for test in TESTS}

    def setting(method: str, selection: str, validation: float, level: float) -> Setting:
        per_user = {
            test: pl.DataFrame({"user": at, "ndcg@20": level + 0.01 * rng.random(len(at))})
            for test, at in users.items()
        }
        return Setting(method, selection, validation, 0.0, 3, 1.0, "patience", per_user)

    today = 0.9 if best_today == "ease" else 0.1
    settings = [
        setting("exposure", "valid", 0.4, 0.1),
        setting("exposure", "valid+dial", 0.5, 0.2),
        setting("exposure", "inverse-propensity+dial", 0.5, 0.6 if expected_wins else 0.05),
        setting("ease", "valid", today, 0.3),
        setting("ease", "inverse-propensity+dial", 0.1, 0.3),
    ]
    judged = judge(settings, dataset, "ndcg@20", seed=0)
    plain = settings[1].per_user["test_ood"]["ndcg@20"].mean()
    words = {}
    for name in ("exposure", "user-group"):
        choice = choose(settings, "inverse-propensity")
        assert choice.expected.key == "exposure/inverse-propensity+dial"
        assert choice.plain.method == best_today
        words[name] = advice(
            SHIFTS[name],
            judged,
            choice,
            reading=asked.reading,
            log=Log(Source({}, name="x"), "0", 4.0, ()),
            seed=0,
            run=asked.out,
        ).words
    assert words["exposure"].startswith(words["user-group"])
    bet = words["exposure"].removeprefix(words["user-group"])
    assert "(inverse-propensity) is a bet" in bet
    assert f"exposure sampling reaches {number(plain)}." in bet
    assert f"ask some {PEOPLE} of them (target_sample=..." in bet


def test_the_commands_can_be_run_as_they_stand(audited):
    asked, result = audited
    advice = result.shifts[0].recommendation
    train, *others = advice.commands  # how far the clock lets it come decides on others
    assert all(other.startswith(f"cnsdiff train {asked.reading.log} ") for other in others)
    assert train.startswith(f"cnsdiff train {asked.reading.log} ")
    assert "--threshold 4" in train
    assert train.endswith("--out runs/shop-popularity")
    assert advice.commands_of == advice.title


@pytest.mark.parametrize("method", ["ease", "itemknn", "mostpop", "recent-mostpop"])
@pytest.mark.parametrize("selection", ["valid", "valid+dial", "inverse-popularity+dial"])
def test_the_command_of_a_reference_makes_what_the_audit_measured(
    audited, method, selection, tmp_path
):
    asked, _ = audited
    dataset = asked.out / "popularity" / "dataset"
    command = train_command(
        method, selection, SHIFTS["popularity"], dataset, tmp_path / "run", "ndcg@20"
    )
    with pytest.raises(SystemExit) as done:
        app(shlex.split(command)[1:])
    assert done.value.code == 0
    model = Recommender.load(tmp_path / "run")
    data = load_dataset(dataset)
    kind = REFERENCES[method]
    measured = best_of(
        [
            fit_reference(own, data, (selection,), "ndcg@20", model.config_.training)
            for own in kind.candidates(kind.Config(name=method))
        ]
    ).choices[selection]
    assert model.dial_ == (measured.gamma or 0.0)
    users, some = torch.arange(data.n_users), data.users.to_list()
    train = data.split("train").csr(data.n_users, data.n_items)
    items, _ = rank(measured.scorer, users, 5, exclude=train)
    lists = model.recommend(some, k=5, seen="train")
    expected = data.items.gather(items.flatten().numpy())
    assert lists["item"].to_list() == expected.to_list()


def test_commands_hold_every_option_that_a_log_was_read_with(tmp_path):
    reading = Reading(
        "my log.csv",
        {"user": "who", "timestamp": "none", "event": "kind"},
        events={"buy": 1.0, "look around": 0.25},
        max_per_user=99,
        header=False,
        skip_bad=True,
        user_core=2,
        format="csv",
        time_unit="ms",
        delimiter=";",
        literal_ids=True,
        item_features={"": Path("items.csv"), "image": Path("my images.npy")},
    )
    log = Log(Source({}, name="x"), "0", 3.5, ())
    places = (reading.log, Path("runs/x"))
    shift = SHIFTS["user-group"]
    train = train_command(
        "exposure", "worst-slice+dial", shift, *places, "ndcg@20", 7, reading_options(reading, log)
    )
    assert train == (
        "cnsdiff train 'my log.csv' --for user-group --item-features items.csv "
        "--item-features 'image=my images.npy' --threshold 3.5 --user-core 2 "
        "--max-per-user 99 --events 'buy=1,look around=0.25' --format csv "
        "--delimiter ';' --time-unit ms --user-col who --timestamp-col none --event-col kind "
        "--no-header --skip-bad --literal-ids --seed 7 --out runs/x"
    )
    places = (Path("data/x"), Path("runs/x"))
    assert train_command("ease", "valid", shift, *places, "ndcg@20") == (
        "cnsdiff train data/x --backbone ease --select-on valid --set training.dial=off "
        "--out runs/x"
    )
    assert train_command("mostpop", "valid", shift, *places, "ndcg@20") == (
        "cnsdiff train data/x --backbone mostpop --select-on valid --out runs/x"
    )


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=list(SHIFTS))
@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if kind.preset])
def test_the_advised_command_trains_the_row_that_is_advised(method, shift, monkeypatch, tmp_path):
    grid = audit_grid([shift], {shift.name: Path("d")}, ease=False, seed=3, metric="recall@10")
    entry = grid.methods[method]
    made = []
    monkeypatch.setattr("cnsdiff.cli.commands.train._fit", lambda model, *_: made.append(model))
    for selection in grid.selections(shift.name):
        command = train_command(
            method, selection, shift, tmp_path, Path("r"), grid.select_metric, seed=3
        )
        app(shlex.split(command)[1:], standalone_mode=False)
        config = made.pop().resolve()
        # What the audit trains, read as the row says.
        expected = resolve_config(
            {"training": {"select_metric": "recall@10"}, "seed": 3},
            preset=entry.preset or "default",
        )
        objective = objectives((selection,), "recall@10", shift.selection)[selection]
        assert config.training.select_on == objective.select_on == selection.split("+")[0]
        assert config.training.dial == objective.dial
        assert config.training.dial == ("auto" if selection.endswith("+dial") else "off")
        assert config.training.select_metric == objective.select_metric
        if selection.startswith(shift.anticipate):
            assert config.training.select_slice_by == objective.select_slice_by
            assert config.training.select_also == objective.select_also
        same = {"select_on", "select_also", "dial", "select_slice_by"}
        assert config.training.model_dump(exclude=same) == expected.training.model_dump(
            exclude=same
        )
        assert (config.backbone, config.sampler, config.objective, config.seed) == (
            expected.backbone,
            expected.sampler,
            expected.objective,
            expected.seed,
        )


def test_a_reference_is_called_chosen_and_not_best(audited):
    """Validation chooses it; another may do better on the test."""
    _, result = audited
    words = result.shifts[0].recommendation.reference_words
    assert "Of them validation chooses " in words
    assert "The best of them" not in words


def test_a_row_without_losses_says_why(audited):
    _, result = audited
    unknown = Interval(math.nan, math.nan, math.nan)
    (shift,) = result.shifts
    rows = [row.model_copy(update={"lost_matched": unknown}) for row in shift.table]
    for limits, reason in (([NOT_COMPARABLE], NOT_COMPARABLE), ([], "its losses are unknown.")):
        empty = shift.model_copy(update={"table": rows, "limits": limits})
        figure = _loss_figure(result.model_copy(update={"shifts": [empty]}))
        assert figure.caption.endswith(f"Popularity has no marks: {reason}")
    assert "has no marks" not in _loss_figure(result).caption


def test_splits_for_a_system_of_ones_own_lie_beside_the_dataset(audited):
    asked, _ = audited
    folder = asked.out / "popularity"
    assert sorted(f.name for f in folder.iterdir()) == ["dataset", "train.csv", "valid.csv"]
    table = pl.read_csv(folder / "train.csv")
    assert table.columns == ["user", "item", "timestamp"]
    dataset = load_dataset(folder / "dataset")
    assert table.height == len(dataset.split("train"))
    assert set(table["user"]) == set(dataset.users)


def test_the_report_is_made_of_the_result(audited):
    asked, result = audited
    document = audit_document(asked.out)
    assert document.verdict == result.verdict
    titles = [section.title for section in document.sections]
    assert titles == ["Shifts", "Log", "People", "Numbers", "Limits"]
    (card,) = [block for block in document.sections[0].blocks if isinstance(block, Card)]
    shift = result.shifts[0]
    assert card.source.text == " && \\\n".join(shift.recommendation.commands)
    then = shift.row(shift.recommendation.plain).found_ood
    assert f"; then {100 * then:.0f}." in dict(card.facts)["today → then"]
    page = render_html(document)
    assert "the usual recommender" in page
    assert len(page) < 2_000_000
    assert render_html(document_of(asked.out)) == page


def test_a_few_people_with_the_lists_that_were_measured(audited):
    asked, result = audited
    (shift,) = result.shifts
    dataset = load_dataset(asked.out / "popularity" / "dataset")
    train, test = (dataset.split(name) for name in ("train", "test_ood"))
    assert len(shift.people) == 5
    activity = [person.n_history for person in shift.people]
    assert activity == sorted(activity)
    keys = [shift.recommendation.plain, shift.recommendation.use, shift.recommendation.expected]
    for person in shift.people:
        user = list(map(str, dataset.users)).index(person.user)
        had, took = (
            set(map(str, dataset.items.gather(split.items[split.users == user])))
            for split in (train, test)
        )
        assert (person.n_history, person.n_wanted) == (len(had), len(took))
        assert had >= set(person.history) and took >= set(person.wanted)
        assert list(person.lists) == list(dict.fromkeys(keys))[:2]
        for shown in person.lists.values():
            assert len(shown) == 10
            assert not had & {each.item for each in shown}
            assert [each.wanted for each in shown] == [each.item in took for each in shown]


def test_no_test_split_is_read_before_all_is_trained(log, tmp_path, opened):
    asked = options(log, tmp_path / "a", shifts=("popularity",), budget=5.0)
    prepare_splits(asked, lambda message: None)
    opened.clear()
    seen = []

    class Watching(Reporter):
        def begin(self, total, known):
            seen.extend(opened)

    run_audit(asked, reporter=Watching())
    assert "train.parquet" in opened
    assert not [name for name in seen if name.startswith("test_")]


class Stop(Reporter):
    """Ctrl-C after so many tasks."""

    def __init__(self, after: int) -> None:
        self.left = after

    def done(self, task, seconds, error):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_after_ctrl_c_the_same_command_goes_on(log, tmp_path, monkeypatch):
    asked = options(log, tmp_path / "a", shifts=("popularity",), budget=5.0)
    with pytest.raises(KeyboardInterrupt):
        run_audit(asked, reporter=Stop(2))
    assert not (asked.out / FILE).exists()
    kept = {f.name: f.stat().st_mtime_ns for f in (asked.out / "benchmark/records").iterdir()}
    assert len(kept) == 2

    class Known(Reporter):
        def begin(self, total, known):
            assert known == 2

    monkeypatch.setattr(training, "REFERENCE_SHARE", 100.0)
    result = run_audit(asked, reporter=Known())
    now = {f.name: f.stat().st_mtime_ns for f in (asked.out / "benchmark/records").iterdir()}
    assert kept.items() <= now.items()
    assert {row.method for row in result.shifts[0].table} >= {"mostpop", "ease"}


def test_another_audit_in_the_same_place_is_refused(audited, log, tmp_path):
    asked, _ = audited
    other = replace(asked, reading=replace(asked.reading, threshold=3.0))
    with pytest.raises(RunError, match=r"differs in threshold \(4.0 there, 3.0 here\)"):
        run_audit(other)
    with pytest.raises(RunError, match=r"differs in seed \(0 there, 1 here\)"):
        run_audit(replace(asked, seed=1))
    features = tmp_path / "items.csv"
    pl.read_csv(log).select(pl.col("item").unique(), price=2).write_csv(features)
    beside = replace(asked.reading, item_features=features)
    with pytest.raises(RunError, match="differs in the content of LOG, or in the files beside"):
        run_audit(replace(asked, reading=beside))
    # What was asked for is named before what it changes.
    with pytest.raises(RunError, match=r"differs in max_per_user \(none there, 999 here\)"):
        run_audit(replace(asked, reading=replace(beside, max_per_user=999)))
    changed = tmp_path / "shop.csv"
    changed.write_text(log.read_text() + "1,2,5,1600000001\n")
    with pytest.raises(RunError, match="differs in LOG"):
        run_audit(replace(asked, reading=replace(asked.reading, log=str(changed))))
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    with pytest.raises(RunError, match="is not empty and holds no audit"):
        run_audit(replace(asked, out=full))
    with pytest.raises(InputError, match="holds no audit"):
        clear(full)


def test_a_longer_budget_trains_again_what_the_clock_cut_short(audited):
    asked, before = audited
    cut = {r.method for r in before.shifts[0].table if r.stopped_by == "time"}
    begun = []

    class Watching(Reporter):
        def begin(self, total, known):
            begun.append(total - known)
            raise KeyboardInterrupt

    if cut or before.shifts[0].unfinished:
        with pytest.raises(KeyboardInterrupt):
            run_audit(replace(asked, budget=60.0), reporter=Watching())
        assert begun == [len(cut) + len(before.shifts[0].unfinished)]


def test_a_log_that_no_shift_can_be_made_of(tmp_path):
    file = tmp_path / "tiny.csv"
    file.write_text("user,item\n1,1\n2,2\n")
    with pytest.raises(InputError, match=r"tiny\.csv: .*give a larger log"):
        run_audit(options(file, tmp_path / "a"))


def exported(asked, path, learnt_from) -> None:
    """Lists of EASE fitted on some splits of the audit's dataset, training pairs among them."""
    dataset = load_dataset(asked.out / "popularity" / "dataset")
    parts = [dataset.split(name) for name in learnt_from]
    rows = np.concatenate([part.users for part in parts])
    columns = np.concatenate([part.items for part in parts])
    shape = (dataset.n_users, dataset.n_items)
    pairs = csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    model = EASE(l2=10.0)
    model._fit(pairs)
    model.train_ = pairs
    items, scores = rank(model, torch.arange(dataset.n_users), 60)
    users = np.repeat(np.arange(dataset.n_users), 60)
    pl.DataFrame(
        {
            "user": dataset.decode_users(users),
            "item": dataset.decode_items(items.reshape(-1).numpy()),
            "score": scores.reshape(-1).numpy(),
        }
    ).write_parquet(path)


@pytest.fixture
def judged(audited, tmp_path, monkeypatch):
    """Judge recommenders beside the audit that is there, without training anything again."""
    asked, _ = audited
    monkeypatch.setattr(audit_module, "forget", lambda *_, **__: 0)

    def judge(**given):
        return run_audit(replace(asked, budget=1e-3, **given))

    return judge


def test_one_that_has_seen_all_is_warned_of_and_an_honest_one_is_not(audited, judged, tmp_path):
    asked, _ = audited
    exported(asked, tmp_path / "honest.parquet", ("train",))
    exported(asked, tmp_path / "seen.parquet", ("train", "valid", "test_iid", "test_ood"))
    result = judged(
        recommendations=[
            f"honest:popularity={tmp_path / 'honest.parquet'}",
            f"seen={tmp_path / 'seen.parquet'}",
        ]
    )
    honest, seen = result.shifts[0].outside
    assert honest.warnings == []
    assert honest.of_this_shift
    (warning,) = seen.warnings
    assert "seen has probably seen the held-out pairs" in warning
    assert not seen.of_this_shift
    assert any("cannot be known" in text for text in honest.caveats)
    assert any("seen them all" in text for text in seen.caveats)
    assert seen.iid.value > honest.iid.value
    assert math.isfinite(honest.against.test_ood.expected.difference.value)
    assert result.verdict.startswith("Your recommender honest")
    assert len(result.more_verdicts) == 1
    assert "honest reaches" in honest.words
    document = audit_document(asked.out)
    assert "Your own" in [section.title for section in document.sections]
    assert "Caution" in document.summary
    render_html(document)


def test_vectors_are_read_at_the_dial_too(audited, judged, tmp_path):
    asked, _ = audited
    dataset = load_dataset(asked.out / "popularity" / "dataset")
    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"
    np.savez(
        file,
        users=dataset.users.to_numpy()[:-5],
        items=dataset.items.to_numpy(),
        user_embeddings=rng.normal(size=(dataset.n_users - 5, 6)),
        item_embeddings=rng.normal(size=(dataset.n_items, 6)),
    )
    (found,) = judged(embeddings=[str(file)]).shifts[0].outside
    assert found.name == "mine"
    assert found.counts["users"] == dataset.n_users - 5
    assert found.dialled.dial is not None
    assert "read at dial" in found.dialled.words
    assert found.metric == "ndcg@20"


def test_a_log_with_every_column(tmp_path):
    """All shifts at once, made but not trained, with rows that were shown at random."""
    frame = log_frame(n_users=600).with_columns(
        env=pl.when(pl.int_range(pl.len()) % 10 == 0)
        .then(pl.lit("random"))
        .otherwise(pl.lit("feed"))
    )
    file = tmp_path / "all.csv"
    frame.write_csv(file)
    said = []
    found = prepare_splits(options(file, tmp_path / "a", budget=600.0), said.append)
    names = [shift.name for shift in found.shifts]
    assert names == ["temporal", "hybrid", "popularity", "exposure", "user-group"]
    assert any("were shown at random" in line for line in said)
    for shift in found.shifts:
        dataset = load_dataset(found.paths[shift.name])
        held_out = len(dataset.split("valid"))
        if shift.name in ("temporal", "hybrid"):  # a fifth of train and valid
            held_out = 0.2 * (held_out + len(dataset.split("train"))) + 1
        assert 1 < findings._effective_pairs(dataset, shift) <= held_out


def test_a_shift_that_few_people_are_tested_under_gives_way(tmp_path):
    """Most users come once, so that few of the newest fifth are known from before."""
    sitting = pl.when(pl.col("user") < 20).then(pl.int_range(pl.len()) % 300).otherwise("user")
    frame = log_frame(n_users=300).with_columns(timestamp=1_600_000_000 + sitting * 86_400)
    file = tmp_path / "sittings.csv"
    frame.write_csv(file)
    told = []
    found = prepare_splits(options(file, tmp_path / "a", budget=30.0), told.append)
    # The budget is enough for one.
    assert [shift.name for shift in found.shifts] == ["popularity"]
    reasons = {absent.name: absent.reason for absent in found.left_out}
    assert "fewer than 100 users, which shows nothing" in reasons["temporal"]
    assert "too short" in reasons["user-group"]
    asked = options(file, tmp_path / "b", budget=30.0, shifts=("temporal",))
    assert [shift.name for shift in prepare_splits(asked, told.append).shifts] == ["temporal"]


def _edits(tree, path=()):
    """Every place in a tree, the first of each list."""
    yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _edits(value, (*path, key))
    elif isinstance(tree, list) and tree:
        yield from _edits(tree[0], (*path, 0))


def test_an_edited_result_is_refused_with_the_field_or_shown(audited, tmp_path):
    """Whatever stands anywhere in audit.json, there is a report or one sentence."""
    _, result = audited
    result = result.model_dump(mode="json")
    shift = result["shifts"][0]
    shift["size"]["splits"] = {
        name: {**split, "deciles": split["deciles"][:1]}
        for name, split in shift["size"]["splits"].items()
    }
    odd = [None, [], {}, "x", -1, 2**70, float("nan"), True]
    refused = 0
    for at, path in enumerate([p for p in _edits(result) if p][1::6]):
        edited = json.loads(json.dumps(result))
        parent = edited
        for key in path[:-1]:
            parent = parent[key]
        if at % 3:
            parent[path[-1]] = odd[at % len(odd)]
        else:
            del parent[path[-1]]
        (tmp_path / FILE).write_text(json.dumps(edited))
        try:
            document_of(tmp_path)
        except RunError as error:
            refused += 1
            assert str(tmp_path / FILE) in str(error)
            assert path[0] == "schema_version" or str(path[0]) in str(error)
            assert "\n" not in str(error)
    assert refused > 15


def of_version_1(result) -> str:
    """The same audit as version 1 wrote it."""
    content = result.model_dump(mode="json") | {"schema_version": 1}
    return json.dumps(content).replace('"lost_matched"', '"loss"')


def test_an_audit_of_version_1_is_read_as_before(audited, tmp_path):
    _, result = audited
    pages = []
    for text in (of_version_1(result), result.model_dump_json()):
        (tmp_path / FILE).write_text(text)
        assert read_audit(tmp_path).model_dump(mode="json") == result.model_dump(mode="json")
        pages.append(render_html(document_of(tmp_path)))
    assert pages[0] == pages[1]


def test_an_audit_that_labels_the_default_cnsdiff_is_read_as_before(audited, tmp_path):
    _, result = audited
    text = of_version_1(result)
    for old, new in (('"exposure"', '"cnsdiff"'), ('"exposure/', '"cnsdiff/')):
        text = text.replace(old, new)
    (tmp_path / FILE).write_text(text)
    before, now = read_audit(tmp_path).shifts[0], result.shifts[0]
    assert "cnsdiff/valid+dial" in {row.key for row in plain_rows(before)}
    values = [[row.lost_matched.value for row in plain_rows(shift)] for shift in (before, now)]
    assert values[0] == values[1]
    assert render_html(document_of(tmp_path))


@pytest.mark.parametrize("version", [0, 3, "1", True, None])
def test_an_audit_of_an_unknown_version_is_refused(audited, tmp_path, version):
    content = audited[1].model_dump(mode="json") | {"schema_version": version}
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"this cnsdiff reads 2.*, or run the audit again"):
        read_audit(tmp_path)


def test_the_verdict_agrees_with_the_numbers(audited):
    """Whatever per cent a sentence says is lost or gained is in the record."""
    _, result = audited
    (shift,) = result.shifts
    lost = shift.row(shift.usual).lost_matched
    if can_tell(lost):
        verb = {1: "lose", -1: "gain", 0: "lose nothing"}[lost.sign]
        assert f"would {verb} " in result.verdict
    if lost.sign:
        assert f" {percent(abs(lost.value))} (" in result.verdict
    ends = sorted(abs(end) if lost.sign else end for end in (lost.low, lost.high))
    assert percent_span(*ends) in result.verdict


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 99_999, b"\xff", '{"schema_version": 1}'])
def test_a_damaged_result_is_refused(tmp_path, text):
    (tmp_path / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=r"audit\.json: (is damaged|has schema version)"):
        document_of(tmp_path)


def test_what_people_find_is_told_on_both_tests(audited):
    asked, result = audited
    (shift,) = result.shifts
    store = Store(asked.out / "benchmark")
    kept = [pl.read_parquet(file) for file in sorted((store.path / "per_user").iterdir())]
    shares = {
        round(float((frame["recall@20"] > 0).mean()), 12)
        for whole in kept
        for _, frame in whole.group_by("selection", "split")
    }
    for row in shift.table:
        assert {round(row.found_iid, 12), round(row.found_ood, 12)} <= shares
        assert row.found_iid >= row.iid.value


def test_files_from_before_the_confidence_are_read(audited, tmp_path):
    content = audited[1].model_dump(mode="json")
    for shift in content["shifts"]:
        for field in ("confidence", "confidence_words", "how_extreme"):
            del shift[field]
        for row in shift["table"]:
            del row["found_iid"], row["found_ood"]
        del shift["recommendation"]["break_even"], shift["recommendation"]["break_even_words"]
    (tmp_path / FILE).write_text(json.dumps(content))
    (shift,) = read_audit(tmp_path).shifts
    assert (shift.confidence, shift.confidence_words) == ("none", "")
    assert shift.recommendation.break_even is None
    assert render_html(document_of(tmp_path))


def test_what_is_missing_is_said_in_sentences(audited):
    _, result = audited
    (shift,) = result.shifts
    row = shift.row("usual/valid")
    rows = [each.model_copy(update={"stopped_by": "patience"}) for each in shift.table]
    whole = shift.model_copy(update={"table": rows, "unfinished": []})
    assert result.model_copy(update={"shifts": [whole], "left_out": []}).missing == []
    cut = whole.model_copy(
        update={
            "table": [*rows, row.model_copy(update={"stopped_by": "time"})],
            "unfinished": ["ease"],
        }
    )
    absent = [LeftOut(name="exposure", reason="needs what is not there")]
    assert result.model_copy(update={"shifts": [cut], "left_out": absent}).missing == [
        "exposure was not measured: needs what is not there.",
        "Popularity: no time was left to set EASE for it.",
        "Popularity: the clock ended the training of the usual recommender.",
    ]


@pytest.mark.parametrize("shifts", [(), ("popularity",)])
def test_a_log_that_is_refused_leaves_room_for_the_mended_one(log, tmp_path, shifts):
    bad = tmp_path / "shop.csv"
    bad.write_text("user,item\n1,2\n1,3\n")
    asked = replace(options(bad, tmp_path / "out"), shifts=shifts)
    with pytest.raises(InputError, match=r"shop\.csv: has 1 user, and a scenario"):
        run_audit(asked)
    assert not asked.out.exists()


def test_new_items_are_counted_on_all_of_the_log(tmp_path):
    rows = [("a", 1, 10), ("b", 1, 11), ("a", 2, 12), ("b", 3, 20), ("a", 3, 21), ("c", 4, 22)]
    rows += [("a", 4, 23), ("b", 2, 24), ("a", 1, 25)]  # the last is a repeat; c is not known
    table = pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")
    table.write_csv(tmp_path / "log.csv")
    pl.DataFrame({"item": [3, 9], "brand": ["x", "y"]}).write_csv(tmp_path / "items.csv")
    reading = Reading(str(tmp_path / "log.csv"))
    found = findings.new_items_record(read_log(reading), reading, 20.0)
    assert (found.pairs, found.new_pairs, found.items, found.with_features) == (4, 3, 2, 0)
    assert found.words.startswith("75% of the 4 later pairs are on 2 items that nobody")
    assert "item_features=..." in found.words
    assert findings.new_items_record(read_log(reading), reading, 24.0) is None
    # With features; and an item is known although those who took it before were not drawn.
    told = replace(reading, item_features=tmp_path / "items.csv")
    with pytest.warns(CnsdiffWarning, match="features"):
        log = read_log(told)
    assert findings.new_items_record(log, told, 20.0).with_features == 1
    whole = log.interactions
    drawn = whole.narrowed("drawn", whole.frame.filter(pl.col("user") == "a"))
    few = replace(log, source=replace(log.source, tables={"log": drawn}), whole=whole)
    assert findings.new_items_record(few, told, 20.0).new_pairs == 3


def test_new_items_stand_on_the_page_and_older_files_have_none(audited, tmp_path):
    asked, result = audited
    assert result.new_items is None
    content = json.loads((asked.out / FILE).read_text())
    del content["new_items"]
    (tmp_path / FILE).write_text(json.dumps(content))
    assert read_audit(tmp_path).new_items is None
    new = {"pairs": 40, "new_pairs": 10, "items": 3, "with_features": 2, "words": "25% are new."}
    (tmp_path / FILE).write_text(json.dumps({**content, "new_items": new}))
    cards = [b for b in audit_document(tmp_path).sections[0].blocks if isinstance(b, Card)]
    assert (cards[-1].title, cards[-1].text) == ("New items", "25% are new.")
    assert cards[-1].facts[1] == ("later pairs on them", "10 of 40")
