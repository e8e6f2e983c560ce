"""False hard negatives against plain loops, closed forms, and samplers whose ratio is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.errors import DataError, InputError
from cnsdiff.evaluation import fhn
from cnsdiff.evaluation.fhn import (
    FalseNegatives,
    false_negatives,
    measure_false_negatives,
    nearest_items,
    wilson,
)
from cnsdiff.evaluation.judges import LIKED, NOT_LIKED, UNKNOWN
from cnsdiff.samplers.base import Items, Sampler, Vectors
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.static import RandomSampler
from cnsdiff.testing import DIM, make_batch, tiny_positives

POSITIVES = tiny_positives()
U, I = POSITIVES.n_users, POSITIVES.n_items  # noqa: E741 (the usual letters)
OBSERVED = {tuple(pair) for pair in POSITIVES.pairs.tolist()}


class TableJudge:
    """Reads its verdicts from a ``(U, I)`` table."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.as_tensor(table, dtype=torch.int8)
        self.complete = bool((self.table != UNKNOWN).all())
        known = (self.table != UNKNOWN).any(dim=1)
        self.known_users = None if bool(known.all()) else known

    def __call__(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.table[users.unsqueeze(1), items]


def make_judge(seed: int = 0, *, partial: bool = False) -> TableJudge:
    rng = np.random.default_rng(seed)
    verdicts = [LIKED, NOT_LIKED, UNKNOWN] if partial else [LIKED, NOT_LIKED]
    table = rng.choice(verdicts, (U, I))
    if partial:
        table[::3] = UNKNOWN
    return TableJudge(table)


def make_embeddings(seed: int = 0, *, grad: bool = False) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    tables = (torch.randn(rows, DIM, generator=generator) for rows in (U, I))
    return Embeddings(*(table.requires_grad_(grad) for table in tables))


def make_sampler(sampler_class=RandomSampler, **config) -> Sampler:
    config = sampler_class.Config(**config)
    return sampler_class(POSITIVES, DIM, config, torch.Generator().manual_seed(1))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- the brute-force twin ----------------------------------------------------------------------


def twin(negatives, batch, embeddings, judge, *, neighbours, candidates, generator):
    """The definition, pair by pair."""
    users, items = (table.numpy().astype(np.float64) for table in embeddings)
    pool = POSITIVES.sample_negatives(batch.users, candidates, generator).numpy()
    counts = dict.fromkeys(
        ("examined", "hard", "judged", "false", "hard_judged", "hard_false", "known_positive"), 0
    )
    for row, user in enumerate(batch.users.tolist()):
        median = np.median([users[user] @ items[item] for item in pool[row]])
        for column in range(negatives.embed(embeddings).shape[1]):
            if isinstance(negatives, Items):
                asked = [int(negatives.items[row, column])]
                vector = items[asked[0]]
            else:
                vector = negatives.vectors[row, column].numpy().astype(np.float64)
                cosines = [v @ vector / math.sqrt((v @ v) * (vector @ vector)) for v in items]
                asked = sorted(range(I), key=lambda i: -cosines[i])[:neighbours]
            hard = users[user] @ vector > median
            counts["examined"] += 1
            counts["hard"] += hard
            for item in asked:
                known = (user, item) in OBSERVED
                verdict = int(judge.table[user, item])
                if known:
                    verdict = LIKED if judge.complete else UNKNOWN
                counts["known_positive"] += known
                counts["judged"] += verdict != UNKNOWN
                counts["false"] += verdict == LIKED
                counts["hard_judged"] += verdict != UNKNOWN and hard
                counts["hard_false"] += verdict == LIKED and hard
    return FalseNegatives(**counts, neighbours=0 if isinstance(negatives, Items) else neighbours)


@pytest.mark.parametrize("partial", [False, True], ids=["all known", "partly known"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("candidates", [1, 4, 7])
@pytest.mark.parametrize("neighbours", [0, 1, 3], ids=["items", "1 neighbour", "3 neighbours"])
def test_the_definition_pair_by_pair(partial, n, candidates, neighbours):
    judge, embeddings, batch = make_judge(partial=partial), make_embeddings(), make_batch(POSITIVES)
    if neighbours:
        negatives = Vectors(torch.randn(len(batch), n, DIM, generator=stream(4)))
    else:
        negatives = Items(torch.randint(I, (len(batch), n), generator=stream(4)))
    options = {"neighbours": max(neighbours, 1), "candidates": candidates}
    ours = false_negatives(
        negatives, batch, embeddings, judge, POSITIVES, **options, generator=stream()
    )
    assert ours == twin(negatives, batch, embeddings, judge, **options, generator=stream())
    assert 0 < ours.hard < ours.examined
    assert 0 < ours.hard_false < ours.false < ours.judged
    assert ours.known_positive > 0


def test_vectors_that_are_items_are_judged_as_those_items():
    judge, embeddings, batch = make_judge(), make_embeddings(), make_batch(POSITIVES)
    picked = POSITIVES.sample_negatives(batch.users, 2, stream(8))
    by_item, by_vector = (
        false_negatives(negatives, batch, embeddings, judge, POSITIVES, generator=stream())
        for negatives in (Items(picked), Vectors(embeddings.items[picked]))
    )
    assert (by_item.neighbours, by_vector.neighbours) == (0, 1)
    assert by_item.scalars().items() < by_vector.scalars().items()
    assert by_vector.known_positive == 0
    # The length of a vector does not matter to whom it is near.
    far = false_negatives(
        Vectors(7 * embeddings.items[picked]), batch, embeddings, judge, POSITIVES,
        generator=stream(),
    )  # fmt: skip
    assert far.fhn == by_item.fhn


def test_a_vector_at_the_positive_is_a_known_positive():
    embeddings, batch = make_embeddings(), make_batch(POSITIVES)
    strict, nobody = (TableJudge(np.full((U, I), verdict)) for verdict in (NOT_LIKED, UNKNOWN))
    vectors = embeddings.items[batch.positives].unsqueeze(1)
    found, apart = (
        false_negatives(Vectors(vectors), batch, embeddings, judge, POSITIVES, generator=stream())
        for judge in (strict, nobody)
    )
    assert found.known_positive == found.judged == found.false == found.examined == len(batch)
    assert found.fhn == found.known_positive_share == 1.0
    # Who judges few pairs is not drowned by those that need no judge.
    assert (apart.known_positive, apart.judged, apart.false) == (len(batch), 0, 0)


def test_more_neighbours_than_items_are_the_whole_catalogue():
    judge, embeddings, batch = make_judge(), make_embeddings(), make_batch(POSITIVES)
    vectors = torch.randn(len(batch), 1, DIM, generator=stream(4))
    found = false_negatives(
        Vectors(vectors), batch, embeddings, judge, POSITIVES,
        neighbours=I + 5, generator=stream(),
    )  # fmt: skip
    assert found.neighbours == I
    assert found.judged == len(batch) * I
    liked = sum(
        (user, item) in OBSERVED or int(judge.table[user, item]) == LIKED
        for user in batch.users.tolist()
        for item in range(I)
    )
    assert found.false == liked


def test_a_median_candidate_is_as_often_hard_as_not():
    embeddings = make_embeddings()
    found = measure_false_negatives(
        make_sampler(), embeddings, POSITIVES, make_judge(), n=20_000, candidates=64
    )
    # Drawn from the same law as the candidates: above their median half the time, but for ties,
    # which a catalogue this small has and which are not hard.
    assert 0.4 < found.hard_share < 0.5


def test_nothing_is_changed_and_no_gradient_kept():
    embeddings, batch = make_embeddings(grad=True), make_batch(POSITIVES)
    vectors = torch.randn(len(batch), 1, DIM, requires_grad=True)
    before = [tensor.detach().clone() for tensor in (*embeddings, vectors)]
    with torch.autograd.graph.saved_tensors_hooks(_refuse, _refuse):
        false_negatives(
            Vectors(vectors), batch, embeddings, make_judge(), POSITIVES,
            generator=stream(),
        )  # fmt: skip
    for tensor, was in zip((*embeddings, vectors), before, strict=True):
        assert tensor.grad is None
        assert torch.equal(tensor.detach(), was)


def _refuse(tensor):
    raise AssertionError("a tensor was saved for a backward pass")


def test_mixed_precision_does_not_move_a_verdict():
    judge, embeddings, batch = make_judge(), make_embeddings(), make_batch(POSITIVES)
    vectors = torch.randn(len(batch), 4, DIM, generator=stream(4))
    arguments = (Vectors(vectors), batch, embeddings, judge, POSITIVES)
    exact = false_negatives(*arguments, generator=stream())
    with torch.autocast("cpu", torch.bfloat16):
        assert false_negatives(*arguments, generator=stream()) == exact


def test_diverged_vectors_are_counted_without_a_word():
    # Training's own check stops it; the probe must not get in first with another message.
    judge, embeddings, batch = make_judge(), make_embeddings(), make_batch(POSITIVES)
    vectors = torch.full((len(batch), 1, DIM), torch.nan)
    found = false_negatives(
        Vectors(vectors), batch, embeddings, judge, POSITIVES, generator=stream()
    )
    assert found.examined == len(batch)
    assert found.hard == 0


@pytest.mark.parametrize("k", [1, 4, I])
@pytest.mark.parametrize(("rows", "columns"), [(1024, 2048), (7, 3), (50, 16), (1, I)])
def test_nearest_items_in_blocks_of_any_size(monkeypatch, k, rows, columns):
    monkeypatch.setattr(fhn, "_VECTORS_AT_ONCE", rows)
    monkeypatch.setattr(fhn, "_ITEMS_AT_ONCE", columns)
    vectors, items = torch.randn(50, DIM, generator=stream(1)), make_embeddings().items
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], items, dim=-1)
    assert torch.equal(nearest_items(vectors, items, k), cosine.topk(k, dim=1).indices)


# -- counts ------------------------------------------------------------------------------------


def test_ratios_of_many_batches_are_ratios_of_sums():
    judge, embeddings = make_judge(partial=True), make_embeddings()
    items = torch.randint(I, (len(POSITIVES), 2), generator=stream(4))
    parts = [torch.arange(len(POSITIVES))[:5], torch.arange(len(POSITIVES))[5:]]
    found = [
        false_negatives(
            Items(items[part]), make_batch(POSITIVES, part), embeddings, judge,
            POSITIVES, generator=stream(),
        )
        for part in parts
    ]  # fmt: skip
    total = sum(found, start=FalseNegatives())
    assert total.fhn == (found[0].false + found[1].false) / (found[0].judged + found[1].judged)
    assert total.fhn != pytest.approx((found[0].fhn + found[1].fhn) / 2)
    assert total.examined == 2 * len(POSITIVES)


def test_counts_by_different_neighbours_do_not_mix():
    one, three = FalseNegatives(examined=5, neighbours=1), FalseNegatives(examined=5, neighbours=3)
    with pytest.raises(ValueError, match="by 1 and by 3 neighbours"):
        one + three
    assert FalseNegatives() + three == three


def test_what_is_not_defined_is_not_logged():
    assert FalseNegatives().scalars() == {}
    assert math.isnan(FalseNegatives().fhn)
    unknown = FalseNegatives(examined=4, hard=1)
    assert unknown.scalars() == {"hard_share": 0.25, "fhn_judged": 0.0}
    assert unknown.interval() == (0.0, 1.0)
    none_hard = FalseNegatives(examined=4, judged=4, false=1)
    assert none_hard.scalars() == {"fhn": 0.25, "hard_share": 0.0, "fhn_judged": 4.0}
    vectors = FalseNegatives(examined=4, judged=8, false=3, known_positive=2, neighbours=2)
    assert vectors.scalars()["known_positive"] == 2 / 8


@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_as_scipy_has_it(successes, trials, level):
    successes = min(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert wilson(successes, trials, level) == pytest.approx((expected.low, expected.high))


# -- samplers whose ratio is known -------------------------------------------------------------


def free(judge: TableJudge, verdict: int) -> torch.Tensor:
    """``(U, I)``: pairs with this verdict that are not observed."""
    observed = torch.zeros(U, I, dtype=torch.bool)
    observed[tuple(POSITIVES.pairs.T)] = True
    return (judge.table == verdict) & ~observed


class Oracle(Sampler):
    """Picks uniformly among the allowed items of each user."""

    allowed: torch.Tensor

    def forward(self, batch, embeddings, context):
        weights = self.allowed[batch.users].double()
        return Items(torch.multinomial(weights, 2, True, generator=context.negatives))


@pytest.mark.parametrize(("verdict", "ratio"), [(LIKED, 1.0), (NOT_LIKED, 0.0)])
def test_an_oracle_picks_only_false_or_only_true_negatives(verdict, ratio):
    judge = make_judge(seed=1)
    sampler = make_sampler(Oracle)
    sampler.allowed = free(judge, verdict)
    assert bool(sampler.allowed.any(dim=1).all())
    found = measure_false_negatives(sampler, make_embeddings(), POSITIVES, judge, n=500)
    assert found.fhn == found.fhn_hard == ratio
    assert found.examined == found.judged == 1000


@pytest.mark.parametrize("seed", range(3))
def test_random_negatives_are_false_as_often_as_items_are_liked(seed):
    judge = make_judge(seed)
    liked, other = (free(judge, verdict).sum(dim=1).double() for verdict in (LIKED, NOT_LIKED))
    # A user is drawn once per training interaction.
    expected = float((liked / (liked + other))[POSITIVES.pairs[:, 0]].mean())
    found = measure_false_negatives(
        make_sampler(n_negatives=4), make_embeddings(), POSITIVES, judge, n=5000, seed=seed
    )
    low, high = found.interval(level=0.9999)
    assert low < expected < high
    assert high - low < 0.03


def test_measuring_is_seeded_and_leaves_the_global_stream_alone():
    arguments = (make_sampler(CNSDiffSampler), make_embeddings(), POSITIVES, make_judge())
    state = torch.get_rng_state()
    first = measure_false_negatives(*arguments, n=300, neighbours=2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert measure_false_negatives(*arguments, n=300, neighbours=2, seed=1) == first
    assert measure_false_negatives(*arguments, n=300, neighbours=2, seed=2) != first
    assert (first.examined, first.neighbours) == (300, 2)


def test_only_users_an_experiment_knows_are_asked_about():
    judge, asked = make_judge(partial=True), []

    class Watched(RandomSampler):
        def forward(self, batch, embeddings, context):
            asked.append(batch.users)
            return super().forward(batch, embeddings, context)

    measure_false_negatives(make_sampler(Watched), make_embeddings(), POSITIVES, judge, n=2000)
    with_positives = set(POSITIVES.pairs[:, 0].tolist())
    known = {u for u in with_positives if bool(judge.known_users[u])}
    assert set(torch.cat(asked).tolist()) == known < with_positives


def test_a_judge_of_strangers():
    nobody = TableJudge(np.full((U, I), UNKNOWN))
    with pytest.raises(DataError, match="users without training interactions only"):
        measure_false_negatives(make_sampler(), make_embeddings(), POSITIVES, nobody)


@pytest.mark.parametrize("name", ["n", "batch_size", "neighbours", "candidates"])
def test_sizes_below_one(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1, not 0"):
        measure_false_negatives(
            make_sampler(), make_embeddings(), POSITIVES, make_judge(), **{name: 0}
        )


def test_progress_and_score_reach_the_sampler():
    seen = []

    class Watched(RandomSampler):
        def forward(self, batch, embeddings, context):
            seen.append((len(batch), context.progress, context.cosine))
            return super().forward(batch, embeddings, context)

    measure_false_negatives(
        make_sampler(Watched), make_embeddings(), POSITIVES, make_judge(),
        n=50, batch_size=20, progress=0.25, cosine=True,
    )  # fmt: skip
    assert seen == [(size, 0.25, True) for size in (20, 20, 10)]
