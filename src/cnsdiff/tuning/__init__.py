"""Tuning: searching the settings of a recommender on validation (the extra ``tune``)."""

from cnsdiff.base.search_space import Searched, Space
from cnsdiff.tuning.study import Study, read_study
from cnsdiff.tuning.tuner import Tuned, tune

__all__ = ["Searched", "Space", "Study", "Tuned", "read_study", "tune"]
