"""What the published logs exposed, and what the objectives make of it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cnsdiff import prepare
from cnsdiff.data import load_dataset
from cnsdiff.evaluation import anticipate, evaluate_split
from cnsdiff.evaluation.dial import exposure_counts, exposure_score
from cnsdiff.references import ItemKNN, MostPop

pytestmark = pytest.mark.real


@pytest.mark.parametrize(("name", "ratings"), [("coat", 6_960), ("yahoo-r3", 311_704)])
def test_exposures_of_an_experiment(shared_data, tmp_path, name, ratings):
    log, randomised = shared_data / name / "user.txt", shared_data / name / "random.txt"
    made = prepare(log, "exposure", randomised=randomised, threshold=4)
    dataset = load_dataset(made.save(tmp_path / name))
    counts = exposure_counts(dataset).numpy()

    # Counted anew from the file, without the library.
    rows = [line.split(",") for line in log.read_text().split()]
    assert len(rows) == ratings
    rated = Counter(int(item) for _, item, _ in rows)
    held_out = np.zeros(dataset.n_items)
    for split in (dataset.split("valid"), dataset.split("test_iid")):
        held_out += np.bincount(split.items, minlength=dataset.n_items)
    assert (counts + held_out).tolist() == [rated[item] for item in dataset.items]
    liked = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
    assert (counts >= liked).all() and counts.sum() > 2 * liked.sum()
    assert exposure_score(dataset).argmax() == counts.argmax()

    valid, train = dataset.split("valid"), dataset.split("train").csr(dataset.n_users, len(counts))
    shifts = [
        anticipate("drift", valid, train),
        anticipate("inverse-exposure", valid, train, exposure=counts),
        anticipate("inverse-popularity", valid, train),
    ]
    kept = {}
    for reference in (MostPop, ItemKNN):
        found = evaluate_split(reference().fit(dataset), valid, train, anticipations=shifts).metrics
        kept[reference] = [found[f"ndcg@20 ({s.name})"] / found["ndcg@20"] for s in shifts]
    # What all users like outlives a change of tastes, and falls once all items are shown alike.
    assert kept[MostPop][0] > 0.9 > 0.75 > kept[ItemKNN][0]
    assert kept[MostPop][1] < 0.7 * kept[ItemKNN][1]
    # Exposure is not popularity: popular items are popular beyond it, too.
    assert kept[MostPop][2] < kept[MostPop][1]
    assert shifts[1].effective_pairs > shifts[2].effective_pairs
