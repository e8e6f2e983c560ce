"""What a negative distribution makes the score forget (equation 21), in numbers.

    python benchmarks/optimum.py [--steps 4000] [--draws 8 64 512] [--seeds 0 1 2] [--json FILE]

First a table of free scores, a parameter for every pair, of a small world of known ``p(i|u)``. It
learns by the library's softmax from the negatives of the library's sampler ``q ∝ pop^α``; the
positives are no sample, each pair counts by its probability. The theory says that the scores become
``log p(i|u) - log q(i)`` up to a constant of the user. Then the default on the simulated world of
the benchmark, for the same ``α``: how well its scores agree, item by item within a user, with the
log-odds of relevance and with the log of the exposure law.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.backbones.base import Embeddings
from cnsdiff.data.positives import Positives
from cnsdiff.objectives.losses import sampled_softmax
from cnsdiff.samplers.base import Batch, Context
from cnsdiff.samplers.static import ExposureConfig, ExposureSampler
from cnsdiff.simulate import WorldTruth

ALPHAS = (0.0, 0.5, 1.0)
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """``log p(i|u)`` as logged and under ``do(e')``, ``(U, I)``; the rest is ``(I,)``.

    ``log_law_ratio`` is ``log p(i|do(e')) - log p(i|do(e))``, free of the user.
    """

    log_p: Matrix
    log_p_shifted: Matrix
    log_law_ratio: Matrix
    counts: NDArray[np.int64]

    @property
    def log_popularity(self) -> Matrix:
        """Log of each item's share of the log; the sampler knows its counts, so whole numbers."""
        return np.log(self.counts / self.counts.sum())


def table(n_users: int, n_items: int, shown: float, seed: int) -> Table:
    """A world of one period that shows a user a share ``shown`` of the items; popularity inverts.

    Taste and environment are gentle (``κ = b = 1``): under stronger ones the rarest of the pairs
    have ``p(i|u)`` of 1e-8, and hardly a gradient.
    """
    world = ConfoundedWorld(
        n_users=n_users,
        n_items=n_items,
        exposures=shown * n_items,
        periods=1,
        sharpness=1.0,
        confounding=1.0,
        seed=seed,
    )
    users = np.arange(n_users)
    relevance = world.relevance_probability(users[:, None], np.arange(n_items)[None, :])
    plan = world.intervene("popularity")
    environments = plan.logged[0], plan.shifted[0]
    joint = [world.exposure_probability(users, e) * relevance for e in environments]
    log_p, log_p_shifted = (np.log(p / p.sum(axis=1, keepdims=True)) for p in joint)
    laws = [np.log(world.exposure_law(e)) for e in environments]
    # So large a log that rounding to whole interactions changes no share by a per cent.
    share = np.exp(log_p).mean(axis=0)
    counts = np.maximum(np.rint(share * 200 / share.min()), 1).astype(np.int64)
    return Table(log_p, log_p_shifted, laws[1] - laws[0], counts)


def sampler_of(counts: NDArray[np.int64], alpha: float, draws: int) -> ExposureSampler:
    """The library's sampler over a log with these item counts, each user in it once."""
    items = np.repeat(np.arange(len(counts)), counts)
    positives = Positives(np.arange(len(items)), items, len(items), len(counts))
    config = ExposureConfig(exponent=alpha, n_negatives=draws)
    return ExposureSampler(positives, len(counts), config, torch.Generator())


def learn(world: Table, alpha: float, draws: int, *, masked: bool, steps: int, seed: int) -> Matrix:
    """The free scores ``(U, I)`` after ``steps``, a mean over the last quarter of them."""
    n_users, n_items = world.log_p.shape
    sampler = sampler_of(world.counts, alpha, draws)
    weights = torch.from_numpy(np.exp(world.log_p)).flatten() * n_items
    scores = torch.zeros(n_users, n_items, dtype=torch.float64, requires_grad=True)
    user = torch.arange(n_users).repeat_interleave(n_items)
    item = torch.arange(n_items).repeat(n_users)
    batch, own = Batch(item, user, item), torch.eye(n_items, dtype=torch.bool).repeat(n_users, 1)
    generator = torch.Generator().manual_seed(seed)
    context = Context(progress=0.0, negatives=generator, noise=generator)
    optimiser = torch.optim.Adam([scores], lr=0.1, eps=1e-12)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=1e-3)
    total, counted = torch.zeros_like(scores), 0
    for step in range(steps):
        negatives = sampler(batch, Embeddings(scores, torch.eye(n_items)), context)
        # The same item drawn m times is one logit, log m higher: 40 columns in place of 512.
        log_times = torch.bincount(negatives.items, minlength=n_items).double().log()
        logits = (scores + log_times)[user]
        loss = sampled_softmax(scores.flatten(), logits, ~own if masked else None, weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step >= steps * 3 // 4:
            total, counted = total + scores.detach(), counted + 1
    return (total / counted).numpy()


def masked_optimum(log_p: Matrix) -> Matrix:
    """``log r``, ``(U, I)``, where a row's own positive is left out of very many negatives.

    The loss is then ``-Σ p log(r / (1 - r))`` over ``r ∝ q e^s`` of sum 1, so that
    ``r (1 - r) ∝ p``: the positive is told from all others, not from all.
    """
    p = np.exp(log_p)
    # The scale of p such that r = (1 - sqrt(1 - 4 c p)) / 2 sums to 1, by bisection.
    low, high = np.zeros((len(p), 1)), 1 / (4 * p.max(axis=1, keepdims=True))
    for _ in range(100):
        middle = (low + high) / 2
        r = (1 - np.sqrt(1 - 4 * middle * p)) / 2
        above = r.sum(axis=1, keepdims=True) > 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.log(r)


def within_users(found: Matrix, expected: Matrix) -> tuple[float, float]:
    """Pearson's correlation over items, a mean over users, and the RMSE without user means."""
    a = found - found.mean(axis=1, keepdims=True)
    b = expected - expected.mean(axis=1, keepdims=True)
    correlation = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(correlation.mean()), float(np.sqrt(np.mean((a - b) ** 2)))


def free_table(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The first part, a row for each way of learning."""
    world = table(options.users, options.items, options.shown, seed=0)
    most = max(options.draws)
    steps = options.steps
    ways = [(alpha, most, False, steps) for alpha in ALPHAS]
    ways += [(0.5, draws, False, steps) for draws in options.draws if draws != most]
    ways += [(0.5, min(options.draws), False, 4 * steps)]
    ways += [(0.5, draws, True, steps) for draws in (most, min(options.draws))]
    print(
        f"free table, {options.users} users × {options.items} items, a share of {options.shown:g} "
        f"shown, largest p(i|u) {np.exp(world.log_p.max()):.2f}"
    )
    print("correlation within users / RMSE of the score, or of its reading, with")
    print(
        "| α | M | steps | own positive | log p - log q | + α log pop: log p | under e': log p' |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for alpha, draws, masked, taken in ways:
        scores = learn(world, alpha, draws, masked=masked, steps=taken, seed=1)
        log_q = alpha * world.log_popularity
        natural = scores + log_q
        row: dict[str, Any] = {"alpha": alpha, "draws": draws, "masked": masked, "steps": taken}
        row["theory"] = within_users(scores, world.log_p - log_q)
        row["logged"] = within_users(natural, world.log_p)
        row["shifted"] = within_users(natural + world.log_law_ratio, world.log_p_shifted)
        row["as_trained_shifted"] = within_users(scores, world.log_p_shifted)
        if masked:
            row["masked_theory"] = within_users(natural, masked_optimum(world.log_p))
        rows.append(row)
        cells = " | ".join(
            f"{row[name][0]:.4f} / {row[name][1]:.3f}" for name in ("theory", "logged", "shifted")
        )
        own = "left out" if masked else "kept"
        print(f"| {alpha:g} | {draws} | {taken} | {own} | {cells} |", flush=True)
        if masked:
            r, rmse = row["masked_theory"]
            print(f"  of these with r (1 - r) ∝ p, for very many draws: {r:.4f} / {rmse:.3f}")
        else:
            print(f"  as trained with log p': {row['as_trained_shifted'][0]:.2f}")
    for shown in (options.shown, 0.1):
        exact = table(options.users, options.items, shown, seed=0)
        r, rmse = within_users(exact.log_p + exact.log_law_ratio, exact.log_p_shifted)
        print(f"the reading of log p(i|u) itself, a share of {shown:g} shown: {r:.4f} / {rmse:.3f}")
        rows.append({"shown": shown, "identity": (r, rmse)})
    return rows


def trained(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The second part: α × reading, means over seeds."""
    print()
    print("the default on ConfoundedWorld(confounding=1.5), hybrid; correlation within users with")
    print("| α | reading | γ | log-odds of relevance | log exposure | OOD NDCG@20 | IID NDCG@20 |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for alpha in ALPHAS:
        found = [_readings(alpha, seed, options) for seed in options.seeds]
        for name in found[0]:
            values = np.array([list(one[name].values()) for one in found])
            row = dict(zip(found[0][name], values.mean(axis=0).tolist(), strict=True))
            rows.append({"alpha": alpha, "reading": name, **row, "by_seed": values.tolist()})
            print(
                f"| {alpha:g} | {name} | {row['gamma']:.2f} | {row['relevance']:.3f} "
                f"| {row['exposure']:.3f} | {row['ood']:.4f} | {row['iid']:.4f} |",
                flush=True,
            )
    return rows


def _readings(alpha: float, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    dataset = ConfoundedWorld(confounding=1.5, seed=seed).dataset("hybrid")
    truth = WorldTruth.of(dataset)
    model = Recommender(
        seed=seed,
        threads=options.threads,
        sampler_options={"exponent": alpha},
        training={"epochs": options.epochs, "fhn_every": None, "dial": "off"},
    ).fit(dataset)
    users = np.arange(dataset.n_users)
    relevance = truth.relevance.sharpness * truth.relevance.affinity(
        users[:, None], np.arange(dataset.n_items)[None, :]
    )
    exposure = np.broadcast_to(np.log(truth.exposure_law("logged")), relevance.shape)
    dials = {"as trained": 0.0}
    for on in ("valid", "inverse-popularity"):
        dials[on] = model.best_dial(dataset, on)
    found = {}
    for name, gamma in dials.items():
        scorer = model.model_.scorer(dial=gamma)
        scores: Tensor = scorer.score_block(torch.from_numpy(users), 0, dataset.n_items)
        table_of = scores.double().numpy()
        metrics = model.evaluate(dataset, ("test_iid", "test_ood"), dial=gamma)
        found[name] = {
            "gamma": gamma,
            "relevance": within_users(table_of, relevance)[0],
            "exposure": within_users(table_of, exposure)[0],
            "ood": metrics["test_ood"]["ndcg@20"],
            "iid": metrics["test_iid"]["ndcg@20"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--shown", type=float, default=0.0125, help="share of the items, a period")
    parser.add_argument("--draws", type=int, nargs="*", default=[8, 64, 512], help="M")
    parser.add_argument("--steps", type=int, default=4000, help="of the free table")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the world")
    parser.add_argument("--epochs", type=int, default=120, help="of the default, at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {"free_table": free_table(options), "trained": trained(options)}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
