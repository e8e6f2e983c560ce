"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cnsdiff.settings import Settings


class TrainingConfig(Settings):
    """How long, how fast and by what the training is judged."""

    epochs: int = Field(120, ge=1)
    batch_size: int = Field(2048, ge=1)
    lr: float = Field(0.002, gt=0, description="Adam's learning rate")
    patience: int | None = Field(
        10, ge=1, description="validations without improvement before stopping; None: never stop"
    )
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    select_on: Literal["valid", "test_ood"] = Field(
        "valid",
        description="the split that picks the best epoch; 'test_ood' repeats the published "
        "code's selection on the test set and is no honest result",
    )
    select_metric: str = Field("ndcg@20", pattern=r"^(recall|ndcg|precision|hitrate|mrr|map)@\d+$")
