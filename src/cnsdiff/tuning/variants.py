"""From a recommender as given to those of a study: the same, with some settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.recommender.config import Config, merge, nested
from cnsdiff.recommender.recommender import Recommender
from cnsdiff.recommender.run_directory import as_options

#: What judges negatives without a look at a test split.
_HONEST_JUDGE = "valid"


class Variants:
    """Recommenders that differ in some settings from the one given.

    Parameters
    ----------
    recommender
        The one given; it is not changed.

    Attributes
    ----------
    config
        Its configuration. False negatives are not counted where a test split would judge them.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._classes: dict[str, Any] = {
            name: choice
            for name in ("backbone", "sampler")
            if isinstance(choice := getattr(recommender, name), type)
        }
        self._source = recommender.source
        self.config: Config = recommender.resolve()
        if self.config.training.fhn_on != _HONEST_JUDGE:
            training = self.config.training.model_copy(update={"fhn_every": None})
            self.config = self.config.model_copy(update={"training": training})

    def recommender(self, setting: Mapping[str, Any]) -> Recommender:
        """The one with these values, by dotted key; not fitted, its configuration not checked."""
        tree = merge(self.config.model_dump(mode="json"), nested(setting))
        source = " ".join(f"{key}={value}" for key, value in setting.items()) or self._source
        return Recommender(**self._classes, source=source, **as_options(tree))

    def resolve(self, setting: Mapping[str, Any]) -> Config:
        """Its configuration.

        Raises
        ------
        ConfigError
            A value is refused, or goes ill with another.
        """
        return self.recommender(setting).resolve()
