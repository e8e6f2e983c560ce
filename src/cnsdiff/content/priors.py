r"""What features say of an item's vector, and how far clicks change that (equations 31 and 32).

A prior is a Gaussian for each item: its mean is told from the features, its covariance is that of
what the features leave open. An item with ``n`` interactions has the posterior mean ::

    z̄ = m + Σ (Σ + (c / n) I)^-1 (z - m)

of its learnt vector ``z``; a new item, ``n = 0``, is the mean itself. So new and old items are on
one scale. ``c = 0`` leaves the learnt vectors as they are.

The first clicks of a new item say who takes it. With the vectors of all users as Gaussian, of mean
``μ`` and covariance ``C``, the log-likelihood of ``k`` users who clicked, under a softmax over
users at ``τ``, is quadratic, as ``log E exp(x·z / τ) = μ·z / τ + zᵀ C z / 2τ²``; so the mode is in
closed form ::

    ẑ = (Σ^-1 + k C / τ²)^-1 (Σ^-1 m + Σ_{u clicked} (x_u - μ) / τ)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnsdiff.base.seeding import torch_generator
from cnsdiff.diffusion.denoiser import Denoiser
from cnsdiff.diffusion.process import GaussianDiffusion, cosine

#: Penalties of the ridge, in units of the features' mean variance.
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
#: An item with so many interactions weighs half as much as one with very many.
HALF_WEIGHT = 5.0
#: Width and steps of the networks.
HIDDEN, BATCH, STEPS, LEARNING_RATE = 256, 512, 3000, 1e-3
#: Noise steps of the diffusion; calls that keep most of the spread; draws of a mean.
NOISE_STEPS, CALLS, DRAWS = 100, 20, 16


class Gaussian(NamedTuple):
    """Priors of items: ``(n, d)`` the means, ``(d, d)`` float64 the covariance that they share."""

    mean: Tensor
    covariance: Tensor

    def posterior(self, vectors: Tensor, counts: Tensor, c: float) -> Tensor:
        """Equation (31): ``(n, d)`` of learnt vectors ``(n, d)`` of items with ``(n,)`` counts.

        ``c`` is in units of the mean variance. An item without interactions is its prior's mean.
        """
        variances, axes = torch.linalg.eigh(self.covariance)
        gain = variances / (variances + c * variances.mean() / counts.double()[:, None])
        away = (vectors - self.mean).double() @ axes
        told = self.mean + ((gain * away) @ axes.T).float() if c else vectors
        return torch.where((counts > 0)[:, None], told, self.mean)

    def left_open(self, counts: Tensor, c: float) -> Tensor:
        """``(n,)`` the share of the prior's variance that interactions leave: 1 of a new item."""
        variances = torch.linalg.eigvalsh(self.covariance)
        noise = c * variances.mean() / counts.double()[:, None]
        left = 1 / (1 / variances + 1 / noise)
        share: Tensor = left.sum(dim=1) / variances.sum()
        return share.float()

    def after_clicks(
        self, users: Tensor, clickers: NDArray[np.int64], items: NDArray[np.int64], tau: float
    ) -> Tensor:
        """Equation (32): ``(n, d)`` the items after their first clicks.

        Parameters
        ----------
        users
            ``(U, d)`` the vectors of all users.
        clickers, items
            ``(m,)`` who clicked, and on which of the ``n`` items.
        tau
            How sharply scores tell who clicks.
        """
        n, d = self.mean.shape
        centred = users.double() - users.double().mean(dim=0)
        curvature = centred.T @ centred / len(users) / tau**2
        precision = torch.linalg.inv(self.covariance)
        pulls = self.mean.double() @ precision
        pulls.index_add_(0, torch.from_numpy(items), centred[torch.from_numpy(clickers)] / tau)
        clicks = torch.from_numpy(np.bincount(items, minlength=n))
        result = torch.empty((n, d), dtype=torch.float64)
        for k in np.unique(
            clicks.numpy()
        ).tolist():  # items with equally many clicks share a matrix
            some = clicks == k
            result[some] = torch.linalg.solve(precision + k * curvature, pulls[some].T).T
        return result.float()


def covariance_of(away: Tensor) -> Tensor:
    """``(d, d)`` float64 of residuals ``(n, d)``, shrunk a little to a multiple of the identity."""
    centred = away.double() - away.double().mean(dim=0)
    covariance = centred.T @ centred / len(away)
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    return 0.9 * covariance + 0.1 * scale * torch.eye(len(covariance), dtype=torch.float64)


class Regression(ABC):
    """The mean of a prior: told from features alone."""

    @abstractmethod
    def __call__(self, features: Tensor) -> Tensor:
        """``(n, d)`` float32 of features ``(n, r)``."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Named tensors that :meth:`of_state` makes the same regression of."""

    @classmethod
    @abstractmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The regression again."""

    @classmethod
    @abstractmethod
    def fit(cls, features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> Self:
        """Learn from items.

        Parameters
        ----------
        features, vectors
            ``(n, r)`` and ``(n, d)``.
        counts
            ``(n,)`` interactions; a vector of few is worth less.
        seed
            Of what is drawn.
        """


class Linear(Regression):
    """Affine in the features."""

    def __init__(self, slopes: Tensor, constant: Tensor) -> None:
        self.slopes, self.constant = slopes, constant

    def __call__(self, features: Tensor) -> Tensor:
        return features @ self.slopes + self.constant

    def state(self) -> dict[str, Tensor]:
        return {"slopes": self.slopes, "constant": self.constant}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        return cls(state["slopes"], state["constant"])


class Mean(Linear):
    """The mean of all items, whatever the features: the control of all priors."""

    @classmethod
    def fit(cls, features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> Self:
        """See :meth:`Regression.fit`."""
        weights = _weights(counts)[:, None]
        mean = (weights * vectors).sum(dim=0) / weights.sum()
        return cls(torch.zeros(features.shape[1], vectors.shape[1]), mean)


class Ridge(Linear):
    """Weighted least squares with the penalty that suits a tenth of the items held out."""

    @classmethod
    def fit(cls, features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> Self:
        """See :meth:`Regression.fit`."""
        weights, held = _weights(counts), _held_out(len(features), seed)

        def solved(rows: Tensor, penalty: float) -> Ridge:
            weight = weights[rows].double()[:, None]
            x, z = features[rows].double(), vectors[rows].double()
            centre = (weight * x).sum(dim=0) / weight.sum()
            mean = (weight * z).sum(dim=0) / weight.sum()
            gram = (x - centre).T @ (weight * (x - centre))
            scale = gram.diagonal().mean().clamp(min=1e-12)
            gram += penalty * scale * torch.eye(len(gram), dtype=torch.float64)
            slopes = torch.linalg.solve(gram, (x - centre).T @ (weight * (z - mean)))
            return Ridge(slopes.float(), (mean - centre @ slopes).float())

        def error(penalty: float) -> float:
            away = solved(~held, penalty)(features[held]) - vectors[held]
            return float((weights[held][:, None] * away.square()).sum())

        best = min(PENALTIES, key=error)
        every = solved(torch.ones(len(features), dtype=torch.bool), best)
        return cls(every.slopes, every.constant)


class Mlp(Regression):
    """One hidden layer, and the step that suits a tenth of the items held out."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            vectors: Tensor = self.net(features)
        return vectors

    def state(self) -> dict[str, Tensor]:
        return dict(self.net.state_dict())

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        net = _mlp(state["0.weight"].shape[1], len(state["2.bias"]), torch.Generator())
        net.load_state_dict(dict(state))
        return cls(net)

    @classmethod
    def fit(cls, features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> Self:
        """See :meth:`Regression.fit`."""
        generator = torch_generator(seed, "content mlp")
        net = _mlp(features.shape[1], vectors.shape[1], generator)
        weights, held = _weights(counts), _held_out(len(features), seed)
        own = (~held).nonzero()[:, 0]
        optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        best, kept = np.inf, cls(net).copy()
        for step in range(1, STEPS + 1):
            some = own[torch.randint(len(own), (BATCH,), generator=generator)]
            away = net(features[some]) - vectors[some]
            loss = (weights[some][:, None] * away.square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0:
                away = cls(net)(features[held]) - vectors[held]
                error = float((weights[held][:, None] * away.square()).sum())
                if error < best:
                    best, kept = error, cls(net).copy()
        return kept

    def copy(self) -> Self:
        """As it is now, whatever trains on."""
        return self.of_state({name: own.clone() for name, own in self.state().items()})


class Diffusion(Regression):
    """Draws of the conditional diffusion, and their mean.

    The vectors are generated from noise with the features as condition (equations 6 to 11).
    """

    def __init__(self, net: Denoiser, scale: Tensor, centre: Tensor) -> None:
        self.net, self.scale, self.centre = net, scale, centre
        self.process = GaussianDiffusion(cosine(NOISE_STEPS))

    def draws(self, features: Tensor, n: int, seed: int = 0) -> Tensor:
        """``(n, m, d)`` vectors of features ``(m, r)``."""
        generator = torch_generator(seed, "content draws")
        start = torch.zeros(len(features), len(self.centre))
        with torch.no_grad():
            drawn = self.process.generate(
                lambda z, t: self.net(z, t, features),
                start,
                [NOISE_STEPS] * n,
                generator,
                calls=CALLS,
            )
        return drawn.float() * self.scale + self.centre

    def __call__(self, features: Tensor) -> Tensor:
        return self.draws(features, DRAWS).mean(dim=0)

    def state(self) -> dict[str, Tensor]:
        return {**self.net.state_dict(), "scale": self.scale, "centre": self.centre}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        net = _denoiser(len(state["centre"]), state["from_user.weight"].shape[1], torch.Generator())
        own = {name: value for name, value in state.items() if name not in ("scale", "centre")}
        net.load_state_dict(own)
        return cls(net, state["scale"], state["centre"])

    @classmethod
    def fit(cls, features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> Self:
        """See :meth:`Regression.fit`."""
        generator = torch_generator(seed, "content diffusion")
        net = _denoiser(vectors.shape[1], features.shape[1], generator)
        model = cls(net, vectors.std().clamp(min=1e-6), vectors.mean(dim=0))
        clean, weights = (vectors - model.centre) / model.scale, _weights(counts)
        optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
        for _ in range(2 * STEPS):
            some = torch.randint(len(features), (BATCH,), generator=generator)
            t = torch.randint(1, NOISE_STEPS + 1, (BATCH,), generator=generator)
            noise = torch.randn(clean[some].shape, generator=generator)
            noisy = model.process.add_noise(clean[some], t, noise)
            away = net(noisy, t, features[some]) - clean[some]
            loss = (weights[some][:, None] * away.square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return model


def energy_score(draws: Tensor, vectors: Tensor) -> float:
    """How well draws ``(k, n, d)`` tell vectors ``(n, d)``; smaller is better.

    ``E‖X - z‖ - E‖X - X'‖ / 2`` (Gneiting & Raftery, 2007, equation 21), the mean over items.
    """
    to_truth = (draws - vectors).norm(dim=2).mean()
    k = len(draws)
    among = torch.cdist(draws.transpose(0, 1), draws.transpose(0, 1)).sum(dim=(1, 2))
    return float(to_truth - (among / (k * (k - 1))).mean() / 2)


def energy_scores(features: Tensor, vectors: Tensor, counts: Tensor, seed: int) -> dict[str, float]:
    """The energy scores of a tenth of the vectors, held out, under two priors.

    ``"gaussian"``: the ridge and what it leaves open; ``"diffusion"``: draws of it. This is the
    cheap test of whether vectors have a shape given the features that a Gaussian lacks.
    """
    held = _held_out(len(features), seed)
    known = features[~held], vectors[~held], counts[~held], seed
    ridge, diffusion = Ridge.fit(*known), Diffusion.fit(*known)
    half = torch.linalg.cholesky(covariance_of(vectors[~held] - ridge(features[~held]))).float()
    generator = torch_generator(seed, "content energy")
    noise = torch.randn((DRAWS, *vectors[held].shape), generator=generator)
    draws = {
        "gaussian": ridge(features[held]) + noise @ half.T,
        "diffusion": diffusion.draws(features[held], DRAWS, seed),
    }
    return {name: energy_score(own, vectors[held]) for name, own in draws.items()}


#: What tells the mean, by name; ``mean`` and ``diffusion`` are tried where they are asked for.
PRIORS: dict[str, type[Regression]] = {
    "ridge": Ridge,
    "mlp": Mlp,
    "mean": Mean,
    "diffusion": Diffusion,
}


def _weights(counts: Tensor) -> Tensor:
    """``(n,)`` a learnt vector is worth as much as it has interactions, up to a point."""
    return counts / (counts + HALF_WEIGHT)


def _held_out(n: int, seed: int) -> Tensor:
    """``(n,)`` a tenth of the items, one at least."""
    order = torch.randperm(n, generator=torch_generator(seed, "content held out"))
    held = torch.zeros(n, dtype=torch.bool)
    held[order[: max(1, n // 10)]] = True
    return held


def _mlp(width: int, dim: int, generator: torch.Generator) -> nn.Sequential:
    layers = nn.Linear(width, HIDDEN), nn.Linear(HIDDEN, dim)
    with torch.no_grad():
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.GELU(), layers[1])


def _denoiser(dim: int, width: int, generator: torch.Generator) -> Denoiser:
    return Denoiser(
        dim, NOISE_STEPS, hidden=2 * HIDDEN, depth=2, user_dim=width, generator=generator
    )
