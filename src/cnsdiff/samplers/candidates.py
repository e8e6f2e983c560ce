"""Samplers that pick hard negatives from candidates, and how candidates are drawn and scored.

``C_u``: ``N`` items drawn uniformly, with replacement, from those outside the user's
training positives, afresh for each negative. Sources: DNS, Zhang et al. 2013; DNS(M, N) and
Softmax-v(ρ, N), Shi et al. 2023; AHNS, Lai et al. 2024, who also describe the curriculum.
"""

from __future__ import annotations

import warnings
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.base.search_space import Searched
from cnsdiff.data.positives import Positives
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Items, Sampler, SamplerConfig

#: Losses of about 0.7 that differ by less differ by no more than single precision's rounding.
_SMALLEST_TEMPERATURE = 1e-6


class CandidateConfig(SamplerConfig):
    """Settings of a sampler that picks from candidates."""

    candidates: Annotated[int, Searched(low=2, high=64, integer=True, log=True)] = Field(
        32, ge=1, le=10**5, description="N, candidates per negative"
    )


class CandidateSampler(Sampler):
    """Base of the samplers that choose among candidates by their scores."""

    Config = CandidateConfig
    config: CandidateConfig

    def score_candidates(
        self, batch: Batch, embeddings: Embeddings, context: Context, n: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Candidates and their scores ``s(u, ·)``, ``(B, n_negatives, N)`` each.

        ``n`` instead of ``N`` of them, if given.
        """
        n = self.config.candidates if n is None else n
        candidates = draw_candidates(
            self.positives, batch.users, self.config.n_negatives, n, context.negatives
        )
        users = embeddings.users.detach()[batch.users]
        return candidates, candidate_scores(users, embeddings.items, candidates)


@SAMPLERS.register("dns")
class DNSSampler(CandidateSampler):
    """Dynamic negative sampling: ``argmax_{n ∈ C_u} s(u, n)``."""

    shardable: ClassVar[bool] = True

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        return Items(pick(*self.score_candidates(batch, embeddings, context)))


@SAMPLERS.register("curriculum")
class CurriculumSampler(CandidateSampler):
    """Hard to easy: DNS over the first ``max(1, ⌊(1 - t/T) N⌋)`` candidates.

    ``t/T`` is the progress of training. Candidates are drawn independently, so the others are
    not drawn at all.
    """

    shardable: ClassVar[bool] = True

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        n = max(1, int((1 - context.progress) * self.config.candidates))
        return Items(pick(*self.score_candidates(batch, embeddings, context, n)))


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
    """DNS(M, N): the top ``M`` of ``C_u`` by ``s(u, n)``.

    ``use="one"`` takes one of them uniformly, afresh for each negative (AHNS's form); ``"all"``
    takes the ``M`` of them with weight 1, so that BPR sums over them (the original's). Candidates
    are drawn with replacement, so an item may be among the ``M`` twice, as in both sources.
    """

    Config = DNSMNConfig
    shardable: ClassVar[bool] = True
    config: DNSMNConfig

    @property
    def n_negatives(self) -> int:
        return self.config.top if self.config.use == "all" else self.config.n_negatives

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        candidates, scores = self.score_candidates(batch, embeddings, context)
        top = candidates.gather(2, scores.topk(self.config.top, dim=2).indices)
        if self.config.use == "all":
            items = top.squeeze(1)
            return Items(items, weights=torch.ones_like(items, dtype=scores.dtype))
        place = torch.randint(
            self.config.top,
            (*top.shape[:2], 1),
            generator=context.negatives,
            device=top.device,
        )
        return Items(top.gather(2, place).squeeze(2))


class SoftmaxRhoConfig(CandidateConfig):
    """Settings of :class:`SoftmaxRhoSampler`."""

    candidates: int = Field(200, ge=2, le=10**5, description="N, candidates, all of which are used")
    rho: Annotated[float, Searched(low=0.05, high=5.0, log=True)] = Field(
        1.0, gt=0, description="λ of τ = sqrt(Var Z / 2λ), the ρ of the name: larger is harder"
    )

    @model_validator(mode="after")
    def _check(self) -> SoftmaxRhoConfig:
        if self.n_negatives != 1:
            raise ValueError(
                "softmax_rho uses every candidate; leave n_negatives at 1 and set candidates"
            )
        return self


@SAMPLERS.register("softmax_rho")
class SoftmaxRhoSampler(CandidateSampler):
    """Softmax-v(ρ, N): all of ``C_u``, weighted by ``softmax(Z / τ - log q)``.

    ``Z = -log σ(s(u,p) - s(u,n))`` is each candidate's BPR loss, and ``τ = sqrt(Var Z / 2λ)`` with
    the unbiased variance over the row's candidates, as in the authors' code; the weights carry no
    gradient and sum to 1. Candidates are uniform, so ``log q`` is a constant, which a softmax does
    not feel. ``Z / τ`` has a spread of ``sqrt(2λ)`` whatever the scores' scale. Where ``Z`` does
    not vary, theirs divides by 0; ours bounds ``τ`` from below, and all weights are alike.
    """

    Config = SoftmaxRhoConfig
    shardable: ClassVar[bool] = True
    config: SoftmaxRhoConfig

    @property
    def n_negatives(self) -> int:
        return self.config.candidates

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        candidates, scores = self.score_candidates(batch, embeddings, context)
        with torch.no_grad():
            users, items = embeddings.users[batch.users], embeddings.items[batch.positives]
            positive = (users * items).sum(dim=-1, keepdim=True)
            losses = F.softplus(scores.squeeze(1) - positive)
            temperature = (losses.var(dim=1, keepdim=True) / (2 * self.config.rho)).sqrt()
            weights = (losses / temperature.clamp(min=_SMALLEST_TEMPERATURE)).softmax(dim=1)
        return Items(candidates.squeeze(1), weights)


class AHNSConfig(CandidateConfig):
    """Settings of :class:`AHNSSampler`."""

    alpha: Annotated[float, Searched(low=0.1, high=5.0, log=True)] = Field(
        1.0, ge=0, description="α, added to the positive's score"
    )
    beta: Annotated[float, Searched(low=0.05, high=1.0, log=True)] = Field(
        0.1, gt=0, description="β, scale of the score aimed at"
    )
    q: Annotated[float, Searched(low=-3.0, high=-1.0)] = Field(
        -2.0,
        ge=-100,
        le=100,
        description="below -1, a higher positive score asks for an easier negative",
    )
    floor: float = Field(
        0.1, gt=0, description="s(u,p) + α counts as this where it is less: our guard"
    )


@SAMPLERS.register("ahns")
class AHNSSampler(CandidateSampler):
    """Adaptive hardness, AHNS: ``argmin_{n ∈ C_u} |s(u,n) - β (s(u,p) + α)^{q+1}|``.

    With ``q < -1`` the score aimed at has a pole where ``s(u,p) + α = 0`` and is negative, or not
    a number, beyond it: of the positives the model ranks worst, the authors' code asks for the
    *easiest* negatives. Ours keeps ``s(u,p) + α`` from falling below ``floor``, so that such a
    positive asks for negatives as hard as any. 0.1 is the smallest α the authors use: with any of
    their settings the guard acts on positives of negative score alone.
    """

    Config = AHNSConfig
    shardable: ClassVar[bool] = True
    config: AHNSConfig

    def forward(self, batch: Batch, embeddings: Embeddings, context: Context) -> Items:
        config = self.config
        candidates, scores = self.score_candidates(batch, embeddings, context)
        with torch.no_grad():
            users, items = embeddings.users[batch.users], embeddings.items[batch.positives]
            base = ((users * items).sum(dim=-1) + config.alpha).clamp(min=config.floor)
            aim = (config.beta * base.pow(config.q + 1)).view(-1, 1, 1)
            return Items(pick(candidates, -(scores - aim).abs()))


def draw_candidates(
    positives: Positives, users: Tensor, n: int, candidates: int, generator: torch.Generator
) -> Tensor:
    """``(B, n, N)`` item ids, never a training positive of the row's user."""
    items = positives.sample_negatives(users, n * candidates, generator)
    return items.view(len(users), n, candidates)


def candidate_scores(users: Tensor, items: Tensor, candidates: Tensor) -> Tensor:
    """The inner products of each row's user with its candidates, without gradient.

    Parameters
    ----------
    users
        ``(B, d)`` a vector per row.
    items
        ``(I, d)`` the catalogue.
    candidates
        ``(B, n, N)`` ids.

    Returns
    -------
    Tensor
        ``(B, n, N)``.
    """
    with torch.no_grad():
        flat = candidates.flatten(1)
        if len(items) <= flat.shape[1]:
            way = _whole_product
        elif items.device.type == "cpu" and items.dtype in (torch.float32, torch.float64):
            way = _sampled_product
        else:
            way = _gathered
        return way(users, items, flat).view(candidates.shape)


def pick(candidates: Tensor, worth: Tensor) -> Tensor:
    """Of each row's candidates ``(B, n, N)`` the one worth most, ``(B, n)``."""
    return candidates.gather(2, worth.argmax(dim=2, keepdim=True)).squeeze(2)


def _whole_product(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """``(B, m)`` scores of the items ``flat``, out of those of the whole catalogue."""
    return (users @ items.T).gather(1, flat)


def _gathered(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """The same from the items' vectors, laid out as ``(B, m, d)``."""
    return torch.bmm(F.embedding(flat, items), users.unsqueeze(-1)).squeeze(-1)


def _sampled_product(users: Tensor, items: Tensor, flat: Tensor) -> Tensor:
    """The same without that copy, which takes a CPU most of the time; for ``m <= I`` only.

    The candidates are the places of a sparse matrix ``(B, I)`` at which the product of users and
    items is wanted. The CPU's routine goes through the places one by one, so that they may come
    in any order and repeatedly (but it drops those beyond the number of cells); that of CUDA does
    not say as much, and a GPU copies quickly.
    """
    rows, m = flat.shape
    with warnings.catch_warnings():
        # PyTorch announces once per process that its CSR tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        places = torch.sparse_csr_tensor(
            torch.arange(0, rows * m + 1, m),
            flat.flatten(),
            items.new_zeros(rows * m),
            size=(rows, len(items)),
            check_invariants=False,
        )
    product: Tensor = torch.sparse.sampled_addmm(places, users, items.T, beta=0.0)
    return product.values().view(rows, m)
