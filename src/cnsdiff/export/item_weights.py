"""Item weights as Parquet: what a user's items give to the scores of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from torch import Tensor

from cnsdiff.export.directory import ExportManifest, write_export
from cnsdiff.recommender.eligibility import SeenItems
from cnsdiff.recommender.embedding_model import ItemItemModel
from cnsdiff.recommender.run_directory import config_fingerprint

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender

_SCORE = "sum of the weights of a user's items, and the item's bias"
_OF_OWN_UNITS = (
    "sum of the weights of a user's items, divided by its standard deviation over all items of "
    "training, and the item's bias"
)
#: Weights written at a time.
_BLOCK = 2**22


class ItemWeightsManifest(ExportManifest):
    """The manifest of exported item weights."""

    score: str
    dial: float
    environment: NotRequired[dict[str, object]]
    n_users: int
    n_items: int
    n_weights: int
    config_fingerprint: str
    seen: str
    dataset: dict[str, str | None]


def item_weights_to_parquet(
    model: Recommender,
    path: str | Path,
    *,
    dial: float | None = None,
    seen: SeenItems = "all",
    overwrite: bool = False,
) -> ItemWeightsManifest:
    """Write the weights of a model that scores by them.

    ``weights.parquet`` has ``item``, ``similar`` and ``weight``: what having ``item`` adds to the
    score of ``similar``, where that is not 0. ``items.parquet`` has ``id`` and ``bias``, which is
    added to every user's score; ``train.parquet`` has ``user`` and ``item``, the histories that
    recommendations are made of, and ``seen.parquet`` the pairs that they leave out. ``score`` of
    the manifest says how they make a score: of a model with an environment, a user's sums are
    divided by their standard deviation over all items of training before the bias is added.

    Parameters and errors as of :func:`~cnsdiff.export.to_parquet`.
    """
    served = model.model_
    assert isinstance(served, ItemItemModel)
    bias = served.scorer(dial=dial).item_bias
    environment = model.environment_ if dial is None else None
    left_out, weights, items = served.left_out(seen), served.weights, model.items_

    def write(folder: Path) -> dict[str, object]:
        biases = np.zeros(len(items), np.float32) if bias is None else bias.numpy()
        pl.DataFrame({"id": items, "bias": biases}).write_parquet(folder / "items.parquet")
        for name, matrix in (("train", served.train), ("seen", left_out)):
            users, columns = matrix.nonzero()
            pairs = pl.DataFrame(
                {"user": model.users_.gather(users), "item": items.gather(columns)}
            )
            pairs.write_parquet(folder / f"{name}.parquet")
        written, writer = 0, None
        rows = max(1, _BLOCK // len(items))
        for start in range(0, len(items), rows):
            part = weights[start : start + rows]
            block: Any = part.numpy() if isinstance(part, Tensor) else part
            row, column = block.nonzero()
            table = pl.DataFrame(
                {
                    "item": items.gather(start + row),
                    "similar": items.gather(column),
                    "weight": np.asarray(block[row, column], np.float32),
                }
            ).to_arrow()
            writer = writer or pq.ParquetWriter(folder / "weights.parquet", table.schema)
            writer.write_table(table)
            written += len(row)
        assert writer is not None
        writer.close()
        return {"n_weights": written}

    facts = {
        "export": "item-weights",
        "score": _OF_OWN_UNITS if served.own_units else _SCORE,
        "dial": model.dial_ if dial is None else dial,
        **({} if environment is None else {"environment": environment.model_dump()}),
        "n_users": len(model.users_),
        "n_items": len(items),
        "config_fingerprint": config_fingerprint(model.config_),
        "seen": "train" if seen == "all" and served.seen is None else seen,
        "dataset": model.trained_on_,
        "format": "parquet",
    }
    manifest: ItemWeightsManifest = write_export(path, facts, write, overwrite=overwrite)
    return manifest
