"""The environment: what decides, beside taste, which items are interacted with at a moment."""

from cnsdiff.environment.activity import HALF_LIVES, Activity
from cnsdiff.environment.covariates import Covariates, covariates_at
from cnsdiff.environment.environment import Choices, Environment, known_shift
from cnsdiff.environment.rehearsal import Rehearsal, hold_out, hold_out_items, rehearse

__all__ = [
    "HALF_LIVES",
    "Activity",
    "Choices",
    "Covariates",
    "Environment",
    "Rehearsal",
    "covariates_at",
    "hold_out",
    "hold_out_items",
    "known_shift",
    "rehearse",
]
