"""From what a world logs to a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.seeding import numpy_generator
from cnsdiff.data import Dataset, Interactions
from cnsdiff.simulate.interventions import Intervention
from cnsdiff.simulate.settings import ShiftSettings, WorldSettings


@dataclass(frozen=True)
class Observed:
    """The clicks of the log and those of the shifted world, each pair once in each."""

    log: pl.DataFrame
    shifted: pl.DataFrame


def assemble(
    observed: Observed,
    tables: Mapping[str, pl.DataFrame],
    plan: Intervention,
    world: WorldSettings,
    shift: ShiftSettings,
) -> Dataset:
    """Train, valid and test_iid at random from the log; test_ood without the pairs of the log.

    Raises
    ------
    ConfigError
        A split would be empty.
    """
    draw = numpy_generator(world.seed, "split").random(observed.log.height)
    part = np.where(draw < shift.valid, 1, np.where(draw < shift.valid + shift.test_iid, 2, 0))
    splits = {
        name: observed.log.filter(pl.Series(part == number))
        for number, name in enumerate(("train", "valid", "test_iid"))
    }
    splits["test_ood"] = observed.shifted.join(
        observed.log, on=["user", "item"], how="anti", maintain_order="left"
    )
    for name, frame in splits.items():
        known = frame.join(splits["train"].select("user").unique(), on="user", how="semi")
        known = known.join(splits["train"].select("item").unique(), on="item", how="semi")
        if known.height == 0:
            raise ConfigError(
                f"ConfoundedWorld: so small a log leaves the {name} split empty; raise n_users, "
                "n_items or exposures"
            )
    return Dataset.from_splits(
        {name: Interactions(frame, "ConfoundedWorld") for name, frame in splits.items()},
        name="confounded-world",
        scenario=shift.shift,
        source={"simulator": "ConfoundedWorld", "licence": "generated data, free to use"},
        settings={
            "world": world.model_dump(),
            "shift": shift.model_dump(),
            "environments": {
                "logged": [environment.label for environment in plan.logged],
                "test_ood": [environment.label for environment in plan.shifted],
            },
        },
        tables=tables,
    )
