"""Implicit ALS against the normal equations of the paper, in dense NumPy."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from cnsdiff.base.errors import ConfigError, InputError, NotFittedError
from cnsdiff.data import Dataset, read_interactions
from cnsdiff.references import IALS

Floats = NDArray[np.float64]
ALPHA, LAMBDA = 3.0, 0.7


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """30 users × 20 items."""
    train = np.random.default_rng(1).random((30, 20)) < 0.3
    train[np.arange(20), np.arange(20)] = True
    pairs = read_interactions(pl.DataFrame(np.argwhere(train), schema=["user", "item"]))
    return Dataset.from_splits({"train": pairs}, name="tiny", scenario="given")


@pytest.fixture(scope="module")
def p(dataset: Dataset) -> Floats:
    """Training positives, dense."""
    return dataset.split("train").csr(dataset.n_users, dataset.n_items).toarray().astype(float)


@pytest.fixture(scope="module")
def converged(dataset: Dataset) -> IALS:
    return IALS(4, regularisation=LAMBDA, alpha=ALPHA, iterations=400, threads=1).fit(dataset)


def scores(model: IALS) -> np.ndarray:
    return model.score_block(torch.arange(model.n_users), 0, model.n_items).numpy()


def solved(p: Floats, fixed: Floats) -> Floats:
    """The paper's equation 4 row by row: ``x_u = (YᵀC^uY + λI)⁻¹ YᵀC^u p(u)``."""
    rows = []
    for preferences in p:
        c = np.diag(1 + ALPHA * preferences)
        matrix = fixed.T @ c @ fixed + LAMBDA * np.eye(fixed.shape[1])
        rows.append(np.linalg.solve(matrix, fixed.T @ c @ preferences))
    return np.array(rows)


def cost(p: Floats, x: Floats, y: Floats) -> float:
    """The paper's equation 3."""
    total = LAMBDA * (np.sum(x**2) + np.sum(y**2))
    for u, i in np.ndindex(*p.shape):
        total += (1 + ALPHA * p[u, i]) * (p[u, i] - x[u] @ y[i]) ** 2
    return float(total)


def test_no_exact_half_step_moves_the_converged_factors(converged: IALS, p: Floats) -> None:
    x, y = (t.double().numpy() for t in (converged.user_factors_, converged.item_factors_))
    assert np.abs(x @ y.T).max() > 0.5
    np.testing.assert_allclose(solved(p, y), x, atol=1e-4)
    np.testing.assert_allclose(solved(p.T, x), y, atol=1e-4)
    np.testing.assert_allclose(scores(converged), x @ y.T, atol=1e-5)


def test_exact_als_reaches_no_lower_cost_from_other_starts(converged: IALS, p: Floats) -> None:
    best = np.inf
    for start in range(4):
        y = np.random.default_rng(start).normal(size=(p.shape[1], 4))
        for _ in range(150):
            x = solved(p, y)
            y = solved(p.T, x)
        best = min(best, cost(p, x, y))
    x, y = (t.double().numpy() for t in (converged.user_factors_, converged.item_factors_))
    assert cost(p, x, y) == pytest.approx(best, rel=1e-4)


def test_a_seed_gives_the_same_bits_on_any_number_of_threads(dataset: Dataset) -> None:
    one, again, two, all_ = (IALS(8, threads=threads).fit(dataset) for threads in (1, 1, 2, 0))
    for other in (again, two, all_):
        assert torch.equal(one.user_factors_, other.user_factors_)
        assert torch.equal(one.item_factors_, other.item_factors_)
    assert not torch.equal(one.user_factors_, IALS(8, seed=1).fit(dataset).user_factors_)
    assert IALS.deterministic is False


def test_the_training_matrix_stays_as_it_is(dataset: Dataset, p: Floats) -> None:
    np.testing.assert_array_equal(IALS(2).fit(dataset).train_.toarray(), p)


def test_settings_decide(dataset: Dataset) -> None:
    model = IALS(3, iterations=1).fit(dataset)
    assert model.user_factors_.shape == (30, 3)
    assert model.item_factors_.shape == (20, 3)
    assert not torch.allclose(
        model.user_factors_, IALS(3, iterations=2).fit(dataset).user_factors_, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factors": 0}, "factors is 0; give 1 or more"),
        ({"iterations": 0}, "iterations is 0; give 1 or more"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
        ({"threads": -1}, "threads is -1; give 0 or more"),
        ({"regularisation": 0.0}, "regularisation is 0.0; it must be above 0"),
        ({"alpha": float("nan")}, "alpha is nan; it must be above 0"),
        ({"alpha": 1e30}, "diverged at regularisation=10.0, alpha=1e"),
    ],
)
def test_bad_settings_are_named(dataset: Dataset, options: dict[str, float], words: str) -> None:
    model = IALS(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        model.fit(dataset)
    with pytest.raises(NotFittedError):
        scores(model)


def test_without_the_library_the_extra_is_named(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(InputError, match=r"needs the package implicit.*'cnsdiff\[bench\]'"):
        IALS().fit(dataset)
