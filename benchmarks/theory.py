"""The seven statements of docs/theory.md, each checked in numbers to a stated tolerance.

    python benchmarks/theory.py [--only 1 2 ...] [--json FILE] [--figure FILE.svg]

A line for each check: the statement, what is compared, how far apart that is, and how far it may
be. Exit status 1 if one fails. Losses, samplers and estimators are the library's own where it has
them; seeds are fixed. ``--figure`` draws the weight of ranks and the share of false negatives
(needs Matplotlib, ``pip install 'cnsdiff[bench]'``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize
from scipy.stats import binom, multinomial
from torch import Tensor

from cnsdiff import ConfoundedWorld
from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.losses import (
    PropensityConfig,
    bpr,
    inverse_propensity,
    sampled_softmax,
    screened,
)
from cnsdiff.samplers.base import Batch, Context
from cnsdiff.samplers.candidates import DNSMNConfig, DNSMNSampler

Vector = NDArray[np.float64]
#: Sizes of a pool that the hardest is picked of.
POOLS = (1, 2, 4, 8, 16, 32, 64)


class Check(NamedTuple):
    """What was compared, how far apart it is, and how far it may be."""

    what: str
    apart: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.apart <= self.tolerance


def softmax(logits: Vector) -> Vector:
    return np.asarray(special.softmax(logits, axis=-1))


# -- 1. Ranking by noise-contrastive estimation ----------------------------------------------------


def statement_1() -> Iterator[Check]:
    """``s* = log p - log q + c`` for any number of negatives; ``k = 1`` is BPR."""
    rng = np.random.default_rng(0)
    p, q = softmax(rng.normal(0, 1, 6)), softmax(rng.normal(0, 1, 6))
    expected = np.log(p) - np.log(q)
    for k in (1, 2, 4):
        optimum = minimised(lambda s, k=k: expected_loss(s, p, q, k), len(p))
        apart = np.abs(centred(optimum) - centred(expected)).max()
        yield Check(f"k = {k}: optimum of the softmax, log p - log q", float(apart), 1e-4)
    scores = torch.from_numpy(rng.normal(0, 1, 6))
    one, other = (
        float(expected_loss(scores, p, q, 1)),
        float(
            sum(
                p[i] * q[j] * bpr(scores[i : i + 1], scores[j : j + 1].unsqueeze(1))
                for i in range(6)
                for j in range(6)
            )
        ),
    )
    yield Check("k = 1: the softmax and BPR", abs(one - other), 1e-12)
    # The caveat: negatives that leave a user's positives out have no finite optimum.
    liked = p > np.median(p)
    pairs, away = np.where(liked, p, 0) / p[liked].sum(), np.where(liked, 0, q) / q[~liked].sum()
    losses = [
        float(expected_loss(t * torch.from_numpy(liked + 0.0), pairs, away, 1)) for t in (1, 10, 20)
    ]
    yield Check("positives barred from q: the loss for ever larger scores", losses[-1], 1e-8)


def expected_loss(scores: Tensor, p: Vector, q: Vector, k: int) -> Tensor:
    """``E -log e^{s_i} / (e^{s_i} + Σ e^{s_j})`` over ``i ~ p`` and ``k`` draws of ``q``, exact."""
    total = scores.new_zeros(())
    items = range(len(p))
    # Draws count by how often each item is among them, not by their order.
    for drawn in itertools.combinations_with_replacement(items, k):
        times = np.bincount(drawn, minlength=len(q))
        chance = float(multinomial.pmf(times, k, q))
        negatives = scores[list(drawn)].expand(len(p), k)
        weights = torch.from_numpy(p) * len(p)
        total = total + chance * sampled_softmax(scores, negatives, None, weights)
    return total


def minimised(loss: Callable[[Tensor], Tensor], n: int) -> Vector:
    def with_gradient(values: Vector) -> tuple[float, Vector]:
        scores = torch.from_numpy(values).requires_grad_()
        value = loss(scores)
        value.backward()
        assert scores.grad is not None
        return value.item(), scores.grad.numpy()

    found = minimize(with_gradient, np.zeros(n), jac=True, method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x)


def centred(values: Vector) -> Vector:
    return np.asarray(values - values.mean(axis=-1, keepdims=True))


# -- 2. Dynamic negative sampling and the partial AUC ----------------------------------------------


def weight_of_rank(r: Vector, top: int, n: int) -> Vector:
    """``w(r) = (N/M) P(Bin(N-1, r) ≤ M-1)`` of the normalised rank, 0 for the best."""
    return np.asarray(n / top * binom.cdf(top - 1, n - 1, r))


def statement_2() -> Iterator[Check]:
    """What DNS(M, N) weighs ranks by, and where all of the pool is drawn."""
    n_items, edges = 2_000, np.linspace(0, 1, 41)
    for top, n in ((1, 32), (5, 32), (10, 200)):
        ranks = ranks_drawn(top, n, n_items, draws=200_000)
        share = np.histogram(ranks, edges)[0] / len(ranks)
        grid = (np.arange(n_items) + 0.5) / n_items
        weight = weight_of_rank(grid, top, n) / n_items
        expected = np.histogram(grid, edges, weights=weight)[0]
        apart = np.abs(share - expected).sum() / 2
        yield Check(f"DNS({top}, {n}): ranks drawn and w(r), in total variation", apart, 0.01)
    inside = 1 - (1 - 1 / 32) ** 32
    grid = (np.arange(10**6) + 0.5) / 10**6
    within = weight_of_rank(grid, 1, 32)[grid < 1 / 32].sum() / 1e6
    yield Check("DNS(1, 32): weight within the top 1/32, .638", abs(within - inside), 1e-4)
    step = np.where(grid < 0.1, 10.0, 0.0)
    gaps = [np.abs(weight_of_rank(grid, m, 10 * m) - step).mean() for m in (10, 100, 10_000)]
    yield Check("M/N = 1/10, N = 100,000: w(r) and the step of the partial AUC", gaps[-1], 0.01)
    yield Check("the same falls with N", float(max(np.diff(gaps))), 0.0)


def ranks_drawn(top: int, n: int, n_items: int, draws: int) -> Vector:
    """Normalised ranks of the negatives that the library's DNS(M, N) draws for one user."""
    positives = Positives(np.zeros(1, np.int64), np.array([n_items]), 1, n_items + 1)
    config = DNSMNConfig(candidates=n, top=top)
    sampler = DNSMNSampler(positives, 1, config, torch.Generator())
    table = torch.linspace(1, -1, n_items + 1).unsqueeze(1)  # the best item first
    generator = torch.Generator().manual_seed(0)
    context = Context(progress=0.0, negatives=generator, noise=generator)
    found = []
    for _ in range(draws // 2_000):
        rows = torch.zeros(2_000, dtype=torch.int64)
        batch = Batch(rows, rows, rows + n_items)
        items = sampler(batch, Embeddings(torch.ones(1, 1), table), context).items
        found.append((items.flatten().numpy() + 0.5) / n_items)
    return np.concatenate(found)


# -- 3. The softmax as a robust loss ---------------------------------------------------------------


def statement_3() -> Iterator[Check]:
    """``τ log E_q e^{d/τ} = max_Q E_Q d - τ KL(Q, q)``; and what the ball does not hold."""
    rng, tau = np.random.default_rng(0), 0.3
    d, q = rng.normal(0, 1, 8), softmax(rng.normal(0, 1, 8))
    closed = tau * np.log((q * np.exp(d / tau)).sum())

    def worst(logits: Vector) -> float:
        shares = softmax(logits)
        return float(-(shares @ d - tau * (shares * np.log(shares / q)).sum()))

    found = minimize(worst, np.zeros(8), method="BFGS", options={"gtol": 1e-10})
    yield Check("the closed form, and the worst case found", abs(closed + found.fun), 1e-6)
    tilted = softmax(np.log(q) + d / tau)
    yield Check("the worst distribution, q e^{d/τ}", np.abs(softmax(found.x) - tilted).max(), 1e-4)
    # The library's gradient weighs negatives by the same distribution.
    negatives = torch.from_numpy(d / tau + np.log(q)).unsqueeze(0).requires_grad_()
    sampled_softmax(torch.full((1,), -50.0, dtype=torch.float64), negatives, None).backward()
    assert negatives.grad is not None
    yield Check(
        "gradient of the softmax and it", np.abs(negatives.grad.numpy() - tilted).max(), 1e-6
    )
    radius = float((tilted * np.log(tilted / q)).sum())
    bound = minimize(
        lambda t: (
            np.exp(t[0]) * np.log((q * np.exp(d / np.exp(t[0]))).sum()) + np.exp(t[0]) * radius
        ),
        np.zeros(1),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-12},
    )
    yield Check(
        "τ is the multiplier of the ball of radius KL(Q*, q)", abs(np.exp(bound.x[0]) - tau), 1e-4
    )
    # No bound on another p: two pairs, one of loss L; all the mass may move to it.
    losses = np.array([0.0, 50.0])
    before, after = np.array([1 - 1e-3, 1e-3]) @ losses, np.array([0.0, 1.0]) @ losses
    yield Check(
        "a risk of .05 under p becomes 50 under another p", abs(after / before - 1000), 1e-6
    )


# -- 4. Inverse propensities -----------------------------------------------------------------------


def statement_4() -> Iterator[Check]:
    """Bias and variance of weighted means, and the effective size of a sample."""
    rng = np.random.default_rng(0)
    n, draws = 400, 20_000
    loss, chance = rng.random(n), 0.05 + 0.9 * rng.random(n)
    assumed = np.clip(chance * np.exp(rng.normal(0, 0.3, n)), 0.02, 1)
    shown = rng.random((draws, n)) < chance
    for name, used in (("right", chance), ("wrong", assumed)):
        estimates = (shown * loss / used).mean(axis=1)
        bias = (loss * (chance / used - 1)).mean()
        variance = (chance * (1 - chance) * (loss / used) ** 2).sum() / n**2
        apart = abs(estimates.mean() - loss.mean() - bias) / np.sqrt(variance / draws)
        yield Check(f"{name} propensities: bias, in standard errors", apart, 4.0)
        yield Check(
            f"{name} propensities: variance, as a ratio to its formula",
            abs(estimates.var() / variance - 1),
            0.05,
        )
    # A weighted mean is as uncertain as a plain one of n_eff draws.
    weights = rng.lognormal(0, 1, n)
    noise = rng.normal(0, 1, (draws, n))
    spread = ((weights * noise).sum(axis=1) / weights.sum()).var()
    effective = weights.sum() ** 2 / (weights**2).sum()
    yield Check(
        "variance of a weighted mean and 1 / n_eff, as a ratio", abs(spread * effective - 1), 0.05
    )
    second = (weights / weights.mean()) ** 2
    yield Check("n_eff and n / E w²", abs(effective - n / second.mean()), 1e-9)
    # The library's weights have the mean one over interactions, and a floor for their size.
    counts = torch.from_numpy(rng.integers(1, 500, 60))
    found = inverse_propensity(counts, PropensityConfig(exponent=0.7, floor=0.1)).double()
    mean = float((found * counts).sum() / counts.sum())
    yield Check("mean of the library's weights over interactions, and 1", abs(mean - 1), 1e-6)
    yield Check("their ratio and 1/floor, at most", float(found.max() / found.min()) - 10, 1e-4)


# -- 5. A shift of popularity ----------------------------------------------------------------------


def statement_5() -> Iterator[Check]:
    """One number for each item corrects a shift that is free of the user, exactly."""
    rng = np.random.default_rng(0)
    log_p, log_w = np.log(softmax(rng.normal(0, 1, (20, 50)))), rng.normal(0, 1, 50)
    shifted = np.log(softmax(log_p + log_w))
    apart = np.abs(centred(log_p + log_w) - centred(shifted)).max()
    yield Check("log p + log w and the log p of the shifted users", float(apart), 1e-12)
    order = [(-table).argsort(axis=1, kind="stable") for table in (log_p + log_w, shifted)]
    yield Check("lists that differ", float((order[0] != order[1]).mean()), 0.0)
    # A part that depends on the user costs what its variance says, and no more than its range.
    rest = rng.normal(0, 0.7, (20, 50))
    truth, read = softmax(log_p + log_w + rest), softmax(log_p + log_w)
    cost = (truth * np.log(truth / read)).sum(axis=1)
    t, w = np.polynomial.legendre.leggauss(30)
    integral = np.zeros(20)
    for point, weight in zip((t + 1) / 2, w / 2, strict=True):
        path = softmax(log_p + log_w + point * rest)
        mean = (path * rest).sum(axis=1, keepdims=True)
        integral += weight * point * (path * (rest - mean) ** 2).sum(axis=1)
    yield Check("KL(p', read) and ∫ t Var_t(r) dt", float(np.abs(cost - integral).max()), 1e-9)
    bound = (rest.max(axis=1) - rest.min(axis=1)) ** 2 / 8
    yield Check("KL(p', read) less its bound, range(r)² / 8", float((cost - bound).max()), 0.0)
    # In the world exposure is free of the user, and clicks nearly so where few items are shown.
    world = ConfoundedWorld(
        n_users=30, n_items=40, exposures=0.5, periods=1, sharpness=1.0, confounding=1.0, seed=0
    )
    users, plan = np.arange(30), world.intervene("popularity")
    relevance = world.relevance_probability(users[:, None], np.arange(40)[None, :])
    environments = plan.logged[0], plan.shifted[0]
    logs = [np.log(world.exposure_probability(users, e) * relevance) for e in environments]
    ratio = np.log(world.exposure_law(environments[1]) / world.exposure_law(environments[0]))
    residual = centred(logs[1] - logs[0] - ratio)
    yield Check("the world's clicks: what depends on the user, RMSE", float(residual.std()), 0.02)


# -- 6. False negatives and hardness ---------------------------------------------------------------


def false_share(relevance: Vector, exposure: Vector) -> Vector:
    """``P(relevant | not clicked) = π (1 - e) / (1 - e π)``."""
    return np.asarray(relevance * (1 - exposure) / (1 - exposure * relevance))


def hardness() -> dict[str, Vector]:
    """Of the hardest of pools of 1 to 64: the mean score and the share of false negatives.

    In a world of relevance ``π`` whose score is its log-odds with noise; plain, without the 30% of
    the pool that score highest, and without those that a judge of as much noise likes best. Each is
    ``(2, pools)``.
    """
    rng = np.random.default_rng(0)
    relevance = rng.beta(1, 3, 4_000)
    false = false_share(relevance, np.full(4_000, 0.2))
    logit = np.log(relevance / (1 - relevance))
    score, judge = (torch.from_numpy(logit + rng.normal(0, 1.5, 4_000)) for _ in range(2))
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "self": [], "judge": []}
    for n in POOLS:
        drawn = torch.from_numpy(rng.integers(0, 4_000, (40_000, n)))
        for name, worth in (("plain", None), ("self", score), ("judge", judge)):
            scores = score[drawn]
            if worth is not None:
                scores = scores.masked_fill(~screened(worth[drawn], None, 0.3), -torch.inf)
            hardest = drawn.gather(1, scores.argmax(1, keepdim=True))
            found[name].append((float(score[hardest].mean()), float(false[hardest].mean())))
    return {name: np.array(values).T for name, values in found.items()}


def statement_6() -> Iterator[Check]:
    """The likelier an item is liked, the likelier it is a false negative; hardness finds it."""
    rng = np.random.default_rng(0)
    pi, e = np.meshgrid(np.linspace(0.01, 0.99, 99), np.linspace(0.0, 0.99, 100))
    share = false_share(pi, e)
    yield Check("it rises with π", float(-np.diff(share, axis=1).min()), 0.0)
    yield Check("it falls with e", float(np.diff(share, axis=0).max()), 0.0)
    relevance, exposure = rng.random(50), rng.random(50)
    liked = rng.random((200_000, 50)) < relevance
    clicked = liked & (rng.random((200_000, 50)) < exposure)
    found = (liked & ~clicked).sum(axis=0) / (~clicked).sum(axis=0)
    error = np.sqrt(0.25 / (~clicked).sum(axis=0))
    apart = np.abs((found - false_share(relevance, exposure)) / error).max()
    yield Check("a simulated log and the formula, in standard errors", float(apart), 4.5)
    of = hardness()
    (scores, plain), (_, judged) = of["plain"], of["judge"]
    yield Check("a harder sampler has more false negatives", float(-np.diff(plain).min()), 0.0)
    yield Check("with a judge fewer, at the same pool", float((judged - plain)[2:].max()), 0.0)
    gaps = {
        name: (of[name][1] - np.interp(of[name][0], scores, plain))[2:]
        for name in ("self", "judge")
    }
    yield Check("with a judge fewer, at the same score", float(gaps["judge"].max()), -0.03)
    yield Check("its own judge: as a smaller pool", float(np.abs(gaps["self"]).max()), 0.02)


# -- 7. What can be identified ---------------------------------------------------------------------


def statement_7() -> Iterator[Check]:
    """Taste and environment are known up to a factor of each item; two tell a change."""
    rng = np.random.default_rng(0)
    taste, environments = rng.normal(0, 1, (10, 30)), rng.normal(0, 1, (2, 30))
    logs = [np.log(softmax(taste + own)) for own in environments]
    other = rng.normal(0, 1, 30)
    alike = np.log(softmax((taste + other) + (environments[0] - other)))
    yield Check(
        "another taste and environment of the same log", float(np.abs(alike - logs[0]).max()), 1e-12
    )
    wrong = np.log(softmax((taste + other) + environments[1]))
    change = float(np.abs(centred(wrong) - centred(logs[1])).max())
    yield Check("and they differ under another environment: 1 less the gap", 1 - change, 0.0)
    told = (centred(logs[1]) - centred(logs[0])).mean(axis=0)
    apart = np.abs(told - centred(environments[1] - environments[0])).max()
    yield Check("two environments: the change of the environment", float(apart), 1e-12)
    even = np.log(softmax(taste))
    yield Check(
        "randomised exposure: taste", float(np.abs(centred(even) - centred(taste)).max()), 1e-12
    )


STATEMENTS: dict[int, Callable[[], Iterator[Check]]] = {
    1: statement_1,
    2: statement_2,
    3: statement_3,
    4: statement_4,
    5: statement_5,
    6: statement_6,
    7: statement_7,
}


def draw() -> Any:
    """The weight of ranks, and the share of false negatives over the size of the pool."""
    import matplotlib
    from frontier_figure import COLOURS, OTHER, OURS, STYLE
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        ranks = np.linspace(0, 0.3, 600)
        for (top, n), colour in zip(
            ((1, 32), (2, 32), (20, 200)),
            (COLOURS["sampler"], COLOURS["ablation"], OTHER),
            strict=True,
        ):
            left.plot(ranks, weight_of_rank(ranks, top, n), color=colour, label=f"DNS({top}, {n})")
        left.axhline(1, color="#888888", linewidth=0.8, linestyle=":", label="uniform")
        left.set_xlabel("rank among all negatives, best = 0")
        left.set_ylabel("weight of the rank")
        left.legend(frameon=False, labelcolor="linecolor")
        of = hardness()
        for name, colour, label in (
            ("plain", COLOURS["sampler"], "the hardest of a pool"),
            ("self", OTHER, "without its own top 30%"),
            ("judge", COLOURS[OURS], "without a judge's top 30%"),
        ):
            scores, false = of[name] if name == "plain" else of[name][:, 2:]
            right.plot(scores, 100 * false, color=colour, marker=".", label=label)
        right.set_xlabel("mean score of the negatives")
        right.set_ylabel("false negatives, %")
        right.legend(frameon=False, labelcolor="linecolor")
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", default=list(STATEMENTS), choices=STATEMENTS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path, help="where the figure goes, an SVG file")
    options = parser.parse_args()
    rows = []
    print("| statement | check | apart | at most | |")
    print("|---|---|---|---|---|")
    for number in options.only:
        for check in STATEMENTS[number]():
            rows.append({"statement": number, **check._asdict(), "holds": check.holds})
            print(
                f"| {number} | {check.what} | {check.apart:.2g} | {check.tolerance:.2g} "
                f"| {'holds' if check.holds else 'FAILS'} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.figure:
        from frontier_figure import write_svg

        write_svg(draw(), options.figure)
    sys.exit(not all(row["holds"] for row in rows))


if __name__ == "__main__":
    main()
