"""Share of the differences between trials that each setting accounts for.

fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014): a random forest is fitted to the values of the
completed trials, and its variance over the space is divided among the settings. A forest fitted to
a few trials says little. So there are several, each of a part of the trials: a share is their mean,
and how far they disagree is told with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cnsdiff.base.search_space import Space
from cnsdiff.base.seeding import derive_seed, numpy_generator
from cnsdiff.tuning.study import Importances, Share, Trial

#: With fewer completed trials nothing is said.
LEAST_TRIALS = 8
#: How many forests there are, and which share of the trials each of them sees.
_FORESTS, _SHARE = 10, 0.8
_TREES = 16
#: A setting leads if it comes first in so many of the forests.
_LEADS = 0.9


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
        forest = _shares(part, spaces, derive_seed(seed, "importance", number))
        if forest is not None:
            forests.append(forest)
    if not forests:
        return None
    shares = {}
    for key in spaces:
        values = np.array([forest[key] for forest in forests])
        low, high = np.quantile(values, (0.1, 0.9))
        shares[key] = Share(share=float(values.mean()), low=float(low), high=float(high))
    order = sorted(shares, key=lambda key: (-shares[key].share, key))
    first = sum(max(forest, key=lambda key: forest[key]) == order[0] for forest in forests)
    leader = order[0] if first >= _LEADS * len(forests) else None
    shares = {key: shares[key] for key in order}
    return Importances(shares=shares, n_trials=len(known), leader=leader)


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
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not np.isfinite(list(shares.values())).all():
        return None
    return {key: float(shares[key]) for key in spaces}
