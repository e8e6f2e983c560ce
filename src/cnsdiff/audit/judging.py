"""Every setting on both tests of a shift, and what validation chooses of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cnsdiff.audit.record import FEW_USERS, Accuracies, Test
from cnsdiff.audit.training import METHODS, USUAL
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.benchmark.grid import DIAL, PLAIN, REHEARSAL, without_dial
from cnsdiff.benchmark.store import Store
from cnsdiff.benchmark.task import DIALLED, Task
from cnsdiff.data import Dataset
from cnsdiff.evaluation.kept import Kept, UserAccuracy, kept_matched, lost
from cnsdiff.evaluation.significance import ROUNDING, Difference, Interval, resampled_sums

TESTS: tuple[Test, ...] = ("test_iid", "test_ood")
#: The selection of a recommender that was not trained here.
AS_GIVEN = "as given"


@dataclass(frozen=True)
class Setting:
    """A method as one selection reads it.

    Attributes
    ----------
    method
        Its name.
    selection
        What picked epoch and dial: ``"valid"``, ``"inverse-popularity+dial"``, :data:`AS_GIVEN`.
    validation
        The value by which it was picked; ``None`` if there is none.
    dial
        The dial; ``None`` if none was picked.
    epochs, seconds, stopped_by
        Of its training.
    per_user
        ``user`` and the metrics of each user, by test, users ascending.
    catalogue
        Metrics of all lists for the OOD test together: ``"coverage@20"``, ``"popularity@20"``, …
    lists
        Of a few users: ``user``, ``item``, the best first.
    """

    method: str
    selection: str
    validation: float | None
    dial: float | None
    epochs: int
    seconds: float
    stopped_by: str
    per_user: Mapping[str, pl.DataFrame] = field(repr=False)
    catalogue: Mapping[str, float] = field(default_factory=dict)
    lists: pl.DataFrame | None = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Names it among the settings of a shift."""
        return f"{self.method}/{self.selection}"

    @property
    def row(self) -> str:
        """The key of its row in the table."""
        return f"{self.method}/{PLAIN}" if self.is_alike else self.key

    @property
    def is_alike(self) -> bool:
        """Whether another selection reads it alike: popularity has no dial.

        MostPop has no setting to choose either, but learns more rehearsed.
        """
        if self.method == "recent-mostpop":
            return self.selection == PLAIN + DIAL
        return self.method == "mostpop" and without_dial(self.selection) != REHEARSAL

    @property
    def title(self) -> str:
        """For a reader, among those of one shift."""
        return title_of(self.method, self.selection)

    @property
    def is_reference(self) -> bool:
        """Whether it is a reference."""
        return METHODS[self.method].preset is None

    def values(self, test: str, metric: str) -> NDArray[np.float64]:
        """The metric of each user of a test."""
        return self.per_user[test][metric].cast(pl.Float64).to_numpy()


def settings_of(tasks: Sequence[Task], store: Store) -> list[Setting]:
    """The settings of one shift that the store has, in the order of the tasks."""
    settings = []
    for task in tasks:
        record = store.read(task)
        if record is None or record["status"][0] != "ok":
            continue
        per_user, lists = store.per_user(task), store.lists(task)
        for selection in task.selections:
            rows = record.filter(selection=selection)
            of_valid = dict(rows.filter(split="valid").select("metric", "value").iter_rows())
            settings.append(
                Setting(
                    task.method.name,
                    selection,
                    of_valid.get(f"{task.metric} (selected)"),
                    of_valid.get(DIALLED),
                    int(rows["epochs"][0]),
                    float(rows["seconds"][0]),
                    str(rows["stopped_by"][0]),
                    {
                        test: per_user.filter(selection=selection, split=test).sort("user")
                        for test in TESTS
                    },
                    dict(rows.filter(split="test_ood").select("metric", "value").iter_rows()),
                    None if lists is None else lists.filter(selection=selection),
                )
            )
    return settings


#: How often users are drawn again.
N_RESAMPLES = 2_000


@dataclass(frozen=True)
class Judged:
    """Settings on both tests of a shift, all on the same users, and what each keeps, matched.

    Where a test has fewer than :data:`FEW_USERS` users the ends of intervals are unknown.

    Attributes
    ----------
    metric
        Of each user.
    settings
        ``S`` of them.
    kept
        Accuracies and the share between them.
    values
        By test ``(n, S)``, the metric of each user.
    means
        By test ``(R, S)``, its mean over users drawn again, the same for all settings.
    """

    metric: str
    settings: tuple[Setting, ...]
    kept: Kept
    values: Mapping[Test, NDArray[np.float64]] = field(repr=False)
    means: Mapping[Test, NDArray[np.float64]] = field(repr=False)

    @property
    def n_users(self) -> dict[Test, int]:
        """Of each test."""
        return {test: len(values) for test, values in self.values.items()}

    @property
    def has_few_users(self) -> bool:
        """Whether either test has too few for a verdict."""
        return min(self.n_users.values()) < FEW_USERS

    def accuracies(self, setting: Setting) -> Accuracies:
        """Accuracy on both tests, each with its interval, and a forecast of what will be lost."""
        at, n = self._at(setting), self.n_users
        both = min(n.values())
        return Accuracies(
            iid=_unless_few(self.kept.iid[at], n["test_iid"]),
            ood=_unless_few(self.kept.ood[at], n["test_ood"]),
            iid_matched=_unless_few(self.kept.iid_matched[at], both),
            lost_matched=_unless_few(forecast(lost(self.kept.kept[at])), both),
        )

    def differences(self, test: Test, pairs: Sequence[tuple[Setting, Setting]]) -> list[Difference]:
        """First less second of each pair, over the users of a test."""
        return [self.difference(test, first, second) for first, second in pairs]

    def difference(self, test: Test, first: Setting, second: Setting) -> Difference:
        """First less second, by a paired bootstrap of users."""
        a, b = self._at(first), self._at(second)
        of_users = self.values[test][:, a] - self.values[test][:, b]
        value, n = float(of_users.mean()), len(of_users)
        if n < FEW_USERS:
            return Difference(value, np.nan, np.nan, 1.0, n=n)
        if not of_users.any():
            return Difference(0.0, 0.0, 0.0, 1.0, n=n)
        draws = self.means[test][:, a] - self.means[test][:, b]
        low, high = np.quantile(draws, [0.025, 0.975])
        # Few users with a difference make ties with the value, which rounding must not break.
        reach = abs(value) - ROUNDING * np.abs(of_users).mean()
        extreme = int((np.abs(draws - value) >= reach).sum())
        p_value = (1 + extreme) / (1 + len(draws))
        return Difference(value, float(low), float(high), p_value, n=n)

    def users_needed(self, test: Test, first: Setting, second: Setting, share: float) -> int:
        """Users of a test whose interval of a difference reaches to ``share`` of the second's."""
        a, b = self._at(first), self._at(second)
        values = self.values[test]
        spread = float((values[:, a] - values[:, b]).std(ddof=1)) if len(values) > 1 else 0.0
        level = share * float(values[:, b].mean())
        needed = (1.96 * spread / level) ** 2 if level > 0 else 0.0
        return max(FEW_USERS, int(np.ceil(needed)))

    def _at(self, setting: Setting) -> int:
        return next(at for at, own in enumerate(self.settings) if own.key == setting.key)


def _unless_few(interval: Interval, n: int) -> Interval:
    """An interval whose ends are unknown if it is of too few users."""
    return replace(interval, low=np.nan, high=np.nan) if n < FEW_USERS else interval


def forecast(lost: Interval) -> Interval:
    """The interval of what as many users of another such future lose.

    That estimate errs as this one does, and by itself: by the interval of the difference between
    two independent estimates (Zou & Donner, 2008, "Construction of confidence limits about effect
    measures") both ends lie ``sqrt((value - low)**2 + (high - value)**2)`` away. Nobody loses more
    than everything.
    """
    reach = float(np.hypot(lost.value - lost.low, lost.high - lost.value))
    return replace(lost, low=lost.value - reach, high=min(1.0, lost.value + reach))


def judge(settings: Sequence[Setting], dataset: Dataset, metric: str, *, seed: int) -> Judged:
    """Measure settings, all of one dataset, on both tests by a metric that is kept of each user."""
    tested, values, means = {}, {}, {}
    for test in TESTS:
        users = settings[0].per_user[test]["user"].cast(pl.Int64).to_numpy()
        counts = np.bincount(dataset.split(test).users, minlength=dataset.n_users)
        values[test] = np.stack([setting.values(test, metric) for setting in settings], axis=1)
        tested[test] = UserAccuracy(users, values[test], counts[users])
        rng = numpy_generator(seed, f"audit-bootstrap-{test}")
        means[test] = resampled_sums(values[test], rng, N_RESAMPLES) / len(users)
    kept = kept_matched(tested["test_iid"], tested["test_ood"], seed=seed)
    return Judged(metric, tuple(settings), kept, values, means)


@dataclass(frozen=True)
class Choice:
    """The choice of validation alone under a shift.

    Attributes
    ----------
    expected
        The best setting when the shift is expected: of all methods, by the objective that
        anticipates it.
    trained, reference
        The best of those that are trained, and of the references, by the same.
    plain
        The best when tomorrow is like today: of all methods, by plain validation, with the dial or
        without.
    usual
        The usual recommender, or, for want of it, ``plain``.
    """

    expected: Setting
    trained: Setting | None
    reference: Setting | None
    plain: Setting
    usual: Setting


def choose(settings: Sequence[Setting], anticipate: str) -> Choice:
    """Choose by validation values; no test is looked at."""
    own = [s for s in settings if s.method in METHODS]
    expecting = [s for s in own if s.selection == anticipate + DIAL]
    plain = _best([s for s in own if without_dial(s.selection) == PLAIN])
    assert plain is not None
    usual = next((s for s in own if s.key == f"{USUAL}/{METHODS[USUAL].plain}"), plain)
    return Choice(
        expected=_best(expecting) or plain,
        trained=_best([s for s in expecting if not s.is_reference]),
        reference=_best([s for s in expecting if s.is_reference]),
        plain=plain,
        usual=usual,
    )


def _best(settings: Sequence[Setting]) -> Setting | None:
    known = [s for s in settings if s.validation is not None and np.isfinite(s.validation)]
    return max(known, key=lambda s: s.validation or 0.0, default=None)


def title_of(method: str, selection: str) -> str:
    """A setting for a reader: ``exposure sampling set for this shift``."""
    name = METHODS[method].title if method in METHODS else method
    if selection == AS_GIVEN or (method in METHODS and selection == METHODS[method].plain):
        return name
    if selection == PLAIN:
        return f"{name} without the dial"
    if method in ("mostpop", "recent-mostpop") and without_dial(selection) == PLAIN:
        return name
    if method == "mostpop" and without_dial(selection) != REHEARSAL:
        return name
    if selection == PLAIN + DIAL:
        return f"{name} with the dial"
    return f"{name} set for this shift"
