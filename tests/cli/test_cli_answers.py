"""``cnsdiff audit --answers``: figures of what a service has shown."""

from __future__ import annotations

import numpy as np
import pytest

from cnsdiff import Recommender
from cnsdiff.recommender.run_directory import Fitted, read_run
from cnsdiff.recommender.update import end_of
from cnsdiff.serving.store import Answer, Event, Store

DAY = 86_400.0


@pytest.fixture(scope="module")
def store(kept_run, tmp_path_factory) -> str:
    """A service that explored, the day after the run was trained; the first place is bought."""
    rng = np.random.default_rng(0)
    run = Recommender.load(kept_run)
    start = end_of(Fitted.of_run(read_run(kept_run))) + 1
    users = run.users_.to_list()[:40]
    lists = run.recommend(users, k=8)
    url = f"sqlite:///{tmp_path_factory.mktemp('answers') / 'events.db'}"
    shown, clicks = [], []
    for number in range(400):
        user = users[number % 40]
        ranked = [str(item) for item in lists["item"].to_numpy()[lists["user"].to_numpy() == user]]
        items, chances = ranked[:4], [1 - 0.5 / 4] * 4
        if rng.random() < 0.5:
            place = rng.integers(4)
            items[place], chances[place] = ranked[4 + rng.integers(4)], 0.5 / 4
        arm = "canary" if number % 5 == 0 else "active"
        at = start + number
        shown.append(
            Answer(
                *(f"r{number}", at, str(user), "run", arm, 0.2, "taste", 4, items, chances),
                rules={0: None, 1: '{"where":{"colour":"red"}}'}.get(number % 100, "{}"),
                item_seq=0,
            )
        )
        if items[0] == ranked[0]:
            clicks.append(Event(f"e{number}", str(user), items[0], at + 0.5, "purchase"))
        clicks.append(Event(f"v{number}", str(user), items[1], at + 0.5, "view"))
    clicks.append(Event("last", "nobody", "nothing", start + 3 * DAY))
    with Store.open(url) as opened:
        opened.add_answers(shown)
        opened.add_events(clicks)
    return url


def test_arms_and_a_run(cli, store, kept_run):
    given = "audit", "--answers", store, "--types", "purchase", "--run", kept_run
    done = cli(*given, "--json").json
    assert [(arm["arm"], arm["answers"]) for arm in done["arms"]] == [
        ("active", 320),
        ("canary", 80),
    ]
    assert done["differences"][0]["against"] == ["active", "run"]
    figures = done["run"]
    assert figures["answers"] == 392 and figures["users"] == 40
    for name in ("ips", "snips", "dr", "served", "gain"):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert {own["answers"] for own in done["left_out"]} == {4}
    for reason in ("rules were not logged", "no item has an attribute 'colour'"):
        assert any(reason in own["reason"] for own in done["left_out"])
    # The same of its file.
    shown = cli(*(own.removeprefix("sqlite:///") if own == store else own for own in given))
    assert shown.code == 0, shown.err
    assert "4 answers left out: their rules were not logged" in " ".join(shown.out.split())
    for words in ("What was shown", "Less active run", "doubly robust (DR)", "could have been"):
        assert words in shown.out


def test_types_of_events_are_those_named_or_else_those_of_the_service(cli, store, tmp_path):
    (tmp_path / "service.yaml").write_text("types: [purchase]\n")
    every, bought, seen, configured = (
        cli("audit", "--answers", store, *more, "--json").json
        for more in (
            [],
            ["--types", "purchase"],
            ["--types", "view, purchase"],
            ["--config", tmp_path / "service.yaml"],
        )
    )
    assert every["types"] is None and bought["types"] == configured["types"] == ["purchase"]
    assert every["arms"] == seen["arms"] and bought["arms"] == configured["arms"]
    clicks = [own["arms"][0]["clicks"]["value"] for own in (every, bought)]
    assert clicks[0] == pytest.approx(clicks[1] + 1)


def test_refusals(cli, store, kept_run, world, tmp_path):
    cli("audit").refused("needs a log, or --answers STORE")
    cli("audit", world, "--run", kept_run).refused("needs a log, or --answers STORE")
    cli("audit", "--answers", store, "--metric", "recall@5").refused("without --metric")
    cli("audit", "some.csv", "--answers", store).refused("without log")
    cli("audit", "--answers", store, "--window", "soon").refused("--window soon", "12h")
    cli("audit", "--answers", store, "--window", "9d").refused("window of 9 d in which")
    cli("audit", "--answers", store, "--types", "a,").refused("names no event in one place")
    cli("audit", "--answers", store, "--types", "vew").refused("'vew'", "did you mean 'view'")
    cli("audit", world, "--types", "view").refused("needs a log, or --answers STORE")
    cli("audit", "--answers", f"sqlite:///{tmp_path}/no.db").refused("there is no store")
    with Store.open(f"sqlite:///{tmp_path / 'old.db'}") as old:
        old.add_answers([Answer("r", 1.0, "1", "v", "active", 1.0, "taste", 1, ["1"], [1.0])])
        old.add_events([Event("e", "1", "1", 9 * DAY)])
    old = f"sqlite:///{tmp_path / 'old.db'}"
    cli("audit", "--answers", old, "--run", kept_run).refused("has learnt from what came of all 1")
