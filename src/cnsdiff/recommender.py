"""The estimator: backbone × sampler × objective behind fit, recommend, save and load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from cnsdiff import run as run_directory
from cnsdiff.assembly import assemble, assemble_shard
from cnsdiff.backbones import BACKBONES, Backbone
from cnsdiff.backbones.base import Embeddings
from cnsdiff.config import Config, merge, resolve_config
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.errors import ConfigError, InputError, NotFittedError
from cnsdiff.evaluation import EmbeddingScorer, Evaluation, evaluate
from cnsdiff.evaluation.dial import spread, standardised_log
from cnsdiff.evaluation.fhn import FalseNegatives, measure_false_negatives
from cnsdiff.evaluation.judges import JudgeKind, judge_for
from cnsdiff.model import Cold, EmbeddingModel, pair_matrix
from cnsdiff.registry import Registry
from cnsdiff.samplers import SAMPLERS, Sampler
from cnsdiff.samplers.base import Batch, Context, Negatives
from cnsdiff.seeding import torch_generator
from cnsdiff.settings import first_problem
from cnsdiff.storage import atomic_directory
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.device import make_fabric
from cnsdiff.training.layout import Layout
from cnsdiff.training.loop import Trainer
from cnsdiff.training.probe import false_negative_probe
from cnsdiff.training.processes import Processes, joined
from cnsdiff.training.progress import Reporter
from cnsdiff.training.selection import Selection
from cnsdiff.training.step import TrainingStep

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class SampledNegatives(NamedTuple):
    """What a trained sampler makes of some training pairs, on its device.

    Attributes
    ----------
    batch
        The ``B`` pairs.
    negatives
        One for each: items ``(B, 1)`` or vectors ``(B, 1, d)``.
    embeddings
        Those it was asked with, whose inner product is the score.
    positives
        All training pairs.
    """

    batch: Batch
    negatives: Negatives
    embeddings: Embeddings
    positives: Positives


class Recommender:
    """A recommender trained from implicit feedback with a choice of negative sampler.

    Parameters
    ----------
    backbone
        Name of a backbone (``"lightgcn"`` by default, ``"mf"``) or a class of your own.
    sampler
        Name of a sampler (``"exposure"`` by default, ``"random"``, ``"cnsdiff"``, …;
        docs/samplers.md has all) or a class of your own.
    preset
        A named configuration to start from: ``"default"``, ``"paper"``, ``"authors"``, … The
        default is one of the sampler ``"exposure"``: with another sampler, the plain settings of
        :class:`cnsdiff.config.Config` are underneath.
    source
        Where the configuration comes from, for messages.
    **config
        Configuration on top: ``seed=1``, ``training={"epochs": 20}``,
        ``sampler_options={"exponent": 1.0}`` and so on, as in :class:`cnsdiff.config.Config`
        (``backbone_options`` and ``sampler_options`` set the components' own fields).

    Attributes
    ----------
    config_
        The resolved configuration.
    model_
        What is saved and served: ids and embeddings (:class:`cnsdiff.model.EmbeddingModel`).
    users_, items_
        The ids known (polars Series); the row is the internal number.
    user_embeddings_, item_embeddings_
        ``(U, d)`` and ``(I, d)`` tensors whose inner product is the score.
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

    config_: Config
    model_: EmbeddingModel
    history_: list[dict[str, Any]]
    best_epoch_: int

    def __init__(
        self,
        backbone: str | type[Backbone] | None = None,
        sampler: str | type[Sampler] | None = None,
        *,
        preset: str = "default",
        source: str = "Recommender",
        **config: Any,
    ) -> None:
        self.backbone = backbone
        self.sampler = sampler
        self.preset = preset
        self.source = source
        self.config = config

    # -- training ------------------------------------------------------------------------------

    def fit(
        self,
        dataset: Dataset,
        *,
        select_on: str | None = None,
        run: str | Path | None = None,
        reporter: Reporter | None = None,
    ) -> Self:
        """Train on ``dataset``: its train split, and its valid split to pick the best epoch.

        Of several processes (``torchrun``), each calls ``fit`` alike; the first alone writes to
        ``run`` and tells the reporter. All have the model, but with ``training.shard`` the first
        alone.

        Parameters
        ----------
        dataset
            See :func:`cnsdiff.load_dataset`.
        select_on
            What picks the best epoch, in place of the configured ``training.select_on``:
            ``"valid"``, or a validation objective that anticipates a shift
            (:func:`cnsdiff.evaluation.anticipate`).
        run
            A run directory to checkpoint to after each epoch. If it holds an unfinished run of
            this configuration and dataset, training goes on from there, to the same result.
        reporter
            Told of progress; silent by default.

        Raises
        ------
        DataError
            The dataset has no valid split, a user has every item, or there is nothing to judge
            negatives by as ``training.fhn_on`` asks.
        ConfigError
            The configuration is wrong.
        RunError
            ``run`` holds something else.
        TrainingError
            A loss became NaN or infinite.
        """
        config = self.resolve(select_on=select_on)
        path = None if run is None else Path(run)
        fabric = make_fabric(config.device, config.precision, config.threads)
        with joined(fabric.device) as processes:
            told = reporter if reporter is not None and processes.first else Reporter()
            self._fit(dataset, config, path, told, fabric, processes)
        return self

    def _fit(
        self,
        dataset: Dataset,
        config: Config,
        path: Path | None,
        reporter: Reporter,
        fabric: Fabric,
        processes: Processes,
    ) -> None:
        provenance = run_directory.provenance(config, dataset)
        layout, probe = Layout(), None
        sharded = config.training.shard and processes.several
        if sharded:
            step, positives, layout = assemble_shard(
                config, dataset, processes, **self._given_classes()
            )
            train_csr = dataset.split("train").csr(dataset.n_users, dataset.n_items)
        else:
            step, positives = self._assemble(config, dataset)
            train_csr = positives.matrix
            if processes.first:
                probe = false_negative_probe(
                    config.training, dataset, positives, config.seed, fabric.device
                )
        device = layout.device(fabric.device)
        selection = Selection(config.training, dataset, train_csr, config.evaluation.ks, device)
        trainer = Trainer(
            config.training,
            seed=config.seed,
            fabric=fabric,
            checkpoint=None if path is None else path / run_directory.CHECKPOINT,
            identity={
                "configuration": provenance["config_fingerprint"],
                "dataset": provenance["dataset"]["fingerprint"],
            },
            probe=probe,
            processes=processes,
            layout=layout,
        )
        trainer.require_fit(step)
        uncounted = None
        if sharded and config.training.fhn_every is not None:
            uncounted = "with training.shard no false negatives are counted while training"
        for note in (selection.note, None if probe is None else probe.note, uncounted):
            if note is not None:
                reporter.note(note)
        if path is not None:
            processes.from_first(lambda: run_directory.begin_run(path, config, dataset))
        state = trainer.fit(step, positives, selection, reporter)
        with torch.no_grad():
            embeddings = layout.embeddings(step.embeddings())
        dial = processes.from_first(lambda: selection.dial(embeddings))
        if sharded and not processes.first:
            return  # what it has is no model
        self.config_ = config
        scale = spread(EmbeddingScorer(*embeddings))
        self.model_ = EmbeddingModel(
            users=dataset.users,
            items=dataset.items,
            user_embeddings=embeddings.users.detach().float().cpu(),
            item_embeddings=embeddings.items.detach().float().cpu(),
            train=train_csr,
            environment=scale * selection.environment,
            dial=dial,
        )
        self.history_, self.best_epoch_ = state.history, state.stopping["best_epoch"]
        self._provenance, self._weights = provenance, state.best
        if path is not None and processes.first:
            self._write(path)

    def resolve(self, *, select_on: str | None = None) -> Config:
        """The validated configuration, as ``fit`` will use it."""
        overrides = dict(self.config)
        if select_on is not None:
            overrides = merge(overrides, {"training": {"select_on": select_on}})
        given: dict[str, dict[str, type[Any]]] = {"backbone": {}, "sampler": {}}
        for section, choice in (("backbone", self.backbone), ("sampler", self.sampler)):
            options = overrides.pop(f"{section}_options", None) or {}
            if not isinstance(options, Mapping):
                raise ConfigError(
                    f"{self.source}: {section} must be a section with keys, not {options!r}; a "
                    f"{section} is chosen by its name"
                )
            if isinstance(choice, type):
                given[section][choice.__name__] = choice
                options = {**options, "name": choice.__name__}
            elif choice is not None:
                options = {**options, "name": choice}
            if options:
                overrides = merge(overrides, {section: options})
        return resolve_config(
            overrides,
            preset=self.preset,
            source=self.source,
            backbones=given["backbone"],
            samplers=given["sampler"],
        )

    def _assemble(self, config: Config, dataset: Dataset) -> tuple[TrainingStep, Positives]:
        return assemble(config, dataset, **self._given_classes())

    def _given_classes(self) -> dict[str, type[Any]]:
        choices = {"backbone": self.backbone, "sampler": self.sampler}
        return {part: choice for part, choice in choices.items() if isinstance(choice, type)}

    # -- use -----------------------------------------------------------------------------------

    def recommend(
        self, users: Any, k: int = 20, *, cold: Cold = "error", dial: float | None = None
    ) -> Any:
        """The ``k`` best items of each user, without those the user has interacted with.

        Parameters
        ----------
        users
            User ids: a list, an array, or a Series of any data frame library.
        k
            List length; a user with fewer items left gets fewer.
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
            A user is unknown and ``cold`` is ``"error"``, ``k`` is below 1, or ``dial`` is not
            finite.
        """
        return self._fitted().recommend(users, k, cold=cold, dial=dial)

    def score(self, users: Any, items: Any, *, dial: float | None = None) -> NDArray[np.float32]:
        """The score of each pair ``(users[n], items[n])``, ``(n,)`` float32, read at ``dial``.

        Raises
        ------
        InputError
            An id is unknown, the lengths differ, or ``dial`` is not finite.
        """
        return self._fitted().score(users, items, dial=dial)

    def similar(self, items: Any, k: int = 20) -> Any:
        """The ``k`` items nearest to each by cosine: ``item``, ``similar``, ``score``, ``rank``.

        Raises
        ------
        InputError
            An item is unknown, or ``k`` is below 1.
        """
        return self._fitted().similar(items, k)

    def evaluate(
        self,
        dataset: Dataset,
        splits: Sequence[str] | None = None,
        *,
        per_user: bool = False,
        dial: float | None = None,
    ) -> Evaluation:
        """Metrics on the held-out splits of the dataset the model was trained on.

        Read at ``dial``; at ``dial_`` when not given.
        """
        model = self._fitted()
        self._require_same(dataset)
        fabric = make_fabric(self.config_.device, self.config_.precision, self.config_.threads)
        ks = self.config_.evaluation.ks
        scorer = model.scorer(fabric.device, dial)
        return evaluate(scorer, dataset, splits, ks, per_user=per_user)

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
        model, config = self._fitted(), self.config_
        self._require_same(dataset)
        asked = {**config.training.model_dump(), "select_on": on, "dial": "auto"}
        try:
            training = TrainingConfig.model_validate(asked)
        except ValidationError as error:
            raise ConfigError(f"best_dial(on={on!r}): {first_problem(error).message}") from error
        device = make_fabric(config.device, config.precision, config.threads).device
        selection = Selection(training, dataset, model.train, config.evaluation.ks, device)
        tables = (model.user_embeddings, model.item_embeddings)
        return selection.dial(Embeddings(*(table.to(device) for table in tables)))

    def false_negatives(
        self,
        dataset: Dataset,
        on: JudgeKind = "valid",
        *,
        n: int = 10_000,
        neighbours: int = 1,
        seed: int = 0,
    ) -> FalseNegatives:
        """Which of the negatives that the trained sampler makes now the users would like.

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
        self._fitted()
        self._require_same(dataset)
        config = self.config_
        step, positives, device = self._restored(dataset)
        with torch.no_grad():
            embeddings, layers = step.embeddings(), step.layers()
        return measure_false_negatives(
            step.sampler,
            embeddings,
            positives,
            judge_for(dataset, on, device),
            n=n,
            seed=seed,
            progress=self.best_epoch_ / config.training.epochs,
            epoch=self.best_epoch_ + 1,
            layers=layers,
            cosine=config.objective.score == "cosine",
            neighbours=neighbours,
        )

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
        self._fitted()
        self._require_same(dataset)
        config = self.config_
        step, positives, device = self._restored(dataset)

        def stream(purpose: str) -> torch.Generator:
            return torch_generator(seed, f"sampled negatives/{purpose}", device=device)

        with torch.no_grad():
            embeddings, layers = step.embeddings(), step.layers()
            order = torch.randperm(len(positives), generator=stream("pairs"), device=device)
            batch = Batch(order[:n], *positives.pairs[order[:n]].unbind(dim=1))
            context = Context(
                progress=self.best_epoch_ / config.training.epochs,
                negatives=stream("negatives"),
                noise=stream("noise"),
                cosine=config.objective.score == "cosine",
                epoch=self.best_epoch_ + 1,
                layers=layers,
            )
            choose = stream("choice")
            made = step.sampler(batch, embeddings, context).dealt(len(batch), choose).drawn(choose)
        return SampledNegatives(batch, made.first(), embeddings, positives)

    def _restored(self, dataset: Dataset) -> tuple[TrainingStep, Positives, torch.device]:
        """The trained step with its sampler, on its device, and the training pairs."""
        config = self.config_
        step, positives = self._assemble(config, dataset)
        step.load_state_dict(self._weights, strict=False)
        device = make_fabric(config.device, config.precision, config.threads).device
        return step.to(device), positives.to(device), device

    def _require_same(self, dataset: Dataset) -> None:
        trained_on = self._provenance["dataset"]
        if dataset.fingerprint != trained_on["fingerprint"]:
            raise InputError(
                f"{dataset.path or dataset.name}: is not the dataset this model was trained on "
                f"({trained_on['name']!r}, or its content changed); evaluate on that one"
            )

    @property
    def trained_on_(self) -> dict[str, str]:
        """``name``, ``scenario`` and ``fingerprint`` of the dataset trained on."""
        self._fitted()
        dataset = self._provenance["dataset"]
        return {key: dataset[key] for key in ("name", "scenario", "fingerprint")}

    @property
    def dataset_path_(self) -> Path | None:
        """Where the dataset trained on was, or ``None`` if it was in memory."""
        self._fitted()
        path = self._provenance["dataset"]["path"]
        return None if path is None else Path(path)

    @property
    def dial_(self) -> float:
        return self._fitted().dial

    @property
    def users_(self) -> pl.Series:
        return self._fitted().users

    @property
    def items_(self) -> pl.Series:
        return self._fitted().items

    @property
    def user_embeddings_(self) -> Tensor:
        return self._fitted().user_embeddings

    @property
    def item_embeddings_(self) -> Tensor:
        return self._fitted().item_embeddings

    # -- storage -------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a run directory in one step; see :mod:`cnsdiff.run`.

        Raises
        ------
        InputError
            ``path`` exists (pass ``overwrite``), or holds something that is no run.
        StorageError
            It cannot be written; what was there is untouched.
        """
        self._fitted()
        if overwrite:
            run_directory.require_replaceable(Path(path))
        with atomic_directory(Path(path), overwrite=overwrite) as temporary:
            self._write(temporary)
        return Path(path)

    def _write(self, path: Path) -> None:
        model = self._fitted()
        rows, columns = model.train.nonzero()
        run_directory.write_run(
            path,
            config=self.config_,
            provenance=self._provenance,
            weights={
                "user_embeddings": model.user_embeddings,
                "item_embeddings": model.item_embeddings,
                "environment": model.environment,
                **{f"model.{name}": value for name, value in self._weights.items()},
            },
            users=model.users,
            items=model.items,
            train=pl.DataFrame({"user": rows, "item": columns}),
            history=self.history_,
            best_epoch=self.best_epoch_,
            dial=model.dial,
        )

    @classmethod
    def load(cls, path: str | Path) -> Recommender:
        """The recommender of a finished run directory, verified; nothing is unpickled.

        Raises
        ------
        RunError
            It is missing, unfinished, damaged, or of another version.
        """
        path = Path(path)
        parts = run_directory.read_run(path)
        model = cls(source=f"{path}/config.yaml", **run_directory.as_options(parts["config"]))
        # Components of the user's own are not needed to serve, nor to be found by name.
        model.config_ = _stored_config(parts["config"])
        users, items, train = parts["users"]["id"], parts["items"]["id"], parts["train"]
        weights = parts["weights"]
        tables = weights.pop("user_embeddings"), weights.pop("item_embeddings")
        pairs = pair_matrix(
            train["user"].to_numpy(), train["item"].to_numpy(), (len(users), len(items))
        )
        shares = weights.pop("environment", None)
        if shares is None:  # a run from before the dial
            counts = torch.from_numpy(np.bincount(pairs.indices, minlength=len(items)))
            shares = spread(EmbeddingScorer(*tables)) * standardised_log(counts)
        model.model_ = EmbeddingModel(
            users=users,
            items=items,
            user_embeddings=tables[0],
            item_embeddings=tables[1],
            train=pairs,
            environment=shares,
            dial=parts["manifest"].get("dial", 0.0),
        )
        model._weights = {name.removeprefix("model."): value for name, value in weights.items()}
        model.history_ = run_directory.history_records(parts["history"])
        model.best_epoch_ = parts["manifest"]["best_epoch"]
        model._provenance = {
            key: value
            for key, value in parts["manifest"].items()
            if key not in ("status", "best_epoch", "dial", "epochs", "sha256")
        }
        return model

    def _fitted(self) -> EmbeddingModel:
        if not hasattr(self, "model_"):
            raise NotFittedError("this Recommender is not fitted yet; call fit(dataset) first")
        return self.model_


def _stored_config(stated: dict[str, Any]) -> Config:
    """The configuration of a run, whose components may be classes that are not at hand."""
    tree = dict(stated)
    given: dict[str, dict[str, type[Any]]] = {"backbone": {}, "sampler": {}}
    kinds: tuple[tuple[str, Registry[Any], type[Any]], ...] = (
        ("backbone", BACKBONES, Backbone),
        ("sampler", SAMPLERS, Sampler),
    )
    for section, registry, base in kinds:
        name = tree[section]["name"]
        if name not in registry.names():
            tree[section] = {key: tree[section][key] for key in base.Config.model_fields}
            given[section][name] = base
    return resolve_config(
        tree, source="config.yaml", backbones=given["backbone"], samplers=given["sampler"]
    )
