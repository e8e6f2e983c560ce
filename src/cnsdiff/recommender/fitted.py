"""What a training leaves: all that a run directory holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl
from torch import Tensor

from cnsdiff.backbones import BACKBONES, Backbone
from cnsdiff.base.errors import ConfigError, RunError
from cnsdiff.base.registry import Registry
from cnsdiff.data.side_tables import Seen
from cnsdiff.data.splits import pair_matrix
from cnsdiff.evaluation import EmbeddingScorer
from cnsdiff.evaluation.dial import spread, standardised_log
from cnsdiff.evaluation.evaluate import item_counts
from cnsdiff.recommender.config import Config, resolve_config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.recommender.run_directory import history_records, write_run
from cnsdiff.samplers import SAMPLERS, Sampler

#: What a manifest says of a training that is over, beside its provenance.
_OF_THE_END = ("status", "best_epoch", "dial", "epochs", "sha256")


@dataclass(frozen=True)
class Fitted:
    """A training that is over.

    Attributes
    ----------
    config
        The resolved configuration.
    model
        What is served.
    weights
        The best weights of backbone, sampler and objective, by name.
    history
        One record of scalars per epoch.
    best_epoch
        The epoch that ``model`` and ``weights`` are of.
    provenance
        See :func:`cnsdiff.recommender.run_directory.provenance`.
    """

    config: Config
    model: EmbeddingModel
    weights: Mapping[str, Tensor]
    history: list[dict[str, Any]]
    best_epoch: int
    provenance: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the files of a finished run into the folder ``path``."""
        model = self.model
        rows, columns = model.train.nonzero()
        write_run(
            path,
            config=self.config,
            provenance=dict(self.provenance),
            weights={
                "user_embeddings": model.user_embeddings,
                "item_embeddings": model.item_embeddings,
                "environment": model.dial_step,
                **{f"model.{name}": value for name, value in self.weights.items()},
            },
            users=model.users,
            items=model.items,
            train=pl.DataFrame({"user": rows, "item": columns}),
            seen=None if model.seen is None else model.seen.table(),
            history=self.history,
            best_epoch=self.best_epoch,
            dial=model.dial,
        )

    @classmethod
    def of_run(cls, parts: Mapping[str, Any]) -> Self:
        """From the parts that :func:`cnsdiff.recommender.run_directory.read_run` returns."""
        users, items, train = parts["users"]["id"], parts["items"]["id"], parts["train"]
        weights, manifest = dict(parts["weights"]), parts["manifest"]
        tables = weights.pop("user_embeddings"), weights.pop("item_embeddings")
        pairs = pair_matrix(
            train["user"].to_numpy(), train["item"].to_numpy(), (len(users), len(items))
        )
        seen = parts["seen"]
        dial_step = weights.pop("environment", None)
        if dial_step is None:  # a run from before the dial
            dial_step = spread(EmbeddingScorer(*tables)) * standardised_log(item_counts(pairs))
        return cls(
            # Components of the user's own are not needed to serve, nor to be found by name.
            config=_stored_config(parts["config"], f"{parts['path']}/config.yaml"),
            model=EmbeddingModel(
                users=users,
                items=items,
                user_embeddings=tables[0],
                item_embeddings=tables[1],
                train=pairs,
                dial_step=dial_step,
                dial=manifest.get("dial", 0.0),
                seen=None if seen is None else Seen.of_table(seen, len(users), len(items)),
            ),
            weights={name.removeprefix("model."): value for name, value in weights.items()},
            history=history_records(parts["history"]),
            best_epoch=manifest["best_epoch"],
            provenance={key: value for key, value in manifest.items() if key not in _OF_THE_END},
        )


def _stored_config(stated: Mapping[str, Any], source: str) -> Config:
    """The configuration of a run, whose components may be of classes that cannot be found."""
    tree = dict(stated)
    given: dict[str, dict[str, type[Any]]] = {"backbone": {}, "sampler": {}}
    kinds: tuple[tuple[str, Registry[Any], type[Any]], ...] = (
        ("backbone", BACKBONES, Backbone),
        ("sampler", SAMPLERS, Sampler),
    )
    for section, registry, base in kinds:
        name = tree[section]["name"]
        if not registry.at_hand(name):
            known = base.Config.model_fields.keys() & tree[section].keys()
            tree[section] = {key: tree[section][key] for key in known}
            given[section][name] = base
    try:
        return resolve_config(
            tree, source=source, backbones=given["backbone"], samplers=given["sampler"]
        )
    except ConfigError as error:
        raise RunError(f"{error}; train again") from error
