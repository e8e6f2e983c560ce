"""The parts of a run's report that ask the model itself: its dial, and its sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from cnsdiff.base.errors import DataError
from cnsdiff.base.seeding import torch_generator
from cnsdiff.base.text import Command, parameter
from cnsdiff.data import Dataset, Split
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title, percent
from cnsdiff.environment import Environment
from cnsdiff.evaluation import exposure_score, readings
from cnsdiff.evaluation.dial import exposure_counts, in_words
from cnsdiff.evaluation.fhn import FalseNegatives, false_negatives, nearest_items
from cnsdiff.evaluation.judges import judge_for
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.embedding_model import Model
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.trained_sampler import SampledNegatives
from cnsdiff.report.accuracy import Measured
from cnsdiff.report.charts import DOTTED, SPLITS, Style, chart, mark_x, method_styles, ring
from cnsdiff.report.document import Block, Figure, Prose, verbatim
from cnsdiff.samplers.base import Batch, Items, Vectors
from cnsdiff.samplers.candidates import candidate_scores, draw_candidates, pick
from cnsdiff.training.selection import as_configured

#: Where the dial is read, besides the one that was chosen.
DIALS = (-4.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Users of each split whose lists are read at every dial.
USERS = 1_000
_OWN = "this run"
#: By split and dial, the value of each metric.
Readings = dict[str, dict[float, dict[str, float]]]
#: Training pairs whose negatives are measured, and of how many each kind is drawn in the map.
PAIRS, DRAWN = 4_000, 300
#: Candidates of the heuristic negative, as in dynamic negative sampling.
CANDIDATES = 32
#: Cells of the distribution of scores.
CELLS = 40


# --- The section "Dial": accuracy on either test as popularity counts for less or for more


def dial_blocks(
    model: Model,
    config: Config,
    dataset: Dataset,
    held_out: Mapping[str, Split],
    references: Sequence[Measured],
    metric: str,
) -> list[Block]:
    """The frontier between the tests, and each measure along the dial.

    Parameters
    ----------
    model
        Its scores as trained, on which the dial is turned.
    config
        What chose its dial.
    dataset
        With the splits and the exposure.
    held_out
        The tests, to describe; nothing is chosen by them.
    references
        Measured on the same tests, for comparison; they have no dial.
    metric
        With its cut-off.
    """
    scorer = model.scorer(dial=0.0)
    exposure = exposure_score(dataset)
    gammas, ks = tuple(sorted({*DIALS, model.dial})), config.evaluation.ks
    tests = {split: pairs.of_some_users(USERS) for split, pairs in held_out.items()}
    values: Readings = {
        split: readings(scorer, exposure, pairs, model.train, gammas=gammas, ks=ks)
        for split, pairs in tests.items()
    }
    # What chose the dial: validation, as training expected the shift.
    training = config.training
    if "valid" in dataset.split_names and training.selection_split == "valid":
        valid = dataset.split("valid").of_some_users(USERS)
        expected = []
        if (shift := training.anticipated) is not None:
            counts = exposure_counts(dataset).numpy()
            expected = [as_configured(shift, training, valid, model.train, ks, counts)]
        values["valid"] = readings(
            scorer, exposure, valid, model.train, gammas=gammas, ks=ks, anticipations=expected
        )
    blocks: list[Block] = [Prose(_choice(model.dial, config))]
    if set(held_out) == {"test_iid", "test_ood"}:
        blocks.append(_frontier(values, tests, references, model.dial, metric))
    blocks.append(_along(values, model.dial, training.selection_metrics[0], metric))
    return blocks


def environment_blocks(environment: Environment) -> list[Block]:
    """The environment that a rehearsal chose, covariate by covariate."""
    days = environment.span / 86_400
    names = [
        f"{name} of the {days:,.0f} days" if "half-life" in name else name
        for name in environment.names
    ]
    text = (
        "Scores are the taste that was trained, and an environment that changes with time: how "
        "often, how lately and since when an item was used. Epoch and coefficients were chosen by "
        "a rehearsal on the last part of the training data; then all of it was trained on. The "
        "environment was computed at the end of the training data, and can be computed again "
        "later without training. On a random split of the past it costs accuracy: that is the "
        "wrong yardstick for the time to come."
    )
    table = Table.of(
        "The environment",
        ["covariate, standardised over the items"],
        [Column("coefficient", "coefficient, in spreads of a user's scores", 3)],
        [([name], [value]) for name, value in zip(names, environment.coefficients, strict=True)],
    )
    return [Prose(text), table]


def _choice(dial: float, config: Config) -> str:
    training = config.training
    selecting = metric_title(training.selection_metrics[0])
    how = {
        "auto": f"It was chosen on validation alone, by **{selecting}**",
        "off": "It was switched off when training",
    }.get(str(training.dial), "It was fixed when training")
    return (
        "The dial adds a share of an item's exposure to every score: below 0 popularity counts "
        "for less than in training, above 0 for more. One training serves all of it. "
        f"This model is read at **{in_words(dial)}**. {how}; the curves below describe what the "
        "tests would have shown, and chose nothing. Picking a dial from them would be picking on "
        "the test."
    )


def _frontier(
    values: Readings,
    tests: Mapping[str, Split],
    references: Sequence[Measured],
    dial: float,
    metric: str,
) -> Figure:
    title = metric_title(metric)
    gammas = list(values["test_iid"])
    iid, ood = (
        [values[split][gamma][metric] for gamma in gammas] for split in ("test_iid", "test_ood")
    )
    # The references on the same users.
    points = {
        reference.name: tuple(
            _mean_of(reference, split, tests[split], metric) for split in ("test_iid", "test_ood")
        )
        for reference in references
    }
    styles = method_styles([_OWN, *points])
    figure = chart(x=f"IID {title}", y=f"OOD {title}", height=440)
    figure.add_scatter(
        x=iid,
        y=ood,
        mode="lines+markers",
        name=f"{_OWN}, by its dial",
        marker={**styles[_OWN].marker, "size": 6},
        line=styles[_OWN].line,
        text=[f"dial {gamma:g}" for gamma in gammas],
        hovertemplate="%{text}: IID %{x:.4f}, OOD %{y:.4f}<extra></extra>",
    )
    for gamma in {gammas[0], -1.0, 0.0, 1.0, gammas[-1]} - {dial}:
        at = gammas.index(gamma)
        figure.add_annotation(
            x=iid[at],
            y=ood[at],
            text=f"{gamma:g}",
            showarrow=False,
            xanchor="left",
            xshift=6,
            yshift=-9,
        )
    at = gammas.index(dial)
    figure.add_scatter(
        x=[iid[at]],
        y=[ood[at]],
        mode="markers+text",
        name="the chosen dial",
        text=[f"chosen: {dial:g}"],
        # Away from the edge, which would cut it on a narrow screen.
        textposition="top left" if 2 * iid[at] > max(iid) else "top right",
        marker=ring(styles[_OWN].colour),
        hoverinfo="skip",
    )
    for name, (x, y) in points.items():
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=name, marker={**styles[name].marker, "size": 11}
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    n_users = {split: np.unique(pairs.users).size for split, pairs in tests.items()}
    of_users = " and ".join(f"{n:,} users of the {SPLIT_TITLES[s]}" for s, n in n_users.items())
    return Figure(
        "The frontier between the two tests",
        f"{title} on either test as the dial turns (numbers along the line). Further right is "
        f"better today, further up better after the shift. Of {of_users}.",
        figure,
        pl.DataFrame(
            [(_OWN, gamma, x, y) for gamma, x, y in zip(gammas, iid, ood, strict=True)]
            + [(name, None, x, y) for name, (x, y) in points.items()],
            schema={"method": pl.String, "dial": pl.Float64, "iid": pl.Float64, "ood": pl.Float64},
            orient="row",
        ),
    )


def _along(values: Readings, dial: float, selecting: str, metric: str) -> Figure:
    figure = chart(x="dial", y="share of its own best")
    gammas = list(next(iter(values.values())))
    columns: dict[str, list[float]] = {"dial": gammas}
    for split, by_dial in values.items():
        own = selecting if split == "valid" else metric
        reached = columns[f"{split}/{own}"] = [each[own] for each in by_dial.values()]
        best = max(reached)
        title = SPLIT_TITLES[split]
        # Evenly spaced dials: most of what happens, happens around 0.
        figure.add_scatter(
            x=list(range(len(gammas))),
            y=[value / best for value in reached] if best else reached,
            mode="lines+markers",
            name=f"{title}, {metric_title(own)}" if split == "valid" else title,
            marker={**SPLITS[split].marker, "size": 7},
            line=SPLITS[split].line,
        )
    mark_x(figure, gammas.index(dial), f"chosen: {dial:g}")
    figure.update_xaxes(
        tickmode="array", tickvals=list(range(len(gammas))), ticktext=[f"{g:g}" for g in gammas]
    )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return Figure(
        "Along the dial",
        "What selected the dial, and what each test would have shown. Where the curve of "
        "validation peaks near that of the OOD test, the anticipated shift was the one that came.",
        figure,
        pl.DataFrame(columns),
    )


def _mean_of(model: Measured, split: str, pairs: Split, metric: str) -> float:
    """Over the users of ``pairs``, some of those of the split."""
    users = pl.Series(np.unique(pairs.users))
    own = model.per_user(split).filter(pl.col("user").is_in(users.implode()))
    return float(own[metric].to_numpy().mean())


# --- The section "New items": what is in lists of items that train has never seen


def new_item_blocks(model: Recommender, dataset: Dataset, metric: str) -> list[Block]:
    """How new items of the OOD test are placed, and how what places them was chosen.

    Parameters
    ----------
    model
        With content or without.
    dataset
        As it was learnt; without new items there are no blocks, unless content was asked for.
    metric
        With its cut-off.
    """
    n_pairs = 0
    if dataset.n_new_items:
        n_pairs = int((dataset.table("new_item_pairs")["split"] == "test_ood").sum())
    choice = model.content_
    if choice is None and not n_pairs:
        return []
    new = f"{n_pairs:,} more pairs of the OOD test are on {dataset.n_new_items:,} new items"
    if choice is None:
        asked = parameter("content", "auto")
        return [
            Prose(
                f"{new}, which are in no list, and not in the numbers of this report: a model "
                f"without content cannot tell them. Train one with `{verbatim(asked)}`."
            )
        ]
    blocks: list[Block] = []
    if choice.used and n_pairs:
        found = model.evaluate_new_items(dataset)
        share = found.share_listed[int(metric.partition("@")[2])]
        blocks.append(
            Prose(
                f"**{percent(found.share_taken)}** of the OOD test's pairs are on "
                f"{dataset.n_new_items:,} new items, which take **{percent(share)}** of the places "
                "in lists of all items. The other sections are of the items known to train alone."
            )
        )
        of = {
            "old items, in lists of old items": (found.warm, found.n_users["warm"]),
            "new items, in lists of new items": (found.new, found.n_users["new"]),
            "all items in one list": (found.joint, found.n_users["joint"]),
            "harmonic mean of old and new": (found.harmonic, None),
        }
        names = list(found.joint)
        shown = [metric, *(n for n in names if n != metric and n.startswith(("ndcg", "recall")))]
        blocks.append(
            Table.of(
                "Old and new items of the OOD test",
                ["pairs of"],
                [*(Column(n, metric_title(n)) for n in shown), Column("users", "users", 0)],
                [([title], [*map(own.get, shown), n]) for title, (own, n) in of.items() if own],
                "The harmonic mean is high only if both are.",
            )
        )
    elif n_pairs:
        blocks.append(Prose(f"{new}, which are in no list, as content is not used."))
    # What was chosen, and what it reached where it was chosen.
    told = choice.metrics
    selecting = metric_title(model.config_.training.select_metric)
    prior = {"ridge": "a ridge regression", "mlp": "a neural network"}.get(
        choice.prior, choice.prior
    )
    made = "; ".join(
        [
            f"vectors of items are told from features by {prior}"
            + ("" if choice.length is None else ", all of one length"),
            "no towers" if not choice.weight else f"towers weigh {choice.weight:g}",
            f"features weigh as much as {choice.pull:g} interactions of an item",
            f"scores of new items are moved by {choice.offset:+g} spreads of a user's scores"
            if choice.offset
            else "scores of new items are left as they are",
        ]
    )
    lead = "Content was chosen" if choice.used else "Content was left out; the best of it was"
    blocks += [
        Prose(f"{lead} on items held out of training as if they were new: {made}."),
        Table.of(
            f"{selecting} of the pairs held out to choose content",
            ["pairs of"],
            [Column("value", selecting)],
            [
                ([title], [told[name]])
                for name, title in {
                    "with": "all items, with content",
                    "without": "all items, without content: new ones are in no list",
                    "warm": "old items, without content",
                    "new": "new items, with content",
                    "profile": "new items, by the profile of a user without a model",
                }.items()
                if name in told
            ],
            "No test chose. Those of new items are in lists of new items.",
        ),
    ]
    return blocks


# --- The section "Negatives": those of the trained sampler, random and heuristic ones


@dataclass(frozen=True)
class Kind:
    """One kind of negative for each of the pairs: ``vectors (B, d)``, and what they are called."""

    name: str
    negatives: Items | Vectors
    vectors: Tensor
    scores: Tensor
    style: Style


def negative_blocks(model: Recommender, dataset: Dataset, seed: int) -> list[Block]:
    """A map of the embeddings, how the negatives score, and how many of them are false.

    Parameters
    ----------
    model
        Trained on ``dataset``.
    dataset
        Its train split gives the pairs, its validation tells what else their users like.
    seed
        Of pairs, negatives and the points drawn.

    Raises
    ------
    InputError
        The model's sampler is a class that is not at hand.
    """
    found = model.sampled_negatives(dataset, n=PAIRS, seed=seed)
    batch, embeddings = found.batch, found.embeddings
    device = embeddings.items.device

    def stream(purpose: str) -> torch.Generator:
        return torch_generator(seed, f"report/{purpose}", device=device)

    users = embeddings.users[batch.users]
    random = found.positives.sample_negatives(batch.users, 1, stream("random"))
    candidates = draw_candidates(found.positives, batch.users, 1, CANDIDATES, stream("candidates"))
    hardest = pick(candidates, candidate_scores(users, embeddings.items, candidates))
    sampler = model.config_.sampler.name
    styles = method_styles([sampler, "mostpop", "itemknn", "ease", "random", "hardest"])

    def kind(name: str, negatives: Items | Vectors, style: str) -> Kind:
        vectors = negatives.embed(embeddings)[:, 0].detach()
        return Kind(name, negatives, vectors, (vectors * users).sum(1), styles[style])

    kinds = [
        kind("random", Items(random), "random"),
        kind(f"hardest of {CANDIDATES}", Items(hardest), "hardest"),
        kind(f"{sampler}, as trained", found.negatives, sampler),
    ]
    positive = embeddings.items[batch.positives]
    made = "picks items" if isinstance(found.negatives, Items) else "synthesises vectors"
    return [
        Prose(
            f"For {len(batch):,} training pairs, the negative that the trained sampler "
            f"**{verbatim(sampler)}** makes now (it {made}), a random one, and the hardest of "
            f"{CANDIDATES} random ones, which is what heuristic samplers look for."
        ),
        *_maps(kinds, positive, users, batch, dataset),
        _distribution(kinds, (positive * users).sum(1)),
        _table(kinds, found, (positive * users).sum(1), dataset, stream("fhn")),
    ]


def principal_plane(vectors: Tensor) -> tuple[Tensor, float]:
    """Points ``(N, d)`` on the plane of their largest variance, and the share of it there.

    Signs are fixed so that the same points give the same picture: the largest weight of either
    axis is positive.

    Returns
    -------
    points, explained
        ``(N, 2)`` (zeros where ``d`` or ``N`` is 1), and a share in ``[0, 1]``; 1 where all
        points are the same.
    """
    centred = (vectors - vectors.mean(0)).double()
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    points = centred @ (axes * largest.sign()).T
    if points.shape[1] < 2:
        points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    variance = singular.square()
    total = float(variance.sum())
    return points, float(variance[:2].sum()) / total if total else 1.0


def _maps(
    kinds: list[Kind], positive: Tensor, users: Tensor, batch: Batch, dataset: Dataset
) -> list[Figure]:
    """A figure per kind on the same plane, over the same users and positives."""
    n = min(DRAWN, len(batch))  # the pairs are in random order already
    drawn = {"users": users[:n], "positives": positive[:n]}
    drawn |= {kind.name: kind.vectors[:n] for kind in kinds}
    points, explained = principal_plane(torch.cat(list(drawn.values())).cpu())
    parts = dict(zip(drawn, (part.numpy() for part in torch.split(points, n)), strict=True))
    ids = {
        "users": dataset.decode_users(batch.users[:n].cpu().numpy()),
        "positives": dataset.decode_items(batch.positives[:n].cpu().numpy()),
    }
    ids |= {
        kind.name: dataset.decode_items(kind.negatives.items[:n, 0].cpu().numpy())
        for kind in kinds
        if isinstance(kind.negatives, Items)
    }
    edge = 1.06 * float(points.abs().max())
    grey = SPLITS["train"].marker
    ground = {
        "users": {**grey, "symbol": "circle-open", "size": 5, "opacity": 0.45},
        "positives": {**grey, "size": 5, "opacity": 0.45},
    }
    plane = (
        f"The plane holds {percent(explained)} of the variance of all points: far apart on it "
        "is far apart, near on it may still be far."
    )
    nobody = pl.Series([None] * n, dtype=pl.String)
    figures = []
    for at, kind in enumerate(kinds):
        shown = {**ground, kind.name: {**kind.style.marker, "size": 7, "opacity": 0.85}}
        figure = chart(height=340)
        frames = []
        for name, marker in shown.items():
            place = parts[name]
            own = ids.get(name, nobody).cast(pl.String)
            figure.add_scatter(
                x=place[:, 0].tolist(),
                y=place[:, 1].tolist(),
                mode="markers",
                name="negatives" if name == kind.name else name,
                marker=marker,
                text=own.fill_null("synthesised").to_list(),
                hovertemplate="%{text}",
            )
            columns = {"kind": [name] * n, "id": own, "x": place[:, 0], "y": place[:, 1]}
            frames.append(pl.DataFrame(columns))
        for axis in (figure.update_xaxes, figure.update_yaxes):
            axis(showticklabels=False, zeroline=False, range=[-edge, edge])
        figure.update_yaxes(scaleanchor="x")
        caption = f"{n} of them over their users and positives. {'' if at else plane}".strip()
        figures.append(Figure(f"Map: {kind.name}", caption, figure, pl.concat(frames), small=True))
    return figures


def _distribution(kinds: list[Kind], of_positive: Tensor) -> Figure:
    gaps = {kind.name: (kind.scores - of_positive).cpu().double().numpy() for kind in kinds}
    everything = np.concatenate(list(gaps.values()))
    # The outermost half per cent would stretch the axis until nothing could be told apart.
    low, high = np.quantile(everything, [0.005, 0.995])
    edges = np.linspace(min(low, -1e-6), max(high, 1e-6), CELLS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    figure = chart(x="score of the negative less that of its positive", y="share", height=340)
    columns = {"score_less_positive": middles}
    for kind in kinds:
        share = np.histogram(np.clip(gaps[kind.name], edges[0], edges[-1]), edges)[0]
        columns[kind.name] = share / len(of_positive)
        figure.add_scatter(
            x=middles,
            y=columns[kind.name],
            mode="lines",
            name=kind.name,
            line={**kind.style.line, "shape": "hvh"},
        )
    figure.add_vline(x=0, line=DOTTED)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return Figure(
        "Hardness",
        "How the same user scores a negative and its positive. Right of the dotted line the "
        "negative scores higher: either the model is wrong there, or the negative is.",
        figure,
        pl.DataFrame(columns),
    )


def _table(
    kinds: list[Kind],
    found: SampledNegatives,
    of_positive: Tensor,
    dataset: Dataset,
    generator: torch.Generator,
) -> Table:
    batch, embeddings, positives = found.batch, found.embeddings, found.positives
    more = Command("evaluate", "RUN", references=True, false_negatives="valid")
    judged = "valid" in dataset.split_names
    rows = []
    for kind in kinds:
        counts = FalseNegatives()
        if judged:
            try:
                judge = judge_for(dataset, "valid", embeddings.items.device)
                counts = false_negatives(
                    kind.negatives, batch, embeddings, judge, positives, generator=generator
                )
            except DataError:  # validation tells nothing of these users
                judged = False
        match kind.negatives:
            case Items(items):
                near = items
            case Vectors():
                near = nearest_items(kind.vectors, embeddings.items, 1)
        popular = positives.item_counts[near.flatten()].double().mean()
        low, high = counts.interval()
        rows.append(
            (
                (kind.name,),
                (
                    Cell(float((kind.scores > of_positive).double().mean())),
                    Cell(counts.hard_share),
                    Cell(counts.fhn, (high - low) / 2 if counts.judged else None),
                    Cell(float(popular)),
                ),
            )
        )
    return Table(
        "The negatives in numbers",
        ("negatives",),
        (
            Column("above_positive", "score above own positive", 1, percent=True, signed=False),
            Column("hard", "hard", 1, percent=True, signed=False),
            Column("false", "false", 2, percent=True, signed=False),
            Column("popularity", "mean popularity", 1),
        ),
        tuple(rows),
        (
            "hard: score above the median of the user's random candidates",
            "false: the user likes the item, by the pairs held out in validation, which are few: "
            f"compare the rows, and see {more} for more",
            "mean popularity: training pairs of the item, for a vector of the item nearest to it",
        ),
    )
