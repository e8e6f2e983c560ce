"""The denoiser ``f_θ(z_t, t, c)``: an MLP that predicts ``z_0`` (equation 9)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Denoiser(nn.Module):
    """MLP on the concatenation of noisy vector, timestep embedding and condition.

    The first layer on a concatenation is the sum of one linear map per part, and is computed
    so: the parts keep their own (broadcastable) shapes, and averaging over environments costs
    one cheap term per environment instead of a full forward pass.

    Parameters
    ----------
    dim
        Size ``d`` of the vectors.
    steps
        ``T``, for the table of timestep embeddings.
    hidden
        Width of the hidden layers.
    depth
        Number of hidden layers.
    user_dim
        Size of the user condition, 0 for none.
    environments
        Number of environments in the condition, 0 for none.
    dropout
        Probability with which entries of the noisy vector are zeroed in training.
    normalise_input
        Scale the noisy vector to unit length first, as the authors do.
    generator
        Source of the initial weights (CPU).
    """

    timestep_table: Tensor

    def __init__(
        self,
        dim: int,
        steps: int,
        *,
        hidden: int,
        depth: int = 1,
        user_dim: int = 0,
        environments: int = 0,
        dropout: float = 0.0,
        normalise_input: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.normalise_input = normalise_input
        self.n_environments = environments
        table = timestep_embedding(torch.arange(steps + 1), dim)
        self.register_buffer("timestep_table", table, persistent=False)
        self.time = nn.Linear(dim, dim)
        self.from_vector = nn.Linear(dim, hidden)
        self.from_time = nn.Linear(dim, hidden, bias=False)
        self.from_user = nn.Linear(user_dim, hidden, bias=False) if user_dim else None
        self.from_environment = (
            nn.Linear(environments, hidden, bias=False) if environments else None
        )
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth - 1))
        self.out = nn.Linear(hidden, dim)
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Xavier-normal weights over the concatenated input, near-zero biases (DiffRec's)."""
        parts = [self.from_vector, self.from_time, self.from_user, self.from_environment]
        joint = [part for part in parts if part is not None]
        joint_fan_in = sum(part.in_features for part in joint)
        for module in self.modules():
            if not isinstance(module, nn.Linear):
                continue
            fan_in = joint_fan_in if any(module is part for part in joint) else module.in_features
            std = math.sqrt(2.0 / (fan_in + module.out_features))
            module.weight.normal_(0.0, std, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0.0, 0.001, generator=generator)

    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        user: Tensor | None = None,
        environment: Tensor | None = None,
        *,
        dropout_generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict ``z_0``.

        Parameters
        ----------
        z_t
            ``(..., d)`` noisy vectors.
        t
            Integer timesteps that broadcast against the leading axes of ``z_t``.
        user
            ``(..., user_dim)`` user condition; a zero row (or ``None``) means "dropped".
        environment
            ``(..., K)`` weights over environments, usually one-hot; a zero row (or ``None``)
            means "dropped".
        dropout_generator
            Source of the dropout mask; no dropout without it.

        Returns
        -------
        Tensor
            ``(..., d)`` predicted clean vectors.
        """
        joint = self._joint(z_t, t, user, dropout_generator)
        denoised: Tensor = self.out(self._trunk(joint, environment))
        return denoised

    def interventional(
        self,
        z_t: Tensor,
        t: Tensor,
        user: Tensor | None,
        prior: Tensor,
        *,
        dropout_generator: torch.Generator | None = None,
    ) -> Tensor:
        """``Σ_e π(e) f_θ(z_t, t, c, e)``: the prediction under ``do``, by backdoor adjustment.

        ``prior`` is ``π``, ``(K,)``. The output layer is linear, so it is applied once, to the
        averaged hidden state.
        """
        joint = self._joint(z_t, t, user, dropout_generator)
        state: Tensor | None = None
        for weight, one_hot in zip(prior, torch.eye(len(prior)).to(prior), strict=True):
            part = weight * self._trunk(joint, one_hot)
            state = part if state is None else state + part
        denoised: Tensor = self.out(state)
        return denoised

    def _joint(
        self, z_t: Tensor, t: Tensor, user: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        if self.normalise_input:
            z_t = F.normalize(z_t, dim=-1)
        if self.dropout and generator is not None:
            z_t = z_t * dropout_mask(z_t, self.dropout, generator)
        joint: Tensor = self.from_vector(z_t) + self.from_time(self.time(self.timestep_table[t]))
        if self.from_user is not None and user is not None:
            joint = joint + self.from_user(user)
        return joint

    def _trunk(self, joint: Tensor, environment: Tensor | None) -> Tensor:
        if self.from_environment is not None and environment is not None:
            joint = joint + self.from_environment(environment)
        state = torch.tanh(joint)
        for layer in self.hidden:
            state = torch.tanh(layer(state))
        return state


def dropout_mask(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Factors of the shape of ``like``: 0 with ``probability``, else ``1 / (1 - probability)``.

    Each entry takes 8 random bits, or 16 where 8 cannot express the probability, which is then
    rounded to a multiple of 2^-16. Random bits are what dropout spends its time on.
    """
    bits, kind = (8, torch.uint8) if (256 * probability).is_integer() else (16, torch.int16)
    words = -(-like.numel() * bits // 64)
    drawn = torch.empty(words, dtype=torch.int64, device=like.device)
    drawn.random_(-(2**63), None, generator=generator)
    entries = drawn.view(kind)[: like.numel()].view(like.shape)
    lowest = 0 if kind is torch.uint8 else -(2**15)
    kept = entries >= lowest + round(probability * 2**bits)
    factors: Tensor = kept.to(like.dtype)
    return factors.mul_(1 / (1 - probability))


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding ``(..., dim)`` of timesteps (Vaswani et al. 2017)."""
    half = dim // 2
    frequency = torch.exp(-math.log(max_period) * torch.arange(half) / half)
    angle = t.unsqueeze(-1).float() * frequency
    embedding = torch.cat([angle.cos(), angle.sin()], dim=-1)
    return F.pad(embedding, (0, dim - 2 * half))


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022): 0 ignores the condition, 1 is plain."""
    return unconditional + scale * (conditional - unconditional)


def drop_condition(
    condition: Tensor | None, probability: float, generator: torch.Generator
) -> Tensor | None:
    """Classifier-free dropout: the whole condition of a row ``(B, c)`` becomes zero."""
    if condition is None or not probability:
        return condition
    uniform = torch.rand((len(condition), 1), generator=generator, device=condition.device)
    return condition * (uniform >= probability)
