"""Losses against their formulas, PyTorch's own, and what a score forgets (equation 21)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.objectives import objective as objective_module
from cnsdiff.objectives.losses import alignment, bpr, l2_norm, sampled_softmax
from cnsdiff.objectives.objective import Objective, ObjectiveConfig
from cnsdiff.samplers.base import Batch, Items, Negatives, Vectors
from cnsdiff.testing import make_batch, make_context, tiny_positives

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)
B, DIM = len(BATCH), 6
LOG_POPULARITY = (POSITIVES.item_counts / POSITIVES.item_counts.sum()).double().log()
NO_L2 = {"l2": 0.0}
SOFTMAX = {"loss": "softmax", "l2": 0.0, "temperature": 0.5}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tables(seed: int = 0) -> Embeddings:
    return Embeddings(
        normal(POSITIVES.n_users, DIM, seed=seed), normal(POSITIVES.n_items, DIM, seed=seed + 1)
    )


def items_drawn(n: int = 3) -> Tensor:
    return POSITIVES.sample_negatives(BATCH.users, n, torch.Generator().manual_seed(5))


def terms(
    options: dict[str, Any],
    negatives: Negatives | None = None,
    embeddings: Embeddings | None = None,
    batch: Batch = BATCH,
    layer_zero: Embeddings | None = None,
) -> dict[str, Tensor]:
    objective = Objective(ObjectiveConfig(**options), POSITIVES)
    embeddings = objective.project(tables() if embeddings is None else embeddings)
    named: dict[str, Tensor] = objective(
        batch, embeddings, layer_zero or embeddings, negatives, make_context(6)
    )
    return named


# -- the functions -----------------------------------------------------------------------------


def test_bpr_is_its_formula() -> None:
    positive, negative = normal(8), normal(8, 3, seed=1)
    differences = positive.unsqueeze(1) - negative
    torch.testing.assert_close(bpr(positive, negative), -torch.sigmoid(differences).log().mean())


def test_weighted_bpr_sums_over_a_row_and_takes_the_mean_over_rows() -> None:
    positive, negative, weights = normal(8), normal(8, 3, seed=1), normal(8, 3, seed=2).abs()
    total = 0.0
    for p, row, shares in zip(positive.tolist(), negative.tolist(), weights.tolist(), strict=True):
        for n, w in zip(row, shares, strict=True):
            total += w * math.log1p(math.exp(n - p))
    assert bpr(positive, negative, weights).item() == pytest.approx(total / 8)


def test_weights_of_one_over_n_are_no_weights_to_bpr() -> None:
    positive, negative = normal(8), normal(8, 4, seed=1)
    alike = torch.full_like(negative, 0.25)
    torch.testing.assert_close(bpr(positive, negative, alike), bpr(positive, negative))


def test_bpr_stays_finite_for_scores_far_apart() -> None:
    loss = bpr(torch.tensor([-1e4, 1e4]), torch.tensor([[1e4], [-1e4]]))
    assert loss.item() == pytest.approx(1e4)


def test_bpr_pushes_the_positive_up_and_the_negative_down_by_the_same_amount() -> None:
    positive, negative = normal(4).requires_grad_(), normal(4, 1, seed=1).requires_grad_()
    bpr(positive, negative).backward()
    assert positive.grad is not None
    assert negative.grad is not None
    torch.testing.assert_close(positive.grad, -negative.grad[:, 0])
    sigma = torch.sigmoid(negative[:, 0] - positive).detach() / 4
    torch.testing.assert_close(negative.grad[:, 0], sigma)


def test_sampled_softmax_is_cross_entropy_with_the_positive_first() -> None:
    positive, negatives = normal(8), normal(8, 5, seed=1)
    logits = torch.cat([positive.unsqueeze(1), negatives], dim=1)
    expected = F.cross_entropy(logits, torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(sampled_softmax(positive, negatives, None), expected)


def test_an_inadmissible_negative_is_as_good_as_absent() -> None:
    positive, negatives = normal(8), normal(8, 5, seed=1)
    admissible = torch.ones(8, 5, dtype=torch.bool)
    admissible[:, [1, 4]] = False
    torch.testing.assert_close(
        sampled_softmax(positive, negatives, admissible),
        sampled_softmax(positive, negatives[:, [0, 2, 3]], None),
    )


def test_a_row_with_no_admissible_negative_costs_nothing_and_has_no_gradient() -> None:
    positive, negatives = normal(2).requires_grad_(), normal(2, 3, seed=1).requires_grad_()
    loss = sampled_softmax(positive, negatives, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert positive.grad is not None
    assert negatives.grad is not None
    assert torch.equal(positive.grad, torch.zeros(2).double())
    assert torch.equal(negatives.grad, torch.zeros(2, 3).double())


def test_alignment_is_its_formula() -> None:
    anchors, own, others = normal(5, 4), normal(5, 4, seed=1), normal(7, 4, seed=2)
    tau = 0.7
    total = 0.0
    for a, p in zip(anchors, own, strict=True):
        away = [float(torch.cosine_similarity(a, n, dim=0)) / tau for n in others]
        total += math.log(sum(math.exp(x) for x in away))
        total -= float(torch.cosine_similarity(a, p, dim=0)) / tau
    assert alignment(anchors, own, others, tau).item() == pytest.approx(total / 5)


@given(scale=st.floats(0.01, 100))
@settings(deadline=None, max_examples=20)
def test_alignment_is_free_of_the_vectors_lengths(scale: float) -> None:
    anchors, own, others = normal(5, 4), normal(5, 4, seed=1), normal(7, 4, seed=2)
    torch.testing.assert_close(
        alignment(scale * anchors, own / scale, others * scale, 2.0),
        alignment(anchors, own, others, 2.0),
    )


def l2_squared(*rows: Tensor) -> Tensor:
    """Half the mean squared length of each set of rows, added up."""
    return torch.stack([(x.norm(dim=1) ** 2).mean() / 2 for x in rows]).sum()


def test_the_authors_l2_is_the_frobenius_norm_over_the_square_of_the_batch() -> None:
    users, items = normal(5, 4), normal(5, 4, seed=1)
    expected = users.square().sum().sqrt() / 25 + items.square().sum().sqrt() / 25
    everyone = torch.arange(5)
    ours = l2_norm(Embeddings(users, items), everyone, everyone, None)
    torch.testing.assert_close(ours, expected)


# -- the joint objective: ranking --------------------------------------------------------------


def test_bpr_of_items_scores_them_by_the_inner_product() -> None:
    embeddings, drawn = tables(), items_drawn()
    scores = embeddings.users @ embeddings.items.T
    own = scores[BATCH.users, BATCH.positives]
    others = scores[BATCH.users.unsqueeze(1), drawn]
    ours = terms(NO_L2, Items(drawn))
    assert set(ours) == {"bpr"}
    torch.testing.assert_close(ours["bpr"], bpr(own, others))


@pytest.mark.parametrize("at_once", [0, 64])
def test_items_cost_the_same_scored_alone_or_with_the_whole_catalogue(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And have the same gradient."""
    monkeypatch.setattr(objective_module, "_AT_ONCE", at_once)
    ours, theirs = (Embeddings(*(t.requires_grad_() for t in tables())) for _ in range(2))
    drawn = items_drawn()
    loss = terms(NO_L2, Items(drawn), ours)["bpr"]
    scores = theirs.users @ theirs.items.T
    others = scores[BATCH.users.unsqueeze(1), drawn]
    expected = bpr(scores[BATCH.users, BATCH.positives], others)
    torch.testing.assert_close(
        torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    )


def test_vectors_and_the_items_they_equal_cost_the_same() -> None:
    drawn = items_drawn()
    for options in (NO_L2, {**NO_L2, "score": "cosine", "temperature": 0.3}):
        by_item = terms(options, Items(drawn))["bpr"]
        projected = Objective(ObjectiveConfig(**options), POSITIVES).project(tables())
        by_vector = terms(options, Vectors(projected.items[drawn]))["bpr"]
        torch.testing.assert_close(by_item, by_vector)


def test_cosine_scores_ignore_lengths_of_embeddings() -> None:
    options, vectors = {**NO_L2, "score": "cosine"}, normal(B, 2, DIM, seed=8)
    longer = Embeddings(3 * tables().users, 0.1 * tables().items)
    torch.testing.assert_close(
        terms(options, Vectors(vectors))["bpr"],
        terms(options, Vectors(vectors), longer)["bpr"],
    )


def test_log_q_corrects_the_samplers_items_and_leaves_vectors_level_with_their_positives() -> None:
    gamma = 0.7
    u, p = tables().users[BATCH.users], tables().items[BATCH.positives]
    positive = (u * p).sum(-1) / 0.5
    items, vectors = items_drawn(), normal(B, 2, DIM, seed=8)
    by_item = torch.einsum("bd,bnd->bn", u, tables().items[items]) / 0.5
    pop = LOG_POPULARITY.float().double()
    for negatives, logits, correction in (
        (Items(items), by_item, pop[items]),
        (
            Vectors(vectors),
            torch.einsum("bd,bnd->bn", u, vectors) / 0.5,
            pop[BATCH.positives].unsqueeze(1),
        ),
    ):
        row = torch.cat([positive.unsqueeze(1), logits], dim=1)
        row[:, 0] -= gamma * pop[BATCH.positives]
        row[:, 1:] -= gamma * correction
        expected = F.cross_entropy(row, torch.zeros(B, dtype=torch.long))
        got = terms({**SOFTMAX, "log_q": gamma, "negatives": "sampler"}, negatives)["softmax"]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_the_temperature_divides_every_score() -> None:
    vectors = normal(B, 2, DIM, seed=8)
    warm = terms({**NO_L2, "temperature": 0.25}, Vectors(vectors))["bpr"]
    scaled = Embeddings(4 * tables().users, tables().items)
    plain = terms(NO_L2, Vectors(vectors), scaled)["bpr"]
    torch.testing.assert_close(warm, plain)


def in_batch_by_hand(gamma: float, temperature: float, sampled: Tensor | None = None) -> Tensor:
    """Row by row, with the lists of logits spelled out."""
    embeddings = tables()
    total = torch.zeros((), dtype=torch.float64)
    for row, (user, own) in enumerate(zip(BATCH.users, BATCH.positives, strict=True)):

        def logit(item: Tensor, user: Tensor = user) -> Tensor:
            score = embeddings.users[user] @ embeddings.items[item]
            return score / temperature - gamma * LOG_POPULARITY[item]

        logits = [logit(own), *(logit(item) for item in BATCH.positives if item != own)]
        if sampled is not None:
            logits += list(sampled[row] @ embeddings.users[user] / temperature)
        total = total + torch.stack(logits).logsumexp(0) - logits[0]
    return total / B


def test_in_batch_softmax_leaves_out_every_copy_of_the_rows_own_positive() -> None:
    assert POSITIVES.item_counts.max() > 1
    ours = terms({**SOFTMAX, "negatives": "in-batch"})
    assert set(ours) == {"softmax"}
    torch.testing.assert_close(ours["softmax"], in_batch_by_hand(0.0, 0.5))


@pytest.mark.parametrize("gamma", [1.0, -0.5])
def test_log_q_subtracts_log_popularity_from_every_in_batch_logit(gamma: float) -> None:
    ours = terms({**SOFTMAX, "negatives": "in-batch", "log_q": gamma})["softmax"]
    torch.testing.assert_close(ours, in_batch_by_hand(gamma, 0.5), rtol=1e-5, atol=1e-6)


def test_the_samplers_negatives_join_the_in_batch_ones() -> None:
    vectors = normal(B, 2, DIM, seed=8)
    ours = terms({**SOFTMAX, "negatives": "in-batch+sampler"}, Vectors(vectors))
    torch.testing.assert_close(ours["softmax"], in_batch_by_hand(0.0, 0.5, vectors))


def test_softmax_over_the_samplers_negatives_alone() -> None:
    vectors = normal(B, 2, DIM, seed=8)
    embeddings = tables()
    users, own = embeddings.users[BATCH.users], embeddings.items[BATCH.positives]
    logits = torch.cat([own.unsqueeze(1), vectors], dim=1) @ users.unsqueeze(2) / 0.5
    expected = F.cross_entropy(logits[:, :, 0], torch.zeros(B, dtype=torch.int64))
    torch.testing.assert_close(terms(SOFTMAX, Vectors(vectors))["softmax"], expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_uniform_softmax_draws_catalogue_items_and_masks_the_rows_own(gamma: float) -> None:
    n = 40
    stream = make_context(6).negatives
    shared = torch.randint(POSITIVES.n_items, (n,), generator=stream)
    assert torch.isin(BATCH.positives, shared).any()
    embeddings = tables()
    logits = (embeddings.users @ embeddings.items.T)[BATCH.users] / 0.5 - gamma * LOG_POPULARITY
    own = logits.gather(1, BATCH.positives.unsqueeze(1))
    others = logits[:, shared].masked_fill(shared == BATCH.positives.unsqueeze(1), -torch.inf)
    target = torch.zeros(B, dtype=torch.int64)
    expected = F.cross_entropy(torch.cat([own, others], dim=1), target)
    options = {**SOFTMAX, "negatives": "uniform", "uniform_negatives": n, "log_q": gamma}
    torch.testing.assert_close(terms(options)["softmax"], expected, rtol=1e-5, atol=1e-6)


def weighted_softmax_by_hand(
    weights: Tensor, drawn: Tensor, gamma: float, shared: Tensor | None
) -> float:
    """``- log( e^p / (e^p + Σ shared e^s + Σ (n w / Σ w) e^l) )``, row by row."""
    scores = (tables().users @ tables().items.T / 0.5 - gamma * LOG_POPULARITY).tolist()
    n, total = drawn.shape[1], 0.0
    for user, own, items, row in zip(
        BATCH.users.tolist(),
        BATCH.positives.tolist(),
        drawn.tolist(),
        weights.tolist(),
        strict=True,
    ):
        mass = math.exp(scores[user][own])
        for item in () if shared is None else shared.tolist():
            mass += math.exp(scores[user][item]) if item != own else 0.0
        for item, weight in zip(items, row, strict=True):
            mass += n * weight / sum(row) * math.exp(scores[user][item])
        total += math.log(mass) - scores[user][own]
    return total / B


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("source", ["sampler", "in-batch+sampler"])
def test_a_weighted_softmax_multiplies_the_samplers_terms(source: str, gamma: float) -> None:
    """By weights of any size, some of them 0; the shared items keep theirs of 1."""
    drawn = items_drawn(4)
    weights = normal(B, 4, seed=9).clamp(min=0) + torch.eye(4, dtype=torch.float64)[0]
    assert (weights == 0).any()
    shared = BATCH.positives if source.startswith("in-batch") else None
    ours = terms({**SOFTMAX, "negatives": source, "log_q": gamma}, Items(drawn, weights))["softmax"]
    expected = weighted_softmax_by_hand(weights, drawn, gamma, shared)
    assert ours.item() == pytest.approx(expected, rel=1e-6)


def test_equal_weights_are_no_weights_to_a_softmax() -> None:
    drawn = items_drawn()
    options = {**SOFTMAX, "negatives": "sampler"}
    plain = terms(options, Items(drawn))["softmax"]
    for weight in (0.2, 1.0, 30.0):
        alike = torch.full(drawn.shape, weight, dtype=torch.float64)
        torch.testing.assert_close(terms(options, Items(drawn, alike))["softmax"], plain)


def test_a_negative_of_weight_zero_has_no_gradient_and_harms_none() -> None:
    weightless = POSITIVES.n_items - 1
    batch = make_batch(POSITIVES, (BATCH.positives != weightless).nonzero()[:, 0])
    drawn = torch.tensor([[0, weightless]]).expand(len(batch), 2)
    weights = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(len(batch), 2)
    for options in (NO_L2, {**SOFTMAX, "negatives": "sampler"}):
        embeddings = Embeddings(*(table.requires_grad_() for table in tables()))
        loss = sum(terms(options, Items(drawn, weights), embeddings, batch).values())
        (gradient,) = torch.autograd.grad(loss, embeddings.items)
        assert gradient.isfinite().all()
        assert torch.equal(gradient[weightless], torch.zeros(DIM).double())
        assert (gradient[0] != 0).all()


def test_the_samplers_weights_enter_the_joint_bpr() -> None:
    embeddings, drawn = tables(), items_drawn()
    weights = normal(B, 3, seed=9).abs()
    scores = embeddings.users @ embeddings.items.T
    own, others = scores[BATCH.users, BATCH.positives], scores[BATCH.users.unsqueeze(1), drawn]
    ours = terms(NO_L2, Items(drawn, weights))["bpr"]
    expected = (weights * -torch.sigmoid(own.unsqueeze(1) - others).log()).sum() / B
    torch.testing.assert_close(ours, expected)


def test_shared_negatives_need_no_sampler() -> None:
    for source in ("in-batch", "uniform"):
        config = ObjectiveConfig(loss="softmax", negatives=source)
        assert not Objective(config, POSITIVES).calls_sampler
    for source in ("sampler", "in-batch+sampler", "uniform+sampler"):
        config = ObjectiveConfig(loss="softmax", negatives=source)
        assert Objective(config, POSITIVES).calls_sampler


# -- the joint objective: the other terms ------------------------------------------------------


def test_l2_acts_on_layer_zero_of_users_positives_and_negative_items() -> None:
    layer_zero, drawn = tables(seed=20), items_drawn()
    ours = terms({"l2": 0.3}, Items(drawn), layer_zero=layer_zero)["l2"]
    rows = (
        layer_zero.users[BATCH.users],
        layer_zero.items[BATCH.positives],
        layer_zero.items[drawn.flatten()],
    )
    torch.testing.assert_close(ours, 0.3 * l2_squared(*rows))


@pytest.mark.parametrize("n", [1, 40])
def test_l2_of_many_negatives_is_that_of_their_rows(n: int) -> None:
    generator = torch.Generator().manual_seed(3)
    n_items = len(tables(seed=20).items)
    drawn = torch.randint(n_items, (B, n), generator=generator)
    outcomes = []
    for form in ("counted", "row by row"):
        layer_zero = tables(seed=20)
        free = layer_zero.items.detach().clone().requires_grad_()
        layer_zero = Embeddings(layer_zero.users, free)
        rows = (
            layer_zero.users[BATCH.users],
            layer_zero.items[BATCH.positives],
            layer_zero.items[drawn.flatten()],
        )
        counted = terms({"l2": 0.3}, Items(drawn), layer_zero=layer_zero)["l2"]
        loss = counted if form == "counted" else 0.3 * l2_squared(*rows)
        (gradient,) = torch.autograd.grad(loss, free)
        outcomes.append((loss, gradient))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_l2_has_no_share_for_synthesised_negatives() -> None:
    layer_zero, vectors = tables(seed=20), normal(B, 2, DIM)
    ours = terms({"l2": 0.3}, Vectors(vectors), layer_zero=layer_zero)["l2"]
    rows = layer_zero.users[BATCH.users], layer_zero.items[BATCH.positives]
    torch.testing.assert_close(ours, 0.3 * l2_squared(*rows))


def test_the_authors_l2_is_chosen_by_its_name() -> None:
    layer_zero, vectors = tables(seed=20), normal(B, 2, DIM)
    options = {"l2": 0.3, "l2_form": "authors"}
    ours = terms(options, Vectors(vectors), layer_zero=layer_zero)["l2"]
    expected = l2_norm(layer_zero, BATCH.users, BATCH.positives, None)
    torch.testing.assert_close(ours, 0.3 * expected)


def contrastive(**options: Any) -> dict[str, Any]:
    return {**NO_L2, "contrastive": {"weight": 0.3, "temperature": 2.0, **options}}


def test_the_contrastive_term_aligns_items_with_themselves_against_the_whole_pool() -> None:
    pool, vectors = normal(30, DIM, seed=9), normal(B, 1, DIM)
    ours = terms(contrastive(noise=0.0, negatives=None), Vectors(vectors, pool=pool))
    items = tables().items[BATCH.positives]
    assert set(ours) == {"bpr", "contrastive"}
    torch.testing.assert_close(ours["contrastive"], 0.3 * alignment(items, items, pool, 2.0))


def test_without_a_pool_the_negatives_themselves_are_contrasted() -> None:
    drawn = items_drawn()
    ours = terms(contrastive(noise=0.0, negatives=None), Items(drawn))["contrastive"]
    items = tables().items
    expected = alignment(items[BATCH.positives], items[BATCH.positives], items[drawn.flatten()], 2)
    torch.testing.assert_close(ours, 0.3 * expected)


def test_a_part_of_the_pool_is_drawn_without_repetition() -> None:
    # One vector apart from all others: the log-sum-exp counts how often it was drawn.
    vectors = normal(B, 1, DIM)
    items = tables().items[BATCH.positives]
    pool = normal(30, DIM, seed=9)
    order = torch.randperm(30, generator=make_context(6).negatives)
    ours = terms(contrastive(noise=0.0, negatives=7), Vectors(vectors, pool=pool))
    expected = 0.3 * alignment(items, items, pool[order[:7]], 2.0)
    torch.testing.assert_close(ours["contrastive"], expected)


def test_the_positives_twin_is_noised_at_the_given_scale() -> None:
    pool, vectors = normal(30, DIM, seed=9), normal(B, 1, DIM)
    items = tables().items[BATCH.positives]
    noise = torch.randn(items.shape, generator=make_context(6).noise)
    ours = terms(contrastive(noise=0.5, negatives=None), Vectors(vectors, pool=pool))
    expected = 0.3 * alignment(items, items + 0.5 * noise, pool, 2.0)
    torch.testing.assert_close(ours["contrastive"], expected)


def test_the_samplers_own_loss_is_a_term_as_it_is() -> None:
    negatives = Vectors(normal(B, 1, DIM), loss=torch.tensor(1.25))
    assert terms(NO_L2, negatives)["sampler"].item() == 1.25


# -- equation 21: what a score forgets ----------------------------------------------------------


def optimal_scores(joint: np.ndarray, gamma: float) -> np.ndarray:
    """Free scores ``(U, I)`` that minimise the in-batch softmax over a batch with these counts."""
    n_users, n_items = joint.shape
    users, items = np.nonzero(joint)
    positives = Positives(users, items, n_users, n_items)
    # Popularity counts repetitions, which the training pairs do not have.
    positives.item_counts = torch.from_numpy(joint.sum(axis=0))
    config = ObjectiveConfig(loss="softmax", negatives="in-batch", l2=0.0, log_q=gamma)
    objective = Objective(config, positives).double()
    repeats = torch.from_numpy(joint[users, items])
    batch = Batch(*(torch.from_numpy(x).repeat_interleave(repeats) for x in (users, users, items)))
    scores = torch.zeros(n_users, n_items, dtype=torch.float64, requires_grad=True)
    one_hots = torch.eye(n_items, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [scores], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        embeddings = Embeddings(scores, one_hots)
        loss = objective(batch, embeddings, embeddings, None, make_context())["softmax"]
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return scores.detach().numpy()


def centred(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def joint() -> np.ndarray:
    """Counts of 3 users and 40 items with a popularity of 1 : 6 and tastes across it."""
    rng = np.random.default_rng(0)
    taste = rng.normal(scale=0.7, size=(3, 40)) + np.linspace(0, 1.8, 40)
    share = np.exp(taste) / np.exp(taste).sum(axis=1, keepdims=True)
    return np.maximum(1, np.round(250 * share)).astype(np.int64)


def test_in_batch_softmax_learns_the_pointwise_mutual_information(joint: np.ndarray) -> None:
    p = joint / joint.sum()
    information = np.log(p / p.sum(axis=1, keepdims=True) / p.sum(axis=0, keepdims=True))
    learnt = centred(optimal_scores(joint, gamma=0.0))
    # The row's own item is masked, so item i competes with a share 1 - p(i|u) of the batch; the
    # log-scores are off by that order, p(i|u), and no more.
    tolerance = 1.5 * (p / p.sum(axis=1, keepdims=True)).max()
    assert tolerance < 0.35
    assert np.abs(learnt - centred(information)).max() < tolerance
    popularity = np.log(p.sum(axis=0))
    likelihood = centred(np.log(p))
    assert np.abs(learnt - likelihood).mean() > 5 * np.abs(learnt - centred(information)).mean()
    assert np.corrcoef(popularity, likelihood.mean(axis=0))[0, 1] > 0.9


def test_the_whole_log_q_correction_gives_the_popularity_back(joint: np.ndarray) -> None:
    p = joint / joint.sum()
    plain, corrected = (optimal_scores(joint, gamma) for gamma in (0.0, 1.0))
    expected = centred(plain + np.log(p.sum(axis=0)))
    np.testing.assert_allclose(centred(corrected), expected, atol=2e-3)


# -- weights of rows ---------------------------------------------------------------------------

#: Terms in which a row's loss does not depend on the rows beside it.
OF_ROWS: dict[str, dict[str, Any]] = {
    "bpr": NO_L2,
    "bpr with propensities": {**NO_L2, "propensity": {"exponent": 0.5}},
    "softmax of the sampler": SOFTMAX,
    "softmax with log q": {**SOFTMAX, "log_q": 0.5},
}


def weighted(weights: Tensor, keep: Tensor | None = None) -> Batch:
    rows = torch.arange(B) if keep is None else keep
    users, positives = BATCH.users[rows], BATCH.positives[rows]
    return Batch(BATCH.index[rows], users, positives, weights[rows])


@pytest.mark.parametrize("case", OF_ROWS)
def test_the_loss_of_a_row_is_multiplied_by_its_weight(case: str) -> None:
    weights, drawn = normal(B, seed=3).abs(), items_drawn()
    (found,) = terms(OF_ROWS[case], Items(drawn), batch=weighted(weights)).values()
    alone = torch.ones(B, dtype=torch.float64)
    total = 0.0
    for row in range(B):
        one = torch.tensor([row])
        (loss,) = terms(OF_ROWS[case], Items(drawn[one]), batch=weighted(alone, one)).values()
        total += weights[row].item() * loss.item()
    assert found.item() == pytest.approx(total / B)


@pytest.mark.parametrize("case", OF_ROWS)
def test_a_row_of_weight_0_is_as_good_as_absent(case: str) -> None:
    weights, drawn = torch.ones(B, dtype=torch.float64), items_drawn()
    weights[::3] = 0
    kept = weights.nonzero()[:, 0]
    embeddings = Embeddings(*(table.requires_grad_() for table in tables()))

    def gradients(batch: Batch, items: Tensor) -> tuple[Tensor, ...]:
        (loss,) = terms(OF_ROWS[case], Items(items), embeddings, batch).values()
        return torch.autograd.grad(loss * len(batch), list(embeddings))

    with_zeros = gradients(weighted(weights), drawn)
    without = gradients(weighted(weights, kept), drawn[kept])
    for found, expected in zip(with_zeros, without, strict=True):
        torch.testing.assert_close(found, expected)


def test_in_batch_a_row_of_weight_0_is_a_negative_of_others_and_no_more() -> None:
    weights = torch.ones(B, dtype=torch.float64)
    weights[::3] = 0
    options = {**SOFTMAX, "negatives": "in-batch"}
    found = terms(options, batch=weighted(weights))["softmax"]
    users, items = (
        table[ids] for table, ids in zip(tables(), (BATCH.users, BATCH.positives), strict=True)
    )
    logits = users @ items.T / 0.5
    same = BATCH.positives.unsqueeze(0) == BATCH.positives.unsqueeze(1)
    own = logits.diagonal()
    others = logits.masked_fill(same, -math.inf)
    losses = torch.logsumexp(torch.cat([own.unsqueeze(1), others], dim=1), dim=1) - own
    torch.testing.assert_close(found, (weights * losses).sum() / B)


def test_the_alignment_weighs_its_rows() -> None:
    anchors, positives, pool = normal(5, DIM), normal(5, DIM, seed=1), normal(7, DIM, seed=2)
    weights = torch.tensor([0.0, 2.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    total = sum(
        w * alignment(anchors[[row]], positives[[row]], pool, 2.0)
        for row, w in enumerate(weights.tolist())
    )
    torch.testing.assert_close(alignment(anchors, positives, pool, 2.0, weights), total / 5)


@pytest.mark.parametrize(
    "options",
    [
        *OF_ROWS.values(),
        {**SOFTMAX, "negatives": "in-batch+sampler"},
        {**SOFTMAX, "negatives": "uniform+sampler", "contrastive": {"weight": 0.3}},
    ],
)
def test_weights_of_1_are_no_weights(options: dict[str, Any]) -> None:
    ones = torch.ones(B, dtype=torch.float64)
    found = terms(options, Items(items_drawn()), batch=weighted(ones))
    plain = terms(options, Items(items_drawn()))
    assert {name: value.item() for name, value in found.items()} == {
        name: value.item() for name, value in plain.items()
    }
