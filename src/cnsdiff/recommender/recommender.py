"""The estimator: backbone × sampler × objective behind fit, recommend, save and load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from cnsdiff.base.errors import ConfigError, InputError, NotFittedError, warn
from cnsdiff.base.settings import first_problem
from cnsdiff.base.storage import atomic_directory
from cnsdiff.content.model import ContentChoice
from cnsdiff.content.priors import Gaussian
from cnsdiff.data import Dataset, read_features, read_interactions
from cnsdiff.data.ids import as_type
from cnsdiff.environment import Environment
from cnsdiff.evaluation import Evaluation, evaluate
from cnsdiff.evaluation.fhn import FalseNegatives
from cnsdiff.evaluation.judges import JudgeKind, judge_for
from cnsdiff.evaluation.metrics import item_counts
from cnsdiff.evaluation.new_items import NewItemsEvaluation, evaluate_new_items
from cnsdiff.evaluation.protocol import Mask
from cnsdiff.recommender import run_directory
from cnsdiff.recommender.callbacks import Callback
from cnsdiff.recommender.closed_form import fit_closed_form
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.eligibility import SeenItems
from cnsdiff.recommender.embedding_model import Cold, EmbeddingModel, Model
from cnsdiff.recommender.fitting import fit
from cnsdiff.recommender.parameters import Estimator
from cnsdiff.recommender.run_directory import Fitted
from cnsdiff.recommender.stack import Stack
from cnsdiff.recommender.trained_sampler import SampledNegatives, TrainedSampler
from cnsdiff.training.checkpoint import EpochRecord
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.processes import make_fabric
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection


class Recommender(Estimator):
    """A recommender trained from implicit feedback with a choice of negative sampler.

    Parameters
    ----------
    backbone
        Name of a backbone (``"lightgcn"`` by default, ``"mf"``) or a class of your own; or name
        of a model in closed form, which has no sampler and no objective: ``"ease"``,
        ``"itemknn"``, ``"ials"``, ``"mostpop"``, ``"recent-mostpop"``.
    sampler
        Name of a sampler (``"exposure"`` by default, ``"random"``, ``"cnsdiff"``, …;
        docs/samplers.md has all) or a class of your own.
    preset
        A named configuration to start from: ``"default"``, ``"paper"``, ``"authors"``, … The
        default is one of the sampler ``"exposure"``: with another sampler, the plain settings of
        :class:`cnsdiff.recommender.config.Config` are underneath.
    seed, device, precision, threads
        On top of the preset, as in :class:`cnsdiff.recommender.config.Config`; None keeps what the
        preset says.
    training, objective, evaluation
        Settings of these sections on top of the preset: ``training={"epochs": 20}``.
    stack
        A second model, which is added as validation likes it: ``stack={"preset": "bpr-lightgcn"}``,
        with settings of its own as ``set``.
    content
        What is learnt from the features of items: ``content={"prior": "auto"}``
        (:mod:`cnsdiff.content`). By default nothing.
    backbone_options, sampler_options
        Settings of the components: ``sampler_options={"exponent": 1.0}``.

    Attributes
    ----------
    config_
        The resolved configuration.
    model_
        What is saved and served: ids, and embeddings or item weights
        (:mod:`cnsdiff.recommender.embedding_model`).
    environment_
        What is added to the scores instead, if training was rehearsed (``select_on="rehearsal"``):
        :class:`cnsdiff.environment.Environment`.
    users_, items_
        The ids known (polars Series); the row is the internal number.
    user_embeddings_, item_embeddings_
        ``(U, d)`` and ``(I, d)`` tensors whose inner product is the score; of a model that has
        them.
    stack_
        Of a stack: the weights that validation chose, and the second model's best epoch.
    content_
        What was chosen of content (:class:`cnsdiff.content.model.ContentChoice`); ``None`` if
        features were not to be learnt from.
    uncertainty_
        ``(I,)`` of a model with content, how much of what features leave open of an item its
        interactions have not told yet: from 1, of a new item, to 0.
    history_
        One record of scalars per epoch.
    best_epoch_
        The epoch the weights are of.
    dial_
        The dial that scores are read at unless another is asked for: as ``training.dial`` says,
        by default chosen on validation (:mod:`cnsdiff.evaluation.dial`).

    Examples
    --------
    >>> import cnsdiff
    >>> dataset = cnsdiff.ConfoundedWorld(n_users=60, n_items=100, seed=0).dataset()
    >>> model = cnsdiff.Recommender(sampler="random", training={"epochs": 2}).fit(dataset)
    >>> model.recommend(dataset.users[:2], k=3).columns
    ['user', 'item', 'score', 'rank']
    """

    _result: Fitted | None = None

    # -- training ------------------------------------------------------------------------------

    def fit(
        self,
        dataset: Dataset,
        *,
        select_on: str | None = None,
        refit: bool | None = None,
        run: str | Path | None = None,
        reporter: Reporter | None = None,
        callbacks: Sequence[Callback] = (),
        stop: Callable[[EpochRecord], bool] | None = None,
    ) -> Self:
        """Train on ``dataset``: its train split, and its valid split to pick the best epoch.

        Of several processes (``torchrun``), each calls ``fit`` alike; the first alone writes to
        ``run`` and tells reporter and callbacks. All have the model, but with ``training.shard``
        the first alone.

        Parameters
        ----------
        dataset
            See :func:`cnsdiff.load_dataset`.
        select_on
            What picks the best epoch, in place of the configured ``training.select_on``:
            ``"valid"``, a validation objective that anticipates a shift
            (:func:`cnsdiff.evaluation.anticipate`), or ``"rehearsal"``: the latest part of the
            training data chooses epoch and environment, and then everything is trained on,
            validation included (:mod:`cnsdiff.environment`). By default (``"auto"``) the
            rehearsal where the log has times and the dataset was prepared for no other shift.
        refit
            Train on everything once epoch and dial are chosen, validation included, in place of
            the configured ``training.refit``. By default after a rehearsal, and where the dataset
            has no test split (the model is for use) or no valid split (a tenth of its pairs is
            held out to choose on).
        run
            A run directory to checkpoint to after each epoch. If it holds an unfinished run of
            this configuration and dataset, training goes on from there, to the same result.
        reporter
            Receives progress updates; silent by default.
        callbacks
            Told what is trained, how it goes and what comes of it, as those of
            :mod:`cnsdiff.tracking`.
        stop
            Called with each epoch's record; return True to stop training. The best epoch so far
            is kept.

        Raises
        ------
        DataError
            The dataset has no valid split and ``refit`` is false, a user has every item, or there
            is nothing to judge negatives by as ``training.fhn_on`` asks.
        ConfigError
            The configuration is wrong.
        RunError
            ``run`` holds something else.
        TrainingError
            A loss became NaN or infinite.
        """
        config = self.resolve(select_on=select_on, refit=refit)
        (fit_closed_form if config.closed_form else fit)(
            config,
            dataset,
            keep=self._keep,
            classes=self._given_classes(),
            run=None if run is None else Path(run),
            reporter=reporter,
            callbacks=callbacks,
            stop=stop,
        )
        return self

    def update(
        self,
        log: Any,
        *,
        dataset: Dataset | None = None,
        warm: bool = True,
        run: str | Path | None = None,
        reporter: Reporter | None = None,
        callbacks: Sequence[Callback] = (),
        stop: Callable[[EpochRecord], bool] | None = None,
    ) -> Self:
        """Train on the log of this model and on new interactions; a recommender of its own.

        The configuration is this one's, but that a rehearsal chooses epoch and environment
        (``select_on="rehearsal"``), and then everything trains. Vectors begin at those of this
        model where it knows the id. Those of the rehearsal begin at what the rehearsal of this
        model had, which knows nothing of what the new one judges by. Of a model that was not
        rehearsed, one in closed form, or where content is chosen, training begins anew.

        Parameters
        ----------
        log
            New interactions with times, as :func:`cnsdiff.read_interactions` takes them. They go
            through the filters of the log; without ratings all are positive. Those of before the
            end of the log are learnt, too.
        dataset
            The one that this model was trained on, by default that at :attr:`dataset_path_`. Its
            train and valid splits are learnt; no pair of a test split is, unless ``log`` has it.
        warm
            Whether vectors may begin at those of this model.
        run, reporter, callbacks, stop
            As of :meth:`fit`. A directory keeps no dataset: to update ``run`` later, save the
            dataset, or use ``cnsdiff update``.

        Returns
        -------
        Recommender
            Fitted; this one stays as it is.

        Raises
        ------
        DataError
            A log has no times, or ``log`` holds nothing later than what is known.
        InputError
            It is another dataset, or what chose the epoch was of that dataset alone
            (``"target-counts"``, ``"target-sample"``, ``"test_ood"``).

        Examples
        --------
        >>> import cnsdiff
        >>> world = cnsdiff.ConfoundedWorld(n_users=60, n_items=50, exposures=20, seed=0)
        >>> log = world.clicks(world.periods).sort("timestamp")
        >>> first, later = log[: len(log) // 2], log[len(log) // 2 :]
        >>> dataset = cnsdiff.Dataset.from_splits(
        ...     {"train": cnsdiff.Interactions(first, "log")}, name="shop", scenario="given"
        ... )
        >>> model = cnsdiff.Recommender("mf", training={"epochs": 2}).fit(dataset)
        >>> newer = model.update(later, dataset=dataset)
        >>> newer.model_.train.nnz > model.model_.train.nnz
        True
        """
        from cnsdiff.recommender.update import Updating

        classes = self._given_classes()
        updating = Updating.of_run(self._fitted(), log, dataset, classes=classes)
        newer = type(self).from_config(
            updating.configuration().model_dump(), classes.get("backbone"), classes.get("sampler")
        )
        updating.fit(
            keep=newer._keep,
            warm=warm,
            run=None if run is None else Path(run),
            reporter=reporter,
            callbacks=callbacks,
            stop=stop,
        )
        return newer

    def _keep(self, result: Fitted) -> None:
        self._result = result

    # -- use -----------------------------------------------------------------------------------

    def recommend(
        self,
        users: Any,
        k: int = 20,
        *,
        seen: SeenItems = "all",
        exclude: Any = None,
        only: Any = None,
        cold: Cold = "error",
        dial: float | None = None,
    ) -> Any:
        """The ``k`` best items of each user, without those the user already has.

        Parameters
        ----------
        users
            User ids: a list, an array, a Series of any data frame library, or a data frame with a
            column ``user``.
        k
            List length; a user with fewer items left gets fewer.
        seen
            What a user already has: ``"all"`` that the log says (the held-out splits, what fell
            below the rating threshold, what the scenario left out), the pairs of ``"train"`` alone
            (for lists that a held-out split judges), or ``"none"``.
        exclude, only
            Items never to show, and the only ones to show: a list of item ids for all users; a
            data frame with columns ``user`` and ``item``, or a mapping of users to lists, for
            each. A user whom ``only`` does not name gets no items then.
        cold
            What an id unknown to training gets: an ``"error"``, or the most ``"popular"`` items
            (scored by their number of interactions).
        dial
            Read the model here, not at ``dial_``: below 0 popularity counts for less than in
            training, above for more; 0 leaves the scores as trained.

        Returns
        -------
        DataFrame
            ``user``, ``item``, ``score``, ``rank`` (from 1), in the order asked; of the library
            ``users`` came from (polars for plain lists and arrays).

        Raises
        ------
        InputError
            A user is unknown and ``cold`` is ``"error"``, ``k`` is not a positive integer,
            ``only`` names no known item, or ``dial`` is not finite.
        """
        return self._fitted().model.recommend(
            users, k, seen=seen, exclude=exclude, only=only, cold=cold, dial=dial
        )

    def score(self, users: Any, items: Any, *, dial: float | None = None) -> NDArray[np.float32]:
        """The score of each pair ``(users[n], items[n])``, ``(n,)`` float32, read at ``dial``.

        Raises
        ------
        InputError
            An id is unknown, the lengths differ, or ``dial`` is not finite.
        """
        return self.model_.score(users, items, dial=dial)

    def similar(self, items: Any, k: int = 20, *, exclude: Any = None, only: Any = None) -> Any:
        """The ``k`` items nearest to each: ``item``, ``similar``, ``score``, ``rank``.

        Nearest by the cosine of embeddings, or by item weights, where items of weight 0 are not
        similar at all.

        Parameters
        ----------
        items, k
            As ``users`` and ``k`` of :meth:`recommend`.
        exclude, only
            Lists of items never to show, and the only ones to show.

        Raises
        ------
        InputError
            An item is unknown, ``k`` is not a positive integer, or the model is of popularity.
        """
        return self.model_.similar(items, k, exclude=exclude, only=only)

    def _with_content(self) -> EmbeddingModel:
        """The model, if it can tell new items."""
        model = self._fitted().model
        if not isinstance(model, EmbeddingModel) or model.content is None:
            why = "learns from no features; train it with content={'prior': 'auto'}"
            if model.content_choice is not None:
                why = (
                    "does not use content, as items held out of training were told no better with "
                    "it; train with features that tell more, or with content={'prior': 'ridge'}, "
                    "which is used in any case"
                )
            raise InputError(f"items cannot be added: the model {why}")
        return model

    def add_items(self, features: Any, clicks: Any = None) -> Self:
        """Add new items, which from then on are recommended as their features say.

        Nothing is trained. :meth:`save` writes the model with them.

        Parameters
        ----------
        features
            A data frame of any library, or a file: a column ``item`` (or ``item_id``, …) of ids,
            and the features that the model was trained with; or several by name, as
            :func:`~cnsdiff.data.read_features` takes them. Rows of items known already are left
            out, which a warning tells.
        clicks
            A data frame of ``user`` and ``item``: who has clicked on which new item since. Clicks
            of others, users unknown to training among them, are left out.

        Raises
        ------
        InputError
            The model was trained without content, an id comes twice or is of another type than
            those known, or a feature is missing.
        """
        fitted, model = self._fitted(), self._with_content()
        table = read_features(features, "item")
        ids = as_type(table["item"], model.items.dtype)
        if ids.null_count():
            other = table["item"].filter(ids.is_null())[0]
            raise InputError(
                f"the item {other!r} cannot be added, as the items known have ids of type "
                f"{model.items.dtype}; give ids of that type"
            )
        fresh = ~ids.is_in(model.items.implode())
        n_known = len(table) - int(fresh.sum())
        if n_known:
            some = f"{n_known:,} of the {len(table):,}" if fresh.any() else f"all {len(table):,}"
            warn(
                f"{some} items given as new are known already, first {ids.filter(~fresh)[0]!r}; "
                "they stay as they were learnt"
            )
        table = table.filter(fresh)
        if len(table):
            pairs = None if clicks is None else read_interactions(clicks).frame
            model = model.with_items(ids.filter(fresh), table.drop("item"), pairs)
        self._result = replace(fitted, model=model)
        return self

    def follow(self, log: Any, *, moment: float | None = None) -> Self:
        """Move the environment on to the end of a log of what came since; nothing is trained.

        How often, how lately and since when each item was in use goes on from the last moment,
        and with it what is added to its score. Vectors stay as they are.

        Parameters
        ----------
        log
            A data frame of any library, or a file, with columns ``user``, ``item`` and
            ``timestamp``, as :func:`~cnsdiff.data.read_interactions` takes them. A pair counts
            once and not at all if it was trained on; items unknown to the model are left out. Give
            each interaction to one ``follow`` alone.
        moment
            That of the lists to come; by default the last interaction.

        Raises
        ------
        InputError
            The model has no environment, or the log no timestamps.
        DataError
            An interaction is later than the moment.
        """
        fitted = self._fitted()
        fitted.model.require_environment()
        pairs = read_interactions(log).deduplicated()
        if "timestamp" not in pairs.frame.columns:
            raise InputError(
                f"{pairs.source}: has no timestamps, so it does not tell how the environment moved "
                "on; give one with a column 'timestamp'"
            )
        self._result = replace(fitted, model=fitted.model.following(pairs.frame, moment))
        return self

    def add_interactions(self, log: Any) -> Self:
        """Add what users have done since training, which their vectors follow at once.

        Nothing is trained: a user with something new gets the vector that their whole history
        tells, items as they are (:mod:`cnsdiff.recommender.fold_in`). New users get one, too, and
        are known from then on. The pairs count as seen; pairs known already change nothing.
        :meth:`save` writes the model with them.

        Parameters
        ----------
        log
            A data frame of any library, or a file, of users and items, as
            :func:`~cnsdiff.data.read_interactions` takes them. All of its rows count, whatever
            their rating. Those of items that the model does not know are left out, which a
            warning tells.

        Raises
        ------
        InputError
            A user's id is of another type than those known.
        DataError
            The log cannot be read.
        """
        fitted = self._fitted()
        model, pairs = fitted.model, read_interactions(log).frame
        items = as_type(pairs["item"], model.items.dtype)
        known = items.is_in(model.items.implode()).fill_null(False)
        if not known.all():
            unknown = pairs["item"].filter(~known)
            warn(
                f"{len(unknown):,} of the {len(pairs):,} interactions added are with "
                f"{unknown.n_unique():,} items that did not occur in training and are left out, "
                f"the first is {unknown[0]!r}{model.hint}"
            )
        users = as_type(pairs["user"], model.users.dtype)
        if users.null_count():
            other = pairs["user"].filter(users.is_null())[0]
            raise InputError(
                f"the user {other!r} cannot be added, as the users known have ids of type "
                f"{model.users.dtype}; give ids of that type"
            )
        model = model.with_interactions(users.filter(known), items.filter(known))
        self._result = replace(fitted, model=model)
        return self

    def evaluate(
        self,
        dataset: Dataset,
        splits: Sequence[str] | None = None,
        *,
        mask: Mask = "train",
        per_user: bool = False,
        dial: float | None = None,
    ) -> Evaluation:
        """Metrics on the held-out splits of the dataset the model was trained on.

        Read at ``dial``; at ``dial_`` when not given. Lists leave out the training pairs, or the
        user's whole ``"past"`` (:func:`cnsdiff.evaluation.evaluate`).
        """
        fitted, dataset = self._trained_on(dataset)
        config = fitted.config
        fabric = make_fabric(config.device, config.precision, config.threads)
        scorer = self.model_.scorer(fabric.device, dial)
        ks = config.evaluation.ks
        return evaluate(scorer, dataset, splits, ks, mask=mask, per_user=per_user)

    def evaluate_new_items(
        self,
        dataset: Dataset,
        split: str = "test_ood",
        *,
        dial: float | None = None,
        per_user: bool = False,
    ) -> NewItemsEvaluation:
        """How a model with content places the new items of the dataset it was trained on.

        Parameters
        ----------
        dataset
            With pairs of new items (:meth:`cnsdiff.data.Dataset.with_new_items`).
        split
            Held-out.
        dial, per_user
            As in :meth:`evaluate`; the metrics of each user are of joint lists.

        Raises
        ------
        InputError
            It is another dataset, the model uses no content, or there are no new items.
        """
        fitted, dataset = self._trained_on(dataset)
        joint, model = dataset.with_new_items(), self._with_content()
        if joint is not dataset:
            n = dataset.n_items
            model = model.with_items(joint.items[n:], joint.table("item_features")[n:])
        ks = fitted.config.evaluation.ks
        scorer = model.scorer(dial=dial)
        return evaluate_new_items(scorer, joint, dataset.n_items, split, ks, per_user=per_user)

    def learnt_from(self, dataset: Dataset) -> Dataset:
        """The dataset as this model learnt it: with valid in train, if it was trained on both."""
        return dataset.merged() if self._learnt_validation(dataset) else dataset

    def _learnt_validation(self, dataset: Dataset) -> bool:
        train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
        return self.model_.trained_on.nnz > train.nnz

    def best_dial(self, dataset: Dataset, on: str = "valid") -> float:
        """The dial at which the model as trained is best on validation.

        One model, read for another environment: nothing is trained, and no test split is read.

        Parameters
        ----------
        dataset
            The one the model was trained on.
        on
            ``"valid"``, or a validation objective that anticipates a shift, shaped by the
            ``training.select_*`` settings the model was trained with.

        Raises
        ------
        InputError
            It is another dataset.
        ConfigError
            There is no such objective, or it needs what the dataset lacks.
        """
        config, model = self._trained_on(dataset)[0].config, self.model_
        if self._learnt_validation(dataset):
            raise InputError(
                "this model was trained on the validation pairs, too, so they cannot choose its "
                "dial; train one with select_on='valid' and refit=False"
            )
        settings = {**config.training.model_dump(), "select_on": on, "dial": "auto"}
        try:
            training = TrainingConfig.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(f"best_dial(on={on!r}): {first_problem(error).message}") from error
        device = make_fabric(config.device, config.precision, config.threads).device
        selection = Selection({on: training}, dataset, model.train, config.evaluation.ks, device)
        return selection.place(model.scorer(device, dial=0.0), [on])[on].dial

    def false_negatives(
        self,
        dataset: Dataset,
        on: JudgeKind = "valid",
        *,
        n: int = 10_000,
        neighbours: int = 1,
        seed: int = 0,
    ) -> FalseNegatives:
        """The false negatives among those that the trained sampler makes now.

        Parameters
        ----------
        dataset
            The one the model was trained on.
        on
            Who judges: see :func:`cnsdiff.evaluation.judges.judge_for`. Only ``"valid"`` reads
            no test data.
        n, neighbours, seed
            See :func:`cnsdiff.evaluation.fhn.measure_false_negatives`.

        Raises
        ------
        InputError
            It is another dataset, or the model's sampler is a class that is not at hand.
        DataError
            The dataset has nothing to judge by.
        """
        if on == "valid" and self._learnt_validation(dataset):
            raise InputError(
                "this model was trained on the validation pairs, too, so they cannot judge its "
                "negatives; let 'all', 'judgements' or 'truth' judge"
            )
        fitted, dataset = self._trained_on(dataset)
        sampler = TrainedSampler(fitted, dataset, self._given_classes())
        judge = judge_for(dataset, on, sampler.device)
        return sampler.false_negatives(judge, n=n, neighbours=neighbours, seed=seed)

    def sampled_negatives(
        self, dataset: Dataset, *, n: int = 1000, seed: int = 0
    ) -> SampledNegatives:
        """One negative that the trained sampler makes now for each of some training pairs.

        Parameters
        ----------
        dataset
            The one the model was trained on; of its splits only train is read.
        n
            Pairs, drawn at random without repetition; all of them if there are fewer.
        seed
            Of the pairs and of the sampler's own draws.

        Raises
        ------
        InputError
            It is another dataset, or the model's sampler is a class that is not at hand.
        """
        fitted, dataset = self._trained_on(dataset)
        return TrainedSampler(fitted, dataset, self._given_classes()).sampled(n, seed)

    @property
    def config_(self) -> Config:
        return self._fitted().config

    @property
    def model_(self) -> Model:
        return self._fitted().model

    @property
    def selected_on_(self) -> str:
        """What picked the epoch: ``training.select_on``, and of ``"auto"`` what was decided."""
        stated = self.config_.training.select_on
        if stated != "auto":
            return stated
        rehearsed = any("environment" in record["validation"] for record in self.history_)
        return "rehearsal" if rehearsed else "valid"

    @property
    def history_(self) -> list[EpochRecord]:
        return self._fitted().history

    @property
    def best_epoch_(self) -> int:
        return self._fitted().best_epoch

    @property
    def trained_on_(self) -> dict[str, str]:
        """``name``, ``scenario`` and ``fingerprint`` of the dataset trained on."""
        dataset = self._fitted().provenance.dataset
        return {
            "name": dataset.name,
            "scenario": dataset.scenario,
            "fingerprint": dataset.fingerprint,
        }

    @property
    def dataset_path_(self) -> Path | None:
        """Where the dataset trained on was, or ``None`` if it was in memory."""
        path = self._fitted().provenance.dataset.path
        return None if path is None else Path(path)

    @property
    def dial_(self) -> float:
        return self.model_.dial

    @property
    def environment_(self) -> Environment | None:
        return self.model_.environment

    @property
    def stack_(self) -> Stack | None:
        return self._fitted().stack

    @property
    def uncertainty_(self) -> Tensor:
        model = self._with_content()
        assert model.content is not None
        content, counts = model.content.model, item_counts(model.train)
        return Gaussian(torch.empty(0), content.covariance).left_open(counts, content.choice.pull)

    @property
    def content_(self) -> ContentChoice | None:
        return self._fitted().model.content_choice

    @property
    def users_(self) -> pl.Series:
        return self.model_.users

    @property
    def items_(self) -> pl.Series:
        return self.model_.items

    @property
    def user_embeddings_(self) -> Tensor:
        return self._embedding_model().user_embeddings

    @property
    def item_embeddings_(self) -> Tensor:
        return self._embedding_model().item_embeddings

    def _embedding_model(self) -> EmbeddingModel:
        if not isinstance(self.model_, EmbeddingModel):
            raise InputError(
                f"a model {self.config_.backbone.name!r} scores by item weights and has no "
                "embeddings; its weights are model_.weights"
            )
        return self.model_

    # -- storage -------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run directory in one step; see :mod:`cnsdiff.recommender.run_directory`.

        Raises
        ------
        InputError
            ``path`` exists (pass ``overwrite``), or holds something that is no run.
        StorageError
            It cannot be written; what was there is untouched.
        """
        fitted = self._fitted()
        if overwrite:
            run_directory.require_replaceable(Path(path))
        with atomic_directory(Path(path), overwrite=overwrite) as temporary:
            fitted.write(temporary)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The recommender of a finished run directory, verified; nothing is unpickled.

        Raises
        ------
        RunError
            It is missing, unfinished, damaged, or of another version.
        """
        path = Path(path)
        run = run_directory.read_run(path)
        fitted = Fitted.of_run(run)  # first, since it refuses a configuration that is none
        model = cls.from_config(run.config, source=f"{path}/config.yaml")
        model._keep(fitted)
        return model

    def _fitted(self) -> Fitted:
        if self._result is None:
            raise NotFittedError("this Recommender is not fitted yet; call fit(dataset) first")
        return self._result

    def _trained_on(self, dataset: Dataset) -> tuple[Fitted, Dataset]:
        """The result of training, if it was on this dataset; and the dataset as it was learnt."""
        fitted = self._fitted()
        trained_on = fitted.provenance.dataset
        if dataset.fingerprint != trained_on.fingerprint:
            raise InputError(
                f"{dataset.path or dataset.name}: is not the dataset this model was trained on "
                f"({trained_on.name!r}, or its content changed); evaluate on that one"
            )
        return fitted, self.learnt_from(dataset)

    def __sklearn_is_fitted__(self) -> bool:
        return self._result is not None
