"""The diffusion sampler: what each setting promises, and that the right parameters learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.stats import chisquare
from torch import Tensor

from cnsdiff.backbones.base import Embeddings
from cnsdiff.backbones.lightgcn import LightGCN
from cnsdiff.base.errors import ConfigError
from cnsdiff.data.positives import Positives
from cnsdiff.diffusion import causal
from cnsdiff.objectives.objective import Objective
from cnsdiff.recommender.config import Config, resolve_config
from cnsdiff.samplers.base import Batch, Vectors
from cnsdiff.samplers.cnsdiff import CNSDiffConfig, CNSDiffSampler
from cnsdiff.testing import check_sampler, make_batch, make_context, tiny_positives
from cnsdiff.training.step import TrainingStep

POSITIVES = tiny_positives()
BATCH = make_batch(POSITIVES)
B, DIM = len(BATCH), 6
#: Nothing but the generated vector: no random share, no cap.
GENERATED = {"curriculum_start": (1, 0), "curriculum_end": (1, 0), "cap_margin": None}
#: Nothing but the random item.
RANDOM = {**GENERATED, "curriculum_start": (0, 1), "curriculum_end": (0, 1)}
ENVIRONMENTS = ["none", "popularity", "time", "given", "learned"]


def embeddings(seed: int = 0, scale: float = 1.0) -> Embeddings:
    stream = torch.Generator().manual_seed(seed)
    users, items = (scale * torch.randn(n, DIM, generator=stream) for n in (12, 17))
    return Embeddings(users.requires_grad_(), items.requires_grad_())


def build(**options: Any) -> CNSDiffSampler:
    if options.get("environment") == "none":
        options = {"causal": "none", **options}
    config = CNSDiffConfig(name="cnsdiff", **options)
    return CNSDiffSampler(POSITIVES, DIM, config, torch.Generator().manual_seed(1))


def sample(
    sampler: CNSDiffSampler,
    tables: Embeddings | None = None,
    batch: Batch = BATCH,
    progress: float = 0.5,
) -> Vectors:
    tables = embeddings() if tables is None else tables
    negatives: Vectors = sampler(batch, tables, make_context(2, progress))
    return negatives


def generated(negatives: Vectors) -> Tensor:
    assert negatives.pool is not None
    return negatives.pool[: len(negatives.pool) // 2].detach()


# -- learning ----------------------------------------------------------------------------------


def one_step(config: Config) -> tuple[dict[str, Tensor], TrainingStep]:
    """A step of training as configured; the parameters before it, and the trained step."""
    stream = torch.Generator().manual_seed(1)
    step = TrainingStep(
        LightGCN(POSITIVES, config.backbone, stream),
        CNSDiffSampler(POSITIVES, config.backbone.dim, config.sampler, stream),
        Objective(config.objective, POSITIVES),
    )
    before = {name: value.detach().clone() for name, value in step.named_parameters()}
    optimizer = torch.optim.Adam(list(step.parameter_groups(config.training.lr)))
    loss, _ = step(BATCH, make_context(3))
    loss.backward()
    optimizer.step()
    return before, step


def moved(before: dict[str, Tensor], step: TrainingStep) -> dict[str, bool]:
    return {name: not torch.equal(v, before[name]) for name, v in step.named_parameters()}


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_parameter_moves_in_a_step_of_the_preset(preset: str, depth: int) -> None:
    overrides = {"sampler": {"name": "cnsdiff", "depth": depth}}
    outcome = moved(*one_step(resolve_config(overrides, preset=preset)))
    assert sum(name.startswith("sampler.denoiser") for name in outcome) >= 8
    assert all(outcome.values()), outcome


@pytest.mark.parametrize(
    ("environment", "causal"),
    [
        (environment, causal)
        for environment in ENVIRONMENTS
        for causal in ("none", "step_kl", "backdoor")
        if (environment, causal) != ("none", "backdoor")
    ],
)
def test_every_parameter_moves_whatever_the_environment(environment: str, causal: str) -> None:
    overrides = {"sampler": {"name": "cnsdiff", "environment": environment, "causal": causal}}
    outcome = moved(*one_step(resolve_config(overrides)))
    names = " ".join(outcome)
    assert ("from_environment" in names) == (environment != "none")
    assert ("assignment" in names) == (environment == "learned")
    assert all(outcome.values()), outcome


def test_with_the_authors_preset_the_backbone_moves_and_the_denoiser_does_not() -> None:
    outcome = moved(*one_step(resolve_config(preset="authors")))
    denoiser = {name: yes for name, yes in outcome.items() if name.startswith("sampler.")}
    backbone = {name: yes for name, yes in outcome.items() if name.startswith("backbone.")}
    assert len(denoiser) == 7
    assert not any(denoiser.values()), denoiser
    assert len(backbone) == 2
    assert all(backbone.values()), backbone


def test_the_published_loss_weight_does_not_slow_the_denoiser_down() -> None:
    """Adam's steps are free of the loss's scale, down to the published λ_diff = 1e-6."""
    lengths = []
    for weight in (1e-6, 1.0):
        sampler = {"name": "cnsdiff", "diffusion_weight": weight, "cap_margin": None}
        before, step = one_step(resolve_config({"sampler": sampler}))
        change = step.sampler.denoiser.out.weight - before["sampler.denoiser.out.weight"]
        lengths.append(change.norm().item())
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


def test_the_denoiser_can_have_a_learning_rate_of_its_own() -> None:
    config = resolve_config(
        {"sampler": {"name": "cnsdiff", "learning_rate": 0.5}, "training": {"lr": 0.01}}
    )
    _, step = one_step(config)
    assert [group["lr"] for group in step.parameter_groups(0.01)] == [0.01, 0.5]


def test_training_brings_the_reconstruction_loss_down() -> None:
    sampler, tables = build(environment="none"), embeddings()
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.01)
    history = []
    for epoch in range(60):
        negatives = sampler(BATCH, tables, make_context(epoch))
        assert negatives.loss is not None
        optimizer.zero_grad()
        negatives.loss.backward()
        optimizer.step()
        history.append(negatives.loss.item())
    assert sum(history[-10:]) < 0.7 * sum(history[:10])


# -- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "paper", "authors"])
def test_each_preset_keeps_the_contract(preset: str) -> None:
    config = resolve_config({"sampler": {"name": "cnsdiff"}}, preset=preset)
    check_sampler(CNSDiffSampler, config.sampler)


@pytest.mark.parametrize(
    "options",
    [
        *({"environment": kind} for kind in ENVIRONMENTS[1:]),
        {"environment": "none", "causal": "step_kl"},
        {"depth": 3, "n_negatives": 4},
        {"schedule": "linear"},
        {"schedule": "linear-var", "weighting": "snr"},
        {"condition_user": False, "dropout": 0.5, "dropout_in_generation": True},
        {"guidance": 2.0, "calls": None, "full_chain": True},
        {"starts": (0, 20), "cap_margin": 0.5, "standardise": False},
    ],
)
def test_other_settings_keep_the_contract(options: dict[str, Any]) -> None:
    check_sampler(CNSDiffSampler, CNSDiffConfig(name="cnsdiff", **options))


# -- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_starting_at_zero_gives_back_the_positive_at_its_own_scale(scale: float) -> None:
    tables = embeddings(scale=scale)
    negatives = sample(build(starts=(0,), **GENERATED), tables)
    expected = tables.items[BATCH.positives]
    torch.testing.assert_close(negatives.vectors[:, 0], expected, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(negatives.diagnostics["cos_to_positive"], torch.tensor(1.0))


def test_the_candidate_kept_is_the_one_its_user_scores_highest() -> None:
    tables, starts = embeddings(), (0, 6, 13, 20)
    sampler = build(starts=starts, stochastic=False, **GENERATED)
    candidates: list[Tensor] = []
    original = sampler._generate

    def spy(*arguments: Any) -> Tensor:
        candidates.append(original(*arguments))
        return candidates[0]

    sampler._generate = spy  # type: ignore[method-assign]
    kept = generated(sample(sampler, tables))
    users = tables.users[BATCH.users]
    item_scale = tables.items[BATCH.positives].square().mean().sqrt()
    scores = (candidates[0] * item_scale * users).sum(dim=-1)
    assert len(scores) == len(starts)
    torch.testing.assert_close((kept * users).sum(dim=-1), scores.max(dim=0).values)


def test_embeddings_are_diffused_in_units_of_their_own_size() -> None:
    """A standardised sampler is scale-free: ten times the vectors, ten times the negatives."""
    sampler = build(**GENERATED)
    one = sample(sampler, embeddings()).vectors
    ten = sample(sampler, embeddings(scale=10.0)).vectors
    assert one is not None
    assert ten is not None
    torch.testing.assert_close(10 * one, ten, rtol=1e-4, atol=1e-4)


def test_the_reconstruction_loss_of_a_denoiser_that_says_zero_is_the_mean_square() -> None:
    sampler = build(environment="none", diffusion_weight=3.0)
    torch.nn.init.zeros_(sampler.denoiser.out.weight)
    torch.nn.init.zeros_(sampler.denoiser.out.bias)
    # Standardised vectors have mean square 1, so the loss is λ_diff itself.
    torch.testing.assert_close(sample(sampler).loss, torch.tensor(3.0))


def denoiser_calls(sampler: CNSDiffSampler, calls: list[tuple[Any, ...]]) -> None:
    """Record inputs and output of each forward pass of the denoiser."""
    sampler.denoiser.register_forward_hook(
        lambda module, inputs, output: calls.append((*inputs, output))
    )


@pytest.mark.parametrize("weighting", ["uniform", "snr"])
@pytest.mark.parametrize("kind", ["none", "step_kl", "backdoor"])
def test_the_samplers_loss_is_the_weighted_sum_of_its_two_terms(weighting: str, kind: str) -> None:
    sampler = build(
        weighting=weighting,
        causal=kind,
        environment="popularity",
        diffusion_weight=0.7,
        causal_weight=0.2,
        condition_dropout=0.0,
    ).double()
    tables = Embeddings(*(table.detach().double() for table in embeddings()))
    calls: list[tuple[Any, ...]] = []
    denoiser_calls(sampler, calls)
    loss = sample(sampler, tables).loss
    z_t, t, user, own, denoised = calls[0]
    process = sampler.process
    items, users = tables.items[BATCH.positives], tables.users[BATCH.users]
    z_0 = items / items.square().mean().sqrt()
    torch.testing.assert_close(user, users / users.square().mean().sqrt())
    assert torch.equal(own.argmax(dim=1), sampler.environments)
    expected = (z_0 - denoised).square().mean(dim=1)
    if weighting == "snr":
        expected = process.elbo_weight(t) * expected
    if kind == "step_kl":
        kept = process.alpha_bar[t].unsqueeze(1)
        noise = (z_t - kept.sqrt() * z_0) / (1 - kept).sqrt()
        previous = process.add_noise(z_0, (t - 1).clamp(min=1), noise)
        expected = expected + 0.2 * causal.step_kl(process, denoised, previous, t)
    elif kind == "backdoor":
        intervened = sampler.denoiser.interventional(z_t, t, user, sampler.prior)
        expected = expected + 0.2 * causal.backdoor(process, denoised, intervened, t)
    torch.testing.assert_close(loss, 0.7 * expected.mean(), rtol=1e-6, atol=0)


def test_timesteps_of_the_loss_are_uniform_from_one_to_the_last() -> None:
    sampler = build(environment="none", steps=5, starts=(0,))
    calls: list[tuple[Any, ...]] = []
    denoiser_calls(sampler, calls)
    sample(sampler, batch=make_batch(POSITIVES, torch.arange(B).repeat(100)))
    counts = torch.bincount(calls[0][1])
    assert counts[0] == 0
    assert len(counts) == 6
    assert chisquare(counts[1:].numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"calls": 1}, [[3, 5]]),
        ({"calls": 1, "full_chain": True}, [[6, 6]]),
        ({"calls": None}, [[3, 5], [2, 4], [1, 3], [2], [1]]),
        ({"calls": None, "full_chain": True}, [[t, t] for t in range(6, 0, -1)]),
    ],
)
def test_chains_ask_the_denoiser_at_the_configured_steps(
    options: dict[str, Any], asked: list[list[int]]
) -> None:
    sampler = build(environment="none", steps=6, starts=(3, 5), **options)
    calls: list[tuple[Any, ...]] = []
    denoiser_calls(sampler, calls)
    sample(sampler)
    # The first call is the loss's.
    assert [call[1].flatten().tolist() for call in calls[1:]] == asked


def test_a_stochastic_chain_draws_at_each_step_and_a_deterministic_one_only_at_its_start() -> None:
    states = []
    for stochastic in (False, True):
        sampler = build(stochastic=stochastic, calls=None, starts=(8,))
        drawn: list[bool] = []
        original = sampler.process.reverse_step

        def spy(*arguments: Any, drawn: list[bool] = drawn, original: Any = original) -> Tensor:
            drawn.append(arguments[-1] is not None)
            result: Tensor = original(*arguments)
            return result

        sampler.process.reverse_step = spy  # type: ignore[method-assign]
        sample(sampler)
        states.append(drawn)
    assert states == [[False] * 8, [True] * 8]


@pytest.mark.parametrize("in_generation", [True, False])
def test_dropout_enters_generation_only_if_asked(in_generation: bool) -> None:
    sampler = build(dropout=0.5, dropout_in_generation=in_generation, environment="none")
    seen: list[Tensor] = []
    sampler.denoiser.from_vector.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    sample(sampler)
    in_loss, generating = seen
    assert bool((in_loss == 0).any())
    assert bool((generating == 0).any()) == in_generation


def test_more_negatives_are_drawn_independently() -> None:
    vectors = sample(build(n_negatives=3)).vectors
    assert vectors is not None
    assert vectors.shape == (B, 3, DIM)
    assert not torch.allclose(vectors[:, 0], vectors[:, 1])


# -- guidance and condition --------------------------------------------------------------------


@pytest.mark.parametrize("environment", ["none", "popularity"])
def test_guidance_zero_generates_without_the_user_and_one_with(environment: str) -> None:
    ours, others = embeddings(seed=0), embeddings(seed=9)
    swapped = Embeddings(others.users, ours.items)
    for guidance, depends in ((0.0, False), (1.0, True), (2.0, True)):
        sampler = build(guidance=guidance, starts=(12,), environment=environment)
        same = torch.allclose(
            generated(sample(sampler, ours)), generated(sample(sampler, swapped)), atol=1e-5
        )
        assert same != depends, guidance


def test_guidance_is_linear_in_its_scale_for_a_single_call() -> None:
    zero, one, three = (
        generated(sample(build(guidance=guidance, starts=(12,), calls=1)))
        for guidance in (0.0, 1.0, 3.0)
    )
    torch.testing.assert_close(three, zero + 3 * (one - zero), rtol=1e-4, atol=1e-5)


def test_without_the_user_condition_guidance_has_nothing_to_scale() -> None:
    plain, scaled = (
        generated(sample(build(condition_user=False, guidance=guidance))) for guidance in (1.0, 5.0)
    )
    assert torch.equal(plain, scaled)


def test_condition_dropout_hides_its_share_of_rows_from_the_loss() -> None:
    sampler = build(condition_dropout=0.4, environment="none")
    seen: list[Tensor] = []
    assert sampler.denoiser.from_user is not None
    sampler.denoiser.from_user.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    index = torch.arange(B).repeat(60)
    sample(sampler, batch=make_batch(POSITIVES, index))
    dropped = (seen[0] == 0).all(dim=1).double().mean().item()
    # Binomial standard error, z = 4.
    assert abs(dropped - 0.4) < 4 * (0.4 * 0.6 / len(index)) ** 0.5
    assert bool((seen[1] != 0).any(dim=1).all()), "generation always sees the user"


# -- environment -------------------------------------------------------------------------------


def test_the_prior_is_the_share_of_interactions_in_each_environment() -> None:
    sampler = build(environment="popularity", n_environments=3)
    shares = torch.bincount(sampler.environments, minlength=3) / len(POSITIVES)
    assert torch.equal(sampler.prior, shares)
    torch.testing.assert_close(sampler.prior.sum(), torch.tensor(1.0))


def test_generation_under_the_intervention_does_not_see_the_rows_environment() -> None:
    sampler = build(environment="time")
    # Each row keeps its pair and takes another interaction's environment.
    elsewhere = Batch(BATCH.index.roll(7), BATCH.users, BATCH.positives)
    assert not torch.equal(sampler.environments[elsewhere.index], sampler.environments)
    here, there = sample(sampler), sample(sampler, batch=elsewhere)
    assert torch.equal(generated(here), generated(there))
    assert here.loss is not None
    assert there.loss is not None
    assert not torch.equal(here.loss, there.loss), "the loss does see it"


def test_the_causal_term_is_zero_when_the_denoiser_ignores_the_environment() -> None:
    sampler = build(environment="popularity")
    assert sampler.denoiser.from_environment is not None
    torch.nn.init.zeros_(sampler.denoiser.from_environment.weight)
    assert sample(sampler).diagnostics["causal"].item() < 1e-9
    assert sample(build(environment="popularity")).diagnostics["causal"].item() > 1e-6


def test_given_labels_are_the_environments_whatever_their_number() -> None:
    sampler = build(environment="given", n_environments=7)
    assert torch.equal(sampler.environments, POSITIVES.periods)
    assert sampler.denoiser.from_environment is not None
    assert len(sampler.prior) == 3
    torch.testing.assert_close(sampler.prior, torch.bincount(sampler.environments) / len(POSITIVES))


def test_time_without_timestamps_is_an_error() -> None:
    users, items = POSITIVES.pairs.numpy().T.copy()
    timeless = Positives(users, items, POSITIVES.n_users, POSITIVES.n_items)
    config = CNSDiffConfig(name="cnsdiff", environment="time")
    with pytest.raises(ConfigError, match="needs timestamps"):
        CNSDiffSampler(timeless, DIM, config, torch.Generator())


# -- hardness ----------------------------------------------------------------------------------


def test_the_easy_end_of_the_curriculum_is_a_random_item_that_is_no_positive() -> None:
    tables = embeddings()
    vectors = sample(build(**RANDOM), tables).vectors
    assert vectors is not None
    nearest = (vectors - tables.items).norm(dim=-1).min(dim=1)
    assert nearest.values.max().item() == 0
    assert not POSITIVES.contains(BATCH.users, nearest.indices).any()


def test_the_curriculum_moves_from_random_to_generated() -> None:
    tables = embeddings()
    far = []
    for progress in (0.0, 0.5, 1.0):
        negatives = sample(build(cap_margin=None), tables, progress=progress)
        far.append((negatives.vectors[:, 0] - generated(negatives)).norm(dim=1).mean().item())
    assert far[0] > 1.5 * far[1] > 2.25 * far[2]


@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_no_negative_beats_its_positive_by_more_than_the_margin(margin: float) -> None:
    tables = embeddings()
    negatives = sample(build(cap_margin=margin), tables, progress=1.0)
    assert negatives.pool is not None
    users, own = tables.users[BATCH.users], tables.items[BATCH.positives]
    limit = (users * own).sum(-1) + margin
    refuge = (users * negatives.pool[B:]).sum(-1)
    score = (users * negatives.vectors[:, 0]).sum(-1)
    assert bool((score <= torch.maximum(limit, refuge) + 1e-4).all())
    uncapped = sample(build(cap_margin=None), tables, progress=1.0).vectors
    assert uncapped is not None
    over = (users * uncapped[:, 0]).sum(-1) > limit
    assert over.any()
    torch.testing.assert_close(negatives.diagnostics["capped"], over.float().mean())


def test_with_cosine_scores_the_cap_acts_on_what_is_scored() -> None:
    unit = Embeddings(*(F.normalize(table.detach(), dim=-1) for table in embeddings()))
    context = replace(make_context(2, 1.0), cosine=True)
    uncapped: Vectors = build(cap_margin=None)(BATCH, unit, context)
    torch.testing.assert_close(uncapped.vectors.norm(dim=-1), torch.ones(B, 1))
    context = replace(make_context(2, 1.0), cosine=True)
    negatives: Vectors = build(cap_margin=0.0)(BATCH, unit, context)
    assert negatives.pool is not None
    users, own = unit.users[BATCH.users], unit.items[BATCH.positives]
    limit = torch.maximum((users * own).sum(-1), (users * negatives.pool[B:]).sum(-1))
    assert bool(((users * negatives.vectors[:, 0]).sum(-1) <= limit + 1e-5).all())
    assert 0 < float(negatives.diagnostics["capped"]) < 1


# -- gradients ---------------------------------------------------------------------------------


def reached(tables: Embeddings, value: Tensor) -> list[bool]:
    found = torch.autograd.grad(value, tables, allow_unused=True, retain_graph=True)
    return [gradient is not None and bool(gradient.any()) for gradient in found]


@pytest.mark.parametrize("detach", [True, False])
def test_the_samplers_loss_reaches_the_items_only_if_the_positive_is_not_detached(
    detach: bool,
) -> None:
    tables = embeddings()
    loss = sample(build(detach_positive=detach), tables).loss
    assert loss is not None
    assert reached(tables, loss) == [False, not detach]


def test_the_generated_part_carries_no_gradient_and_the_random_part_does() -> None:
    tables = embeddings()
    negatives = sample(build(), tables)
    assert negatives.pool is not None
    random = negatives.pool[B:].sum()
    assert reached(tables, random) == [False, True]
    assert reached(tables, random * 0 + negatives.pool[:B].sum()) == [False, False]


def test_the_pool_is_the_generated_vectors_then_the_random_items() -> None:
    tables = embeddings()
    negatives = sample(build(starts=(0,), n_negatives=2, **GENERATED), tables)
    assert negatives.pool is not None
    assert negatives.pool.shape == (4 * B, DIM)
    own = F.normalize(tables.items[BATCH.positives].repeat_interleave(2, dim=0), dim=1)
    torch.testing.assert_close(F.normalize(negatives.pool[: 2 * B], dim=1), own)


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"starts": []}, "one or more steps"),
        ({"starts": [21]}, "between 0 and steps=20"),
        ({"starts": [-1]}, "between 0 and steps=20"),
        ({"environment": "none"}, "'backdoor' needs an environment"),
        ({"schedule": "linear-var", "noise_min": 0.5, "noise_max": 0.4}, "must rise"),
        ({"schedule": "linear-var", "noise_min": 0.5, "noise_max": 0.5}, "must rise"),
        ({"schedule": "linear", "noise_scale": 2.0}, r"within \(0, 1\)"),
        ({"curriculum_start": (-1, 2)}, "Beta"),
        ({"curriculum_end": (0, 0)}, "Beta"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        CNSDiffConfig(name="cnsdiff", **options)
