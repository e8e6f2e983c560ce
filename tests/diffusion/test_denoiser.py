"""The denoiser against an explicit MLP on the concatenated input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnsdiff.diffusion.denoiser import Denoiser, dropout_mask, guided, timestep_embedding

DIM, USER, ENVIRONMENTS, STEPS = 6, 4, 3, 20
B = 7
T = torch.tensor([1, 3, 5, 9, 14, 18, 20])
PRIOR = torch.tensor([0.6, 0.1, 0.3])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Z, USERS = normal(B, DIM, seed=1), normal(B, USER, seed=2)
OWN = torch.eye(ENVIRONMENTS)[T % ENVIRONMENTS]


def build(*, seed: int = 3, **options: object) -> Denoiser:
    stream = torch.Generator().manual_seed(seed)
    arguments: dict[str, object] = {
        "hidden": 9,
        "user_dim": USER,
        "environments": ENVIRONMENTS,
        **options,
    }
    return Denoiser(DIM, STEPS, generator=stream, **arguments)  # type: ignore[arg-type]


def explicit_mlp(model: Denoiser, z_t: Tensor, t: Tensor, user: Tensor, own: Tensor) -> Tensor:
    """What the parts amount to: one linear layer on ``[z_t, time, user, environment]``."""
    parts = [model.from_vector, model.from_time, model.from_user, model.from_environment]
    weight = torch.cat([part.weight for part in parts if part is not None], dim=1)
    time = F.linear(timestep_embedding(t, DIM), model.time.weight, model.time.bias)
    joint = torch.cat([z_t, time, user, own], dim=1)
    state = torch.tanh(F.linear(joint, weight, model.from_vector.bias))
    for layer in model.hidden:
        state = torch.tanh(layer(state))
    return F.linear(state, model.out.weight, model.out.bias)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_it_is_an_mlp_on_the_concatenation(depth: int) -> None:
    model = build(depth=depth)
    assert len(model.hidden) == depth - 1
    torch.testing.assert_close(
        model(Z, T, USERS, OWN), explicit_mlp(model, Z, T, USERS, OWN), rtol=1e-5, atol=1e-6
    )


def test_the_concatenated_layer_starts_as_xavier_over_all_its_inputs() -> None:
    model = build(hidden=2000, seed=4)
    assert model.from_user is not None
    assert model.from_environment is not None
    parts = (model.from_vector, model.from_time, model.from_user, model.from_environment)
    variance = 2 / (DIM + DIM + USER + ENVIRONMENTS + 2000)
    for part in parts:
        # Variance of n normal values: standard error sqrt(2/n) of it; z = 4.
        n = part.weight.numel()
        assert abs(part.weight.var().item() / variance - 1) < 4 * math.sqrt(2 / n)


def test_it_normalises_the_noisy_vector_only_if_asked() -> None:
    shrunk = Z * 0.01
    assert torch.allclose(build(normalise_input=True)(shrunk, T), build()(F.normalize(Z), T))
    assert not torch.allclose(build()(shrunk, T), build()(Z, T))


@pytest.mark.parametrize("depth", [1, 3])
def test_the_interventional_prediction_is_the_prior_mean_over_environments(depth: int) -> None:
    model = build(depth=depth)
    one_hots = torch.eye(ENVIRONMENTS)
    expected = sum(
        p * model(Z, T, USERS, e.expand(B, -1)) for p, e in zip(PRIOR, one_hots, strict=True)
    )
    ours = model.interventional(Z, T, USERS, PRIOR)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_the_interventional_prediction_shares_one_dropout_mask_among_environments() -> None:
    model = build(dropout=0.5)
    one_hots = torch.eye(ENVIRONMENTS)

    def stream() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    expected = sum(
        p * model(Z, T, USERS, e.expand(B, -1), dropout_generator=stream())
        for p, e in zip(PRIOR, one_hots, strict=True)
    )
    ours = model.interventional(Z, T, USERS, PRIOR, dropout_generator=stream())
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_there_is_no_dropout_without_a_generator(training: bool) -> None:
    model = build(dropout=0.5).train(training)
    assert torch.equal(model(Z, T, USERS), build(dropout=0.0)(Z, T, USERS))


def test_dropout_zeroes_its_share_of_the_noisy_vector_and_scales_up_the_rest() -> None:
    model, n, p = build(dropout=0.3), 4000, 0.3
    seen: list[Tensor] = []
    model.from_vector.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    z_t = normal(n, DIM, seed=6)
    model(z_t, torch.tensor(4), dropout_generator=torch.Generator().manual_seed(7))
    (dropped,) = seen
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], z_t[kept] / (1 - p))
    # Binomial standard error, z = 4.
    assert abs(kept.float().mean().item() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / kept.numel())


def test_the_dropout_mask_is_the_generators() -> None:
    model = build(dropout=0.5)
    one, again, other = (
        model(Z, T, dropout_generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_no_condition_is_a_zero_row() -> None:
    model = build()
    zero_user, zero_own = torch.zeros_like(USERS), torch.zeros_like(OWN)
    torch.testing.assert_close(model(Z, T, None, OWN), model(Z, T, zero_user, OWN))
    torch.testing.assert_close(model(Z, T, USERS, None), model(Z, T, USERS, zero_own))


def test_each_part_of_the_condition_matters() -> None:
    model = build()
    full = model(Z, T, USERS, OWN)
    for other in (
        model(Z, T.flip(0), USERS, OWN),
        model(Z, T, USERS.flip(0), OWN),
        model(Z, T, USERS, OWN.roll(1, dims=1)),
    ):
        assert not torch.allclose(full[0], other[0], atol=1e-4)


def test_groups_share_the_condition_by_broadcasting() -> None:
    model = build()
    z_t, t = normal(2, B, DIM, seed=8), torch.tensor([[4], [9]])
    together = model(z_t, t, USERS, OWN)
    for g in range(2):
        alone = model(z_t[g], t[g].expand(B), USERS, OWN)
        torch.testing.assert_close(together[g], alone, rtol=1e-5, atol=1e-6)


def test_the_timestep_embedding_is_its_formula() -> None:
    embedding = timestep_embedding(torch.tensor([0, 1, 13]), 6)
    for row, t in zip(embedding.tolist(), (0, 1, 13), strict=True):
        angles = [t * 10_000 ** (-k / 3) for k in range(3)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert row == pytest.approx(expected, abs=1e-6)


def test_an_odd_timestep_embedding_ends_in_zero() -> None:
    t = torch.tensor([2, 5])
    odd = timestep_embedding(t, 7)
    assert torch.equal(odd[:, :6], timestep_embedding(t, 6))
    assert torch.equal(odd[:, 6], torch.zeros(2))


def test_guidance_zero_ignores_the_condition_and_one_is_plain() -> None:
    with_it, without = normal(3, DIM, seed=9), normal(3, DIM, seed=10)
    assert torch.equal(guided(with_it, without, 0.0), without)
    torch.testing.assert_close(guided(with_it, without, 1.0), with_it)


def test_guidance_above_one_moves_past_the_condition() -> None:
    with_it, without = normal(3, DIM, seed=9), normal(3, DIM, seed=10)
    torch.testing.assert_close(guided(with_it, without, 3.0), 3 * with_it - 2 * without)


def test_weights_are_a_function_of_the_generator() -> None:
    one, again, other = (build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_the_table_of_timesteps_is_not_saved_with_the_weights() -> None:
    assert "timestep_table" not in build().state_dict()


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.75, 0.9])
def test_a_dropout_mask_keeps_its_share_and_the_mean(probability: float) -> None:
    like = torch.empty(300, 1001, dtype=torch.float64)
    mask = dropout_mask(like, probability, torch.Generator().manual_seed(0))
    assert mask.shape == like.shape
    assert mask.dtype == like.dtype
    kept = mask != 0
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - probability)))
    n = mask.numel()
    deviation = (probability * (1 - probability) / n) ** 0.5
    assert abs(kept.double().mean().item() - (1 - probability)) <= 5 * deviation + 2**-16


def test_entries_of_a_dropout_mask_are_independent_of_their_neighbours() -> None:
    for probability in (0.5, 0.3):  # by 8 bits and by 16
        generator = torch.Generator().manual_seed(1)
        kept = (dropout_mask(torch.empty(2**18), probability, generator) != 0).double()
        kept -= kept.mean()
        for lag in (1, 2, 3, 4, 7, 8):
            correlation = (kept[lag:] * kept[:-lag]).mean() / kept.square().mean()
            assert abs(correlation.item()) < 5 / 2**9
