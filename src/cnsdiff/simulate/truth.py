"""The truth of a simulated dataset, written beside its splits and read back from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from cnsdiff.base.errors import CnsdiffError, DataError, did_you_mean
from cnsdiff.data import Dataset, Split
from cnsdiff.simulate.clicks import Relevance, user_blocks
from cnsdiff.simulate.environment import Intervention, Surroundings
from cnsdiff.simulate.settings import WorldSettings, validated


def truth_tables(
    relevance: Relevance,
    surroundings: Surroundings,
    plan: Intervention,
    laws: Mapping[str, NDArray[np.float64]],
) -> dict[str, pl.DataFrame]:
    """``truth_users`` and ``truth_items``.

    The lists ``salience`` and ``log_exposure_law`` of an item have an entry for each environment,
    in the order of the manifest's ``settings.environments``: logged, then test_ood.
    """
    environments = {environment.label: environment for environment in (*plan.logged, *plan.shifted)}
    salience = np.stack([environment.salience for environment in environments.values()], axis=1)
    with np.errstate(divide="ignore"):  # what is not there yet: minus infinity
        log_law = np.log(np.stack([laws[label] for label in environments], axis=1))
    return {
        "truth_users": pl.DataFrame({"user": relevance.user_numbers, "taste": relevance.tastes}),
        "truth_items": pl.DataFrame(
            {
                "item": relevance.item_numbers,
                "attribute": relevance.attributes,
                "season_group": surroundings.season_group,
                "promotion_group": surroundings.promotion_group,
                "salience": salience,
                "log_exposure_law": log_law,
            }
        ),
    }


@dataclass(frozen=True, eq=False)
class WorldTruth:
    """The truth of the world behind a dataset, in the dataset's internal numbers."""

    environments: dict[str, tuple[str, ...]]
    """Labels of the environments behind ``"logged"`` (train, valid, test_iid) and
    ``"test_ood"``, in time order."""
    relevance: Relevance
    """The tastes of the users."""
    salience: dict[str, NDArray[np.float64]]
    log_laws: dict[str, NDArray[np.float64]]
    """``E`` and ``log p(i | do(e))`` by label, ``(n_items,)`` each."""

    @classmethod
    def of(cls, dataset: Dataset) -> WorldTruth:
        """The truth of a dataset made by :meth:`ConfoundedWorld.dataset`, saved or not.

        :class:`DataError` if the dataset is not of a simulated world, or its truth is damaged.
        """
        place = dataset.path or dataset.name
        if not {"truth_users", "truth_items"} <= set(dataset.table_names):
            raise DataError(
                f"{place}: its truth is not known, since it does not come from a simulated "
                "world; make one with cnsdiff simulate"
            )
        users, items = dataset.table("truth_users"), dataset.table("truth_items")
        try:
            settings: Mapping[str, Any] = dataset.manifest.settings
            world = validated(WorldSettings, settings["world"])
            environments = {
                role: tuple(map(str, labels)) for role, labels in settings["environments"].items()
            }
            labels = list(dict.fromkeys((*environments["logged"], *environments["test_ood"])))
            relevance = Relevance(
                tastes=_matrix(users["taste"], world.dim),
                attributes=_matrix(items["attribute"], world.dim),
                sharpness=world.sharpness,
                threshold=world.threshold,
                seed=world.seed,
                user_numbers=dataset.users.cast(pl.Int64).to_numpy(),
                item_numbers=dataset.items.cast(pl.Int64).to_numpy(),
                world_items=world.n_items,
            )
            salience = _matrix(items["salience"], len(labels))
            log_laws = _matrix(items["log_exposure_law"], len(labels))
        except (
            AttributeError, KeyError, TypeError, ValueError, CnsdiffError,
            pl.exceptions.PolarsError,
        ) as error:  # fmt: skip
            raise DataError(
                f"{place}: its truth does not fit its manifest ({error}); make it again with "
                "cnsdiff simulate"
            ) from error
        return cls(
            environments=environments,
            relevance=relevance,
            salience=dict(zip(labels, salience.T, strict=True)),
            log_laws=dict(zip(labels, log_laws.T, strict=True)),
        )

    def relevance_probability(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """``P(R_ui = 1)`` of internal numbers that broadcast; ``(B,)`` users go with ``(B, k)``."""
        return self.relevance.probability(users, items)

    def relevant(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.bool_]:
        """``R_ui``: whether each user likes each item; broadcasts as above."""
        return self.relevance.drawn(users, items)

    def preferences(self, train: Split) -> Split:
        """All pairs of users and the items they truly like, without those of ``train``.

        As the held-out pairs of :func:`cnsdiff.evaluation.evaluate_split` they measure the
        ranking by true preference, free of any exposure. There are about as many as pairs that
        were never shown and would be liked: a share of all users × items.
        """
        n_users, n_items = len(self.relevance.user_numbers), len(self.relevance.item_numbers)
        seen = train.csr(n_users, n_items)
        everything = np.arange(n_items)
        pairs = []
        for users in user_blocks(n_users, n_items):
            liked = self.relevant(users[:, None], everything[None, :])
            row, item = np.nonzero(liked & (seen[users].toarray() == 0))
            pairs.append((users[row], item))
        users, items = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return Split("true_preferences", users, items)

    def exposure_law(self, environment: str) -> NDArray[np.float64]:
        """``p(i | do(e))`` ``(n_items,)``, free of ``u`` (equation 21).

        ``environment`` is a label, or ``"logged"`` or ``"test_ood"``: the mean over the
        environments of that part. It sums to 1 over the items of the world, so to less where some
        do not occur in train. :class:`DataError` if there is no such environment.
        """
        labels = self.environments.get(environment, (environment,))
        unknown = [label for label in labels if label not in self.log_laws]
        if unknown:
            known = (*self.environments, *self.log_laws)
            raise DataError(
                f"there is no environment {unknown[0]!r}{did_you_mean(unknown[0], known)}; "
                f"environments are {', '.join(known)}"
            )
        laws = [np.exp(self.log_laws[label]) for label in labels]
        return np.asarray(np.mean(laws, axis=0))


def _matrix(column: pl.Series, width: int) -> NDArray[np.float64]:
    """A column of lists as ``(rows, width)``; ValueError for other lengths or missing rows."""
    if column.null_count():
        raise ValueError(f"column {column.name!r} has rows missing")
    return column.cast(pl.Array(pl.Float64, width)).to_numpy()
