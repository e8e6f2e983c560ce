"""How much of the differences between trials each setting accounts for.

fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014): a random forest is fitted to the values of the
completed trials, and its variance over the space is divided among the settings. A forest fitted to
a few trials says little. So there are several, each of a part of the trials: a share is their mean,
and how far they disagree is told with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ConfigDict, FiniteFloat, model_validator

from cnsdiff.base.search_space import Space
from cnsdiff.base.seeding import derive_seed, numpy_generator
from cnsdiff.base.settings import Record, shown
from cnsdiff.tuning.trial import Trial

#: With fewer completed trials nothing is said.
LEAST_TRIALS = 8
#: How many forests there are, and which share of the trials each of them sees.
_FORESTS, _SHARE = 10, 0.8
_TREES = 16
#: A setting leads if it comes first in so many of the forests.
_LEADS = 0.9


@dataclass(frozen=True)
class Share:
    """Of the variance of a forest, what one setting explains.

    Attributes
    ----------
    share
        The mean over the forests; those of all settings sum to one.
    low, high
        The 10% and 90% quantiles over the forests.
    """

    share: float
    low: float
    high: float


class ShareRecord(Record):
    """A :class:`Share` in ``study.json``."""

    model_config = ConfigDict(extra="forbid")

    share: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class ImportancesRecord(Record):
    """:class:`Importances` in ``study.json``."""

    shares: dict[str, ShareRecord]
    n_trials: int
    leader: str | None

    @model_validator(mode="after")
    def _known(self) -> ImportancesRecord:
        if self.leader is not None and self.leader not in self.shares:
            raise ValueError(f"leader is {shown(self.leader)}, which has no share")
        return self


@dataclass(frozen=True)
class Importances:
    """The shares of all settings searched.

    Attributes
    ----------
    shares
        By the setting's dotted key, largest first.
    n_trials
        Completed trials that they are of.
    leader
        The setting that comes first, whichever trials are left out; ``None`` if there is none.
    """

    shares: dict[str, Share]
    n_trials: int
    leader: str | None

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Importances:
        """What :meth:`as_json` was made of."""
        shares = {key: Share(**share) for key, share in record["shares"].items()}
        return cls(shares, record["n_trials"], record["leader"])


def importances(
    trials: Iterable[Trial], spaces: Mapping[str, Space], seed: int
) -> Importances | None:
    """The importances of the settings; ``None`` if there are too few trials, or none differ.

    Parameters
    ----------
    trials
        Those that completed, with settings within ``spaces``, count.
    spaces
        What was searched; one setting alone explains everything.
    seed
        Of the forests.
    """
    known = [
        trial
        for trial in trials
        if trial.state == "completed"
        and trial.same_as is None
        and all(trial.setting[key] in space for key, space in spaces.items())
    ]
    if len(known) < LEAST_TRIALS:
        return None
    generator = numpy_generator(seed, "importance")
    forests = []
    for number in range(_FORESTS):
        chosen = generator.choice(len(known), round(_SHARE * len(known)), replace=False)
        part = [known[index] for index in np.sort(chosen)]
        found = _shares(part, spaces, derive_seed(seed, "importance", number))
        if found is not None:
            forests.append(found)
    if not forests:
        return None
    shares = {}
    for key in spaces:
        values = np.array([forest[key] for forest in forests])
        low, high = np.quantile(values, (0.1, 0.9))
        shares[key] = Share(float(values.mean()), float(low), float(high))
    order = sorted(shares, key=lambda key: (-shares[key].share, key))
    first = sum(max(forest, key=lambda key: forest[key]) == order[0] for forest in forests)
    leader = order[0] if first >= _LEADS * len(forests) else None
    return Importances({key: shares[key] for key in order}, len(known), leader)


def _shares(trials: list[Trial], spaces: Mapping[str, Space], seed: int) -> dict[str, float] | None:
    """Shares by one forest; ``None`` where it sees no differences."""
    import optuna

    if len({trial.value for trial in trials}) == 1:
        return None
    distributions = {key: space.distribution() for key, space in spaces.items()}
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={key: trial.setting[key] for key in spaces},
                distributions=distributions,
                value=trial.value,
            )
            for trial in trials
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed % 2**32)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not np.isfinite(list(found.values())).all():
        return None
    return {key: float(found[key]) for key in spaces}
