"""DNS(M, N) (Shi et al. 2023): from the ``M`` best of ``N`` candidates, one or all."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives
from cnsdiff.samplers.candidates import CandidateConfig, CandidateSampler


class DNSMNConfig(CandidateConfig):
    """Settings of :class:`DNSMNSampler`."""

    candidates: Annotated[int, Searched(low=50, high=400, integer=True, log=True)] = Field(
        200, ge=1, le=10**5, description="N, candidates per negative"
    )
    top: Annotated[int, Searched(low=1, high=50, integer=True, log=True)] = Field(
        2, ge=1, le=10**5, description="M, how many of the highest-scoring are kept"
    )
    use: Literal["one", "all"] = Field(
        "one", description="one of the M at random, or all M, whose BPR losses are summed"
    )

    @model_validator(mode="after")
    def _check(self) -> DNSMNConfig:
        if self.top > self.candidates:
            raise ValueError(
                f"top={self.top} of candidates={self.candidates} cannot be kept; "
                f"lower top or raise candidates to {self.top}"
            )
        if self.use == "all" and self.n_negatives != 1:
            raise ValueError(
                "use='all' makes as many negatives as top says; leave n_negatives at 1 and raise "
                "top"
            )
        return self


@SAMPLERS.register("dns_mn")
class DNSMNSampler(CandidateSampler):
    """The top ``M`` of ``C_u`` by ``s(u, n)``.

    ``use="one"`` takes one of them uniformly, afresh for each negative (AHNS's form); ``"all"``
    takes the ``M`` of them with weight 1, so that BPR sums over them (the original's). Candidates
    are drawn with replacement, so an item may be among the ``M`` twice, as in both sources.
    """

    Config = DNSMNConfig
    config: DNSMNConfig

    @property
    def n_negatives(self) -> int:
        return self.config.top if self.config.use == "all" else self.config.n_negatives

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Negatives:
        candidates, scores = self.scored(batch, embeddings, context)
        top = candidates.gather(2, scores.topk(self.config.top, dim=2).indices)
        if self.config.use == "all":
            items = top.squeeze(1)
            return Negatives(items=items, weights=torch.ones_like(items, dtype=scores.dtype))
        place = torch.randint(
            self.config.top,
            (*top.shape[:2], 1),
            generator=context.negatives,
            device=top.device,
        )
        return Negatives(items=top.gather(2, place).squeeze(2))
