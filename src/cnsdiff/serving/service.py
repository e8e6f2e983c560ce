"""The service: answers from versions in memory, kept up with the store; nothing of HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnsdiff.base.errors import CnsdiffError, ConflictError, InputError, RunError, StorageError
from cnsdiff.environment.covariates import Covariates
from cnsdiff.recommender.embedding_model import Model
from cnsdiff.serving.config import ServiceConfig
from cnsdiff.serving.monitor import Arms, Hits, Traffic
from cnsdiff.serving.ranking import arrange, best
from cnsdiff.serving.records import Activation, Answer, Event, Version
from cnsdiff.serving.schemas import (
    DriftAnswer,
    EventBody,
    ExplainAnswer,
    ExplainRequest,
    Figures,
    ItemBody,
    Ranked,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
    State,
    Status,
)
from cnsdiff.serving.version import (
    LoadedVersion,
    Snapshot,
    Taste,
    content_of,
    figures_of,
    item_table,
)

if TYPE_CHECKING:
    from cnsdiff.serving.store import Store

log = logging.getLogger(__name__)
Numbers = NDArray[np.int64]
#: Requests that readiness replays.
_REPLAYED = 16
_ROWS_AT_ONCE = 100_000
#: Scores of one product: a quarter of a gigabyte.
_SCORES_AT_ONCE = 2**26
#: Measurements of drift that the page shows.
_DRIFTS = 1_440
#: Characters of an answer's rules that are logged; an audit leaves out answers with longer ones.
_LONGEST_RULES = 16_384
#: A clock may be off by this much, in seconds.
_AHEAD = 300.0


class NotReadyError(CnsdiffError):
    """The service has no version to answer from."""


class UnknownError(InputError):
    """An id or a version that is asked for by name is not there."""


@dataclass(frozen=True)
class _Serving:
    """Who gets which version; swapped as one."""

    activation: Activation
    versions: Mapping[str, LoadedVersion]

    def arm_of(self, user: str | None) -> tuple[str, LoadedVersion, float]:
        """The arm of a user, its version, and the share of users who get it."""
        own = self.activation
        if own.canary is None or user is None:  # visitors are in no trial
            return "main", self.active, 1.0
        digest = hashlib.blake2b(user.encode(), key=own.salt.encode()[:64], digest_size=8).digest()
        if int.from_bytes(digest) < own.share * 2**64:
            return "canary", self.versions[own.canary], own.share
        return "main", self.active, 1.0 - own.share

    @property
    def active(self) -> LoadedVersion:
        """The version of all who are in no trial."""
        return self.versions[self.activation.active]


class Service:
    """Answers requests from the active version, and follows the store.

    Safe to use from several threads. Several processes may share a store: each follows the others'
    events at once, and their activations and items within ``config.follow`` seconds.

    Parameters
    ----------
    store
        What is kept.
    config
        Settings.
    clock
        The time in seconds since 1970.
    expected
        What an audit expects of each scenario, a sentence each: alarms say so.
    """

    def __init__(
        self,
        store: Store,
        config: ServiceConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
        expected: Mapping[str, str] | None = None,
    ) -> None:
        self.store, self.config, self._clock = store, config or ServiceConfig(), clock
        self._expected = expected or {}
        self._serving: _Serving | None = None
        self._loaded: dict[str, LoadedVersion] = {}
        #: Versions that must stay in memory though nobody gets them yet, by how many need them.
        self._needed: Counter[str] = Counter()
        #: Versions that a rollback would give, and that cannot be loaded.
        self._lacking: set[str] = set()
        # Who loads a version holds the first of the locks, so that all else goes on; nobody takes
        # it who holds the second.
        self._loading, self._lock = threading.Lock(), threading.RLock()
        self._writing = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._answers: list[Answer] = []
        self._forgotten: dict[str, tuple[int, float]] = {}
        self._forgotten_seq = 0
        self.traffic, self._arms = Traffic(), Arms()
        self._drifts: deque[DriftAnswer] = deque(maxlen=_DRIFTS)
        self.refreshed: float | None = None
        self.lost_answers = 0
        self._problems: dict[str, str] = {}
        self._refused: tuple[int, float, InputError] | None = None
        self._due = math.inf

    # -- versions ------------------------------------------------------------------------------

    def add_version(self, path: Path, name: str | None = None) -> str:
        """Make a run known, verified; the name of the version. It is loaded once users get it.

        Raises
        ------
        RunError
            It is no finished run.
        InputError
            Another run has this name.
        """
        figures = figures_of(path)
        content = str(figures["content"])
        name = name or f"{path.resolve().name}-{content[:8]}"
        version = Version(name, str(path.resolve()), self._clock(), figures)
        for other in self.store.versions():
            if other.name != name:
                continue
            if other.figures.get("content") != content:
                raise InputError(
                    f"the version {name!r} is another run, of {other.path}; give this one "
                    "another name"
                )
            version = version._replace(added=other.added, figures={**figures, **other.figures})
        self.store.add_version(version)
        self._take_attributes()
        return name

    def _load(self, version: Version) -> LoadedVersion:
        """A version in memory. This may take long, so that nobody may hold the lock meanwhile."""
        with self._loading:
            if (loaded := self._loaded.get(version.name)) is not None:
                return loaded
            path = Path(version.path)
            if content_of(path) != version.figures.get("content"):
                raise RunError(
                    f"{path}: is not the run any more that was added as {version.name!r}; train "
                    "each version into a directory of its own"
                )
            loaded = LoadedVersion(version, self.config)
            if loaded.moment > self._clock() + _AHEAD:
                log.warning(
                    "%s: the log it was trained on ends at %.0f, in the future, so that no event "
                    "moves its environment; train it on times in seconds since 1970",
                    path,
                    loaded.moment,
                )
            self._lend(loaded, self._attributes_of_runs())
            forgotten = self._forgotten_seq
            self._catch_up(loaded)
            with self._lock:  # from now on it follows as the others do
                if forgotten != self._forgotten_seq:
                    loaded.begin_again()
                    self._catch_up(loaded)
                elif self._take_items(loaded):
                    loaded.renew()
                self._loaded[version.name] = loaded
        return loaded

    @contextlib.contextmanager
    def _in_memory(self, name: str) -> Iterator[LoadedVersion]:
        """Load a version, and keep it in memory meanwhile."""
        with self._lock:
            self._needed[name] += 1
        try:
            yield self._load(self._known_version(name))
        finally:
            with self._lock:
                self._needed[name] -= 1
                self._drop()

    def _drop(self) -> None:
        """Keep in memory who answers, what a rollback gives, and what is being activated."""
        needed = set(self._serving.versions) if self._serving else set()
        for name in set(self._loaded) - needed - set(+self._needed):
            del self._loaded[name]

    def serve(self, path: Path) -> str:
        """Add a run, and activate it if it is new to the store; a sentence that says so.

        A run that the store knows changes nothing: what was activated since stays, as it does
        while another version is on trial. Where that cannot be loaded, the version before it
        answers, or else this run.
        """
        known = {version.name for version in self.store.versions()}
        self._take_forgotten()
        name = self.add_version(path)
        why = f"which was activated since; activate {name} with POST /activate"
        if name not in known or self.store.activation() is None:
            try:
                self.activate(name)
                return f"serving the version {name}"
            except ConflictError as error:
                why = f"as {error}"
        self._begin(name)
        now = self._now().activation
        if self.problem is not None:
            return self.problem
        if now.active == name:
            return f"serving the version {name}"
        return f"serving the version {now.active}, {why}"

    def activate(
        self, name: str, *, share: float = 1.0, shadow: bool = False, replace: bool = False
    ) -> State:
        """Give a version to all users, or try it: on a share of them, or on none but the log.

        One that is not in memory is loaded first, while all is served as before.

        Raises
        ------
        UnknownError
            There is no such version.
        ConflictError
            Another version is on trial, and is not to be replaced; or there is no active version,
            or only this one, to try it beside.
        """
        with self._in_memory(name):  # before the store names it
            self.store.activate(name, share=share, shadow=shadow, replace=replace)
            self._take_activation()
        return self.state()

    def rollback(self) -> State:
        """End the trial; without one, give all users the version that was active before.

        Again and again it goes back through all that was active, to the first, never forward.

        Raises
        ------
        ConflictError
            None was.
        """
        now = self.store.activation()
        if now is None:
            raise NotReadyError("no version is active; activate one")
        target = now.previous if now.trial is None else now.active
        with self._in_memory(target or now.active):
            self.store.rollback(now.seq)
            self._take_activation()
        return self.state()

    def _known_version(self, name: str) -> Version:
        versions = {version.name: version for version in self.store.versions()}
        if name not in versions:
            known = ", ".join(versions) or "none"
            raise UnknownError(f"there is no version {name!r}; those added are {known}")
        return versions[name]

    def _begin(self, *others: str) -> None:
        """Serve as the store says, or else by what can be loaded, which the store is not told.

        Raises
        ------
        InputError
            Nothing can be loaded.
        """
        self._take_attributes()
        try:
            self._take_activation()
        except InputError as error:
            activation = self.store.activation()
            assert activation is not None
            for name in filter(None, [activation.active, activation.previous, *others]):
                with contextlib.suppress(InputError):
                    loaded = self._load(self._known_version(name))
                    own = activation._replace(active=name, canary=None, share=0.0, shadow=None)
                    self._serving = _Serving(own, {name: loaded})
                    self._report(
                        "activation", f"{error}; until it can be loaded, {name} answers all users"
                    )
                    return
            raise

    def _report(self, place: str, problem: str | None) -> None:
        """Say what goes wrong at one of the places that follow the store, or that nothing does."""
        if problem is None:
            self._problems.pop(place, None)
            return
        if problem != self._problems.get(place):
            log.warning("%s", problem)
        self._problems[place] = problem

    def _take_activation(self) -> None:
        """Serve as the store says; versions that are not in memory are loaded before."""
        activation = self.store.activation()
        if activation is None or (self._serving and self._serving.activation == activation):
            return
        if self._refused is not None:
            seq, until, refusal = self._refused
            if seq == activation.seq and time.monotonic() < until:  # loading may take long
                raise refusal
        with contextlib.ExitStack() as held:
            try:
                versions = {
                    name: held.enter_context(self._in_memory(name)) for name in activation.answering
                }
            except InputError as error:
                self._refused = activation.seq, time.monotonic() + self.config.refresh, error
                raise
            with self._lock:
                if self._serving and self._serving.activation.seq > activation.seq:
                    return  # another thread was quicker
                previous = activation.previous
                if previous is not None and previous in self._loaded:
                    versions[previous] = self._loaded[previous]
                self._serving = _Serving(activation, versions)
                self._report("activation", None)

    def _load_previous(self) -> None:
        """Load what a rollback gives, so that it takes no time."""
        serving = self._serving
        if serving is None or serving.activation.previous in (None, *serving.versions):
            return
        previous = str(serving.activation.previous)
        if previous in self._lacking:
            return
        try:
            with self._in_memory(previous) as loaded, self._lock:
                if self._serving is serving:
                    versions = {**serving.versions, previous: loaded}
                    self._serving = _Serving(serving.activation, versions)
        except InputError as error:  # its run may be gone
            self._lacking.add(previous)
            log.warning("a rollback would be refused: %s", error)

    def _attributes_of_runs(self) -> list[tuple[Version, frozenset[str]]]:
        """The attributes that each run added gives items, the latest run first.

        A table in the settings gives the same to all, and takes the place of theirs.
        """
        if self.config.item_features is not None:
            return []
        runs = []
        for version in reversed(self.store.versions()):
            names = version.figures.get("attributes")
            if isinstance(names, list):  # else it was added by an earlier release
                runs.append((version, frozenset(map(str, names))))
            elif (loaded := self._loaded.get(version.name)) is not None:
                runs.append((version, loaded.own_attributes))
        return runs

    def _take_attributes(self) -> None:
        """Have each version know the attributes of the runs added, whichever is served."""
        runs = self._attributes_of_runs()
        for version in list(self._loaded.values()):
            if self._lend(version, runs):
                with self._lock:
                    version.renew()

    def _lend(self, version: LoadedVersion, runs: Sequence[tuple[Version, frozenset[str]]]) -> bool:
        """Give a version the attributes that its run lacks; whether there were some."""
        lacking = frozenset[str]().union(*(names for _, names in runs)) - version.attributes
        some_lacking = bool(lacking)
        for other, names in runs:
            if some := lacking & names:
                table = None
                try:
                    table = item_table(Path(other.path))  # before the lock, as it may be long
                except CnsdiffError as error:
                    log.warning("no item has %s by the run %s: %s", some, other.name, error)
                with self._lock:
                    version.take_attributes(some, table)
                lacking -= some
        return some_lacking

    def state(self) -> State:
        """Who gets which version."""
        now = self._now().activation
        return State(
            active=now.active,
            previous=now.previous,
            canary=now.canary,
            share=now.share,
            shadow=now.shadow,
            versions={
                version.name: Figures(
                    path=version.path,
                    added=version.added,
                    loaded=version.name in self._loaded,
                    figures=version.figures,
                )
                for version in self.store.versions()
            },
        )

    def status(self) -> Status:
        """What the page shows."""
        snapshot = self._now().active.snapshot
        requests, events = self.traffic.rates()
        p50, p99 = self.traffic.quantiles(0.5, 0.99)
        live = snapshot.activity
        kind = "live" if live is not None else "trained"
        if live is None and self.config.environment not in ("live", "trained"):
            kind = "of a file"
        return Status(
            **self.state().model_dump(),
            environment=kind,
            environment_age=self.environment_age,
            environment_moment=None if live is None else live.moment,
            requests_per_second=requests,
            events_per_second=events,
            p50=p50,
            p99=p99,
            minutes=self.traffic.minutes(),
            drift=self.drift,
            drift_history=list(self._drifts),
            arms=self._arms.figures(),
            hits=self.hits,
            problem=self.problem,
        )

    @property
    def problem(self) -> str | None:
        """Why what is served is not what the store says, in a sentence."""
        return next(iter(self._problems.copy().values()), None)

    @property
    def drift(self) -> DriftAnswer | None:
        """As measured last."""
        return self._drifts[-1] if self._drifts else None

    @property
    def hits(self) -> Hits | None:
        """How often a user's next event is on an item of the list."""
        return self._arms.hits.figures()

    @property
    def environment_age(self) -> float | None:
        """Seconds since the environment was computed last; ``None`` if it was not yet."""
        return None if self.refreshed is None else max(0.0, self._clock() - self.refreshed)

    def _now(self) -> _Serving:
        if self._serving is None:
            raise NotReadyError("no version is active; activate one")
        return self._serving

    # -- following the store -------------------------------------------------------------------

    def follow(self) -> None:
        """See what other processes changed: versions and items."""
        self._follow_versions()
        self._follow_items()

    def _follow_versions(self) -> None:
        """Serve as the store says by now; this may have to load a version."""
        self._take_attributes()
        try:
            self._take_activation()
            self._report("activation", None)
        except InputError as error:  # what is served goes on
            self._report("activation", f"{error}; until it can be loaded, all is served as before")
        self._load_previous()

    def _follow_items(self) -> None:
        self._take_forgotten()
        self._renew_items()

    def _take_forgotten(self) -> None:
        with self._lock:
            begin_again = False
            for seq, digest, at in self.store.forgotten_after(self._forgotten_seq).iter_rows():
                self._forgotten_seq = max(self._forgotten_seq, seq)
                self._forgotten[digest] = seq, at
                begin_again = True
            if begin_again:  # what was counted of them, too
                for version in self._loaded.values():
                    version.begin_again()
                    self._catch_up(version)
                self._arms.forget()

    def refresh(self) -> None:
        """Compute the live environment and the vectors of new items from the events until now."""
        with self._lock:
            for version in list(self._loaded.values()):
                self._catch_up(version)
            self._count_arms()
            self._measure_drift()
            self.refreshed = self._clock()

    def _measure_drift(self) -> None:
        """How far the events are from what the active version was trained on."""
        if self._serving is None:
            return
        drift = self._serving.active.drift()
        if drift is None:
            return
        before = bool(self._drifts) and self._drifts[-1].alarm
        alarm = drift.alarms(before=before)
        expected = self._expected.get(drift.resembles or "", "") if alarm else ""
        message = f"{drift.sentence} {expected}".strip()
        if alarm and not before:
            log.warning("the environment moves: %s", message)
        self._drifts.append(
            DriftAnswer(
                at=self._clock(),
                js=drift.items.value,
                chance=drift.items.chance,
                bound=drift.items.bound,
                alarm=alarm,
                scenario=drift.resembles,
                message=message,
                unknown_items=drift.unknown_items,
                unknown_users=drift.unknown_users,
            )
        )

    def _count_arms(self) -> None:
        """Follow what became of the lists that were shown since the last activation."""
        if self._serving is not None and self._serving.activation.at != self._arms.since:
            self._arms.restart(self._serving.activation.at)
        before = self._arms.hits.fallen
        while True:
            answers = self.store.answers_after(self._arms.answer_seq, _ROWS_AT_ONCE, rules=False)
            events = self.store.events_after(
                self._arms.event_seq, _ROWS_AT_ONCE, types=self.config.types
            )
            self._arms.take(answers, events)
            if max(len(answers), len(events)) < _ROWS_AT_ONCE:
                break
        hits = self.hits
        if hits is not None and self._arms.hits.fallen and not before:
            log.warning("%s", hits.message)

    def _catch_up(self, version: LoadedVersion) -> None:
        self._take_items(version)
        until = self._clock() + _AHEAD
        if version.is_ahead(until):
            version.begin_again()
        while True:
            events = self.store.events_after(
                version.event_seq, _ROWS_AT_ONCE, repeats=False, types=self.config.types
            )
            version.take_events(events, until)
            if len(events) < _ROWS_AT_ONCE:
                break
        version.age(self._clock())
        version.renew()

    def start(self) -> Self:
        """Take the active version from the store, and follow it in the background."""
        self._begin()
        self._take_forgotten()
        self._due = time.monotonic() + self.config.refresh
        # Versions apart from the rest, which goes on while one of them is loaded.
        for place, work in (("versions", self._follow_versions), ("events", self._follow_events)):
            thread = threading.Thread(
                target=self._repeat, args=(place, work), name=f"cnsdiff-{place}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        return self

    def _follow_events(self) -> None:
        try:
            self._follow_items()
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + self.config.refresh
                self.refresh()
        finally:
            self.flush()

    def _repeat(self, place: str, work: Callable[[], None]) -> None:
        """Do some work each few moments until the service closes."""
        while not self._stopping.wait(min(self.config.follow, self.config.refresh)):
            try:
                work()
                self._report(place, None)
            except StorageError as error:
                self._report(place, f"the store cannot be followed: {error}")
            except Exception as error:  # whatever it is, what is served goes on
                self._report(place, f"the store cannot be followed ({type(error).__name__})")
                log.exception("could not follow the store; trying again")

    def close(self) -> None:
        """Stop following, and write the answers that are not yet."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self.config.timeout)  # a version that is loading is not waited for
        self.flush()

    # -- answers -------------------------------------------------------------------------------

    def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The list of one user.

        Raises
        ------
        InputError
            A filter names an attribute that no item has.
        NotReadyError
            No version is active.
        """
        return self.recommend_many([request])[0]

    def recommend_many(self, requests: Sequence[RecommendRequest]) -> list[RecommendAnswer]:
        """The lists of several users, from one product for each version."""
        serving = self._now()
        users = list(dict.fromkeys(r.user for r in requests if r.user is not None))
        events = self._events_of(users)
        arms = [serving.arm_of(request.user) for request in requests]
        answers: list[RecommendAnswer | None] = [None] * len(requests)
        for version in {version.name: version for _, version, _ in arms}.values():
            own = [n for n, arm in enumerate(arms) if arm[1] is version]
            snapshot = version.snapshot
            tastes = self._tastes(snapshot, [requests[n] for n in own], events)
            for n, taste in zip(own, tastes, strict=True):
                name, _, share = arms[n]
                answers[n] = self._answer(snapshot, requests[n], taste, name, share)
        if serving.activation.shadow is not None:
            try:
                self._shadow(serving.versions[serving.activation.shadow], requests, events)
            except Exception:  # nobody is shown what it says
                log.exception("the version in the shadow could not answer")
        return [answer for answer in answers if answer is not None]

    def _shadow(
        self,
        version: LoadedVersion,
        requests: Sequence[RecommendRequest],
        events: Mapping[str, list[str]],
    ) -> None:
        """Log what a version would have answered."""
        snapshot = version.snapshot
        tastes = self._tastes(snapshot, requests, events)
        for request, taste in zip(requests, tastes, strict=True):
            self._answer(snapshot, request, taste, "shadow", 0.0)

    def _events_of(self, users: Sequence[str]) -> dict[str, list[str]]:
        """The items of the events that count, of the users who have some."""
        histories: dict[str, list[str]] = {}
        if users:
            types = self.config.types
            for user, item, kind in self.store.histories(users):
                if types is None or kind in types:
                    histories.setdefault(user, []).append(item)
        return histories

    def _tastes(
        self,
        snapshot: Snapshot,
        requests: Sequence[RecommendRequest | ExplainRequest],
        events: Mapping[str, list[str]],
    ) -> Iterator[Taste]:
        """What is known of the users of some requests, computed for a part of them at once."""
        at_once = max(1, _SCORES_AT_ONCE // len(snapshot.model.items))
        for start in range(0, len(requests), at_once):
            part = requests[start : start + at_once]
            users = [request.user for request in part]
            nobody = [user is None or self._is_forgotten(user, snapshot) for user in users]
            yield from snapshot.tastes(part, [events.get(user or "", []) for user in users], nobody)

    def _answer(
        self,
        snapshot: Snapshot,
        request: RecommendRequest,
        taste: Taste,
        arm: str,
        share: float,
    ) -> RecommendAnswer:
        """The list made of a user's taste, explored and logged."""
        explore, beyond = self.config.explore, self.config.explore_from
        logged = self.config.log_answers and request.user is not None
        n = request.k + (beyond if explore and logged else 0)
        if (searched := snapshot.search(request, taste, n)) is not None:
            (items, values), pinned = searched, 0
        else:
            scores = snapshot.scores(request, taste)
            pool, pool_values = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
            if n > request.k:  # among what the rules would show next
                longer = request.model_copy(update={"k": n})
                pool, pool_values, _ = arrange(
                    scores.clone(), longer, snapshot.catalogue, taste.seen, fill=False
                )
            items, values, pinned = arrange(scores, request, snapshot.catalogue, taste.seen)
            other = ~np.isin(pool, items)
            items = np.concatenate([items, pool[other]])
            values = np.concatenate([values, pool_values[other]])
        chosen, propensities = _explored(items, request.k, min(pinned, request.k), explore)
        ids = snapshot.catalogue.index.names(items[chosen])
        ranked = [
            Ranked(item=item, score=float(value))
            for item, value in zip(ids, values[chosen], strict=True)
        ]
        answer = RecommendAnswer(
            items=ranked,
            source=taste.source,
            version=snapshot.version,
            arm=arm,
            request_id=secrets.token_hex(12),
        )
        if logged and request.user is not None:
            rules = request.model_dump_json(exclude={"user", "k"}, exclude_defaults=True)
            entry = Answer(
                request_id=answer.request_id,
                at=self._clock(),
                user=request.user,
                version=snapshot.version,
                arm=arm,
                arm_probability=share,
                source=answer.source,
                k=request.k,
                items=[str(item) for item in ids],
                propensities=propensities.tolist(),
                rules=rules if len(rules) <= _LONGEST_RULES else None,
                item_seq=snapshot.item_seq,
            )
            with self._writing:
                self._answers.append(entry)
        return answer

    def flush(self) -> None:
        """Write the answers that wait to be, but for those to users who were forgotten since."""
        with self._writing:
            waiting, self._answers = self._answers, []
        if waiting:
            with contextlib.suppress(CnsdiffError), self._lock:
                self._take_forgotten()
        if self._forgotten:
            never = 0, -math.inf
            waiting = [
                answer
                for answer in waiting
                if answer.at > self._forgotten.get(self.store.digest(answer.user), never)[1]
            ]
        if not waiting:
            return
        try:
            self.store.add_answers(waiting)
        except CnsdiffError as error:
            self.lost_answers += len(waiting)
            log.warning("%d answers could not be logged: %s", len(waiting), error)

    def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """The items nearest to one.

        Raises
        ------
        UnknownError
            The item is unknown.
        InputError
            The model is of popularity, or a filter names an attribute that no item has.
        """
        arm, version, _ = self._now().arm_of(None)
        snapshot = version.snapshot
        model, catalogue = snapshot.model, snapshot.catalogue
        number = self._item(snapshot, request.item)
        scores = _likeness(model, number) + catalogue.penalties(request)
        out = catalogue.numbers(request.exclude)
        scores[torch.from_numpy(np.append(out, number))] = -torch.inf
        items, values = best(scores, request.k)
        return SimilarAnswer(
            items=_ranked(snapshot, items, values), version=snapshot.version, arm=arm
        )

    def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """A user's score of an item in parts.

        Raises
        ------
        UnknownError
            The item is unknown.
        """
        arm, version, _ = self._now().arm_of(request.user)
        snapshot, model = version.snapshot, version.snapshot.model
        number = self._item(snapshot, request.item)
        events = self._events_of([] if request.user is None else [request.user])
        taste = next(self._tastes(snapshot, [request], events))
        bias = snapshot.popular if taste.source == "environment" else snapshot.bias
        own, added = float(taste.scores[number]), float(bias[number])
        nearest: list[Ranked] = []
        history = np.unique(taste.history[taste.history != number])
        if len(history):
            with contextlib.suppress(InputError):  # a model of popularity knows of none
                alike = _likeness(model, number)
                near = torch.full_like(alike, -torch.inf)
                near[torch.from_numpy(history)] = alike[torch.from_numpy(history)]
                nearest = _ranked(snapshot, *best(near, 5))
        covariates: dict[str, float] = {}
        environment = model.environment
        if snapshot.activity is not None and environment is not None and model.sigma is not None:
            values = Covariates.of(snapshot.activity).values[number]
            # How often and how lately are many columns that say nearly the same: their parts are
            # large and take each other away, so that only their sum means something.
            for name, coefficient, value in zip(
                environment.names, environment.coefficients, values, strict=True
            ):
                group = "age" if name == "age" else "use"
                part = float(model.sigma * coefficient * value)
                covariates[group] = covariates.get(group, 0.0) + part
        return ExplainAnswer(
            score=own + added,
            taste=own,
            environment=added,
            taste_share=float((taste.scores < own).float().mean()),
            environment_share=float((bias < added).float().mean()),
            covariates=covariates,
            history=nearest,
            source=taste.source,
            version=snapshot.version,
            arm=arm,
        )

    def _item(self, snapshot: Snapshot, item: str) -> int:
        index = snapshot.catalogue.index
        number = int(index.find_text([item])[0])
        if number < 0:
            near = " or ".join(repr(str(own)) for own in index.near(item))
            hint = f" (did you mean {near}?)" if near else ""
            raise UnknownError(
                f"the item {item!r} is not known to the version {snapshot.version!r}{hint}; see "
                "how its id is written, or add it with PUT /items if it is new"
            )
        return number

    # -- what is written -----------------------------------------------------------------------

    def add_events(self, events: Sequence[EventBody]) -> int:
        """Keep events; how many were new. They are on the disk when this returns.

        Raises
        ------
        InputError
            An event lies in the future.
        """
        latest = max((event.timestamp for event in events), default=-math.inf)
        if latest > self._clock() + _AHEAD:
            late = next(event for event in events if event.timestamp == latest)
            raise InputError(
                f"the event {late.event_id!r} has the timestamp {latest:.0f}, which lies in the "
                "future; give seconds since 1970, not milliseconds"
            )
        new = self.store.add_events(
            [Event(e.event_id, e.user, e.item, e.timestamp, e.type) for e in events]
        )
        self.traffic.add(events=new)
        return new

    def put_items(self, items: Sequence[ItemBody]) -> None:
        """Add items, or change their features.

        Raises
        ------
        InputError
            An id or a feature is of another type than those of the active version.
        """
        features = {
            item.item: None if item.features is None else dict(item.features) for item in items
        }
        if self._serving is not None:
            self._serving.active.require(features)
        self.store.put_items(features)
        self._renew_items()

    def withdraw(self, items: Sequence[str]) -> None:
        """Show items to nobody from now on."""
        self.store.withdraw(items)
        self._renew_items()

    def _renew_items(self) -> None:
        with self._lock:
            for version in list(self._loaded.values()):
                if self._take_items(version):
                    version.renew_items()

    def _take_items(self, version: LoadedVersion) -> bool:
        """Whether the catalogue changed since the version took it last; it has by then."""
        changes = self.store.items_after(version.item_seq)
        if len(changes):
            version.take_items(changes)
        return bool(len(changes))

    def forget(self, user: str) -> int:
        """Forget a user everywhere; how many rows were deleted."""
        with self._writing:
            self._answers = [answer for answer in self._answers if answer.user != user]
        rows = self.store.forget(user)
        with self._lock:
            self._take_forgotten()
        return rows

    def _is_forgotten(self, user: str, snapshot: Snapshot) -> bool:
        """Whether a run tells of a user who was forgotten since."""
        if not self._forgotten:
            return False
        return self._forgotten.get(self.store.digest(user), (0, 0.0))[0] > snapshot.without

    # -- health --------------------------------------------------------------------------------

    def replay(self) -> None:
        """Answer some requests as a check.

        Raises
        ------
        CnsdiffError
            There is no version, or an answer is not what it should be.
        """
        snapshot = self._now().active.snapshot
        users = snapshot.model.users
        step = max(1, len(users) // _REPLAYED)
        requests = [
            RecommendRequest(user=str(user), k=1) for user in users.gather_every(step).to_list()
        ]
        self._events_of([str(request.user) for request in requests])  # the store can be read
        for taste in self._tastes(snapshot, requests, {}):
            if not torch.isfinite(taste.scores + snapshot.bias).all():
                raise CnsdiffError(f"the version {snapshot.version!r} gives a score that is none")


def _likeness(model: Model, number: int) -> Tensor:
    """``(I,)`` how alike items are to one; :class:`InputError` of a model of popularity."""
    scorer = model._of_items(np.array([number]), None)
    with torch.no_grad():
        return scorer.score_block(torch.zeros(1, dtype=torch.int64), 0, len(model.items))[0]


def _ranked(snapshot: Snapshot, items: Numbers, values: NDArray[np.float32]) -> list[Ranked]:
    ids = snapshot.catalogue.index.names(items)
    return [Ranked(item=item, score=float(value)) for item, value in zip(ids, values, strict=True)]


def _explored(
    items: Numbers, k: int, pinned: int, probability: float
) -> tuple[Numbers, NDArray[np.float64]]:
    """Places of a longer list that are shown, and how probable each item was to be.

    With some probability, one place that is not pinned, drawn uniformly, is given to an item drawn
    uniformly from those beyond the first ``k``.
    """
    shown = np.arange(min(k, len(items)))
    free, beyond = len(shown) - pinned, len(items) - len(shown)
    propensities = np.ones(len(shown))
    if not probability or free < 1 or beyond < 1:
        return shown, propensities
    propensities[pinned:] = 1 - probability / free
    rng = np.random.default_rng()
    if rng.random() < probability:
        place = pinned + int(rng.integers(free))
        shown[place] = k + int(rng.integers(beyond))
        propensities[place] = probability / beyond
    return shown, propensities
