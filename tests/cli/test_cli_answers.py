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
    """A service that explored, the day after the run was trained; the first place is clicked."""
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
            Answer(f"r{number}", at, str(user), "run", arm, 0.2, "taste", 4, items, chances)
        )
        if items[0] == ranked[0]:
            clicks.append(Event(f"e{number}", str(user), items[0], at + 0.5))
    clicks.append(Event("last", "nobody", "nothing", start + 3 * DAY))
    with Store.open(url) as opened:
        opened.add_answers(shown)
        opened.add_events(clicks)
    return url


def test_arms_and_a_run(cli, store, kept_run):
    done = cli("audit", "--answers", store, "--run", kept_run, "--json").json
    assert [(arm["arm"], arm["answers"]) for arm in done["arms"]] == [
        ("active", 320),
        ("canary", 80),
    ]
    assert done["differences"][0]["against"] == ["active", "run"]
    figures = done["run"]
    assert figures["answers"] == 400 and figures["users"] == 40
    for name in ("ips", "snips", "dr", "served", "gain"):
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    # The same of its file.
    shown = cli("audit", "--answers", store.removeprefix("sqlite:///"), "--run", kept_run)
    assert shown.code == 0, shown.err
    for words in ("What was shown", "Less active run", "doubly robust (DR)", "could have been"):
        assert words in shown.out


def test_refusals(cli, store, kept_run, world, tmp_path):
    cli("audit").refused("needs a log, or --answers STORE")
    cli("audit", world, "--run", kept_run).refused("needs a log, or --answers STORE")
    cli("audit", "--answers", store, "--metric", "recall@5").refused("without --metric")
    cli("audit", "some.csv", "--answers", store).refused("without log")
    cli("audit", "--answers", store, "--window", "soon").refused("--window soon", "12h")
    cli("audit", "--answers", f"sqlite:///{tmp_path}/no.db").refused("there is no store")
    with Store.open(f"sqlite:///{tmp_path / 'old.db'}") as old:
        old.add_answers([Answer("r", 1.0, "1", "v", "active", 1.0, "taste", 1, ["1"], [1.0])])
        old.add_events([Event("e", "1", "1", 9 * DAY)])
    old = f"sqlite:///{tmp_path / 'old.db'}"
    cli("audit", "--answers", old, "--run", kept_run).refused("has learnt from what came of all 1")
