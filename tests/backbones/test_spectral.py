"""The spectral start against dense singular value decompositions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cnsdiff import ConfoundedWorld, Recommender
from cnsdiff.backbones import MF, Backbone, BackboneConfig, Embeddings, LightGCN, spectral
from cnsdiff.backbones.lightgcn import LightGCNConfig
from cnsdiff.backbones.spectral import (
    NEGLIGIBLE,
    TOLERANCE,
    leading_triplets,
    remembering,
    spectral_tables,
    xavier_tables,
)
from cnsdiff.data import Dataset
from cnsdiff.data.positives import Positives
from cnsdiff.testing import check_backbone, tiny_positives

Mask = NDArray[np.bool_]


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def from_mask(observed: Mask) -> Positives:
    users, items = np.nonzero(observed)
    return Positives(users.astype(np.int64), items.astype(np.int64), *observed.shape)


def dense_normalised(observed: Mask) -> NDArray[np.float64]:
    """``R̂`` entry by entry."""
    matrix = np.zeros(observed.shape)
    for user, item in np.argwhere(observed):
        matrix[user, item] = 1 / np.sqrt(observed[user].sum() * observed[:, item].sum())
    return matrix


def random_mask(n_users: int, n_items: int, density: float, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).random((n_users, n_items)) < density


def components(count: int) -> Mask:
    """Random graphs side by side, none with a pair in another."""
    blocks = [random_mask(12, 9, 0.4, seed) for seed in range(count)]
    return sparse.block_diag(blocks).toarray().astype(bool)


def check_triplets(observed: Mask, rank: int, seed: int = 0) -> None:
    """Orthonormal vectors, the largest values, and the least error of all matrices of that rank.

    None of these depends on which vectors are taken in the space of a repeated value.
    """
    dense = dense_normalised(observed)
    values = np.linalg.svd(dense, compute_uv=False)
    matrix = from_mask(observed).normalised_matrix()
    left, sigma, right = leading_triplets(matrix, rank, stream(seed))
    kept = min(rank, int((values > NEGLIGIBLE).sum()))
    assert len(sigma) == kept
    # Squares of the residuals bound the errors of the values, where these are apart.
    np.testing.assert_allclose(sigma, values[:kept], rtol=TOLERANCE, atol=1e-6)
    for vectors in (left, right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(kept), atol=1e-6)
    error = ((dense - (left * sigma) @ right.T) ** 2).sum()
    least = (values[kept:] ** 2).sum()
    assert error == pytest.approx(least, rel=TOLERANCE, abs=1e-6)
    for image, vectors in ((dense @ right, left), (dense.T @ left, right)):
        residual = np.linalg.norm(image - vectors * sigma, axis=0)
        assert (residual <= 1.01 * TOLERANCE * sigma + 1e-6).all()
    largest = np.abs(right).argmax(axis=0)
    assert (right[largest, np.arange(kept)] > 0).all()


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    """Small graphs: any shape, isolated rows, several components, repeated rows."""
    shape = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    mask = np.array(bits).reshape(shape)
    mask[0, 0] = True
    return mask


@settings(max_examples=300, deadline=None)
@given(masks(), st.integers(1, 12), st.integers(0, 3))
def test_triplets_are_those_of_the_dense_decomposition(
    observed: Mask, rank: int, seed: int
) -> None:
    check_triplets(observed, rank, seed)


@pytest.mark.parametrize("rank", [1, 5, 32])
@pytest.mark.parametrize("shape", [(500, 350), (350, 500)])
def test_triplets_of_a_graph_that_needs_no_complete_basis(
    shape: tuple[int, int], rank: int
) -> None:
    check_triplets(random_mask(*shape, 0.05), rank)


@pytest.mark.parametrize(("count", "rank"), [(3, 8), (30, 20), (30, 40), (70, 100)])
def test_each_component_has_its_singular_value_one(count: int, rank: int) -> None:
    observed = components(count)
    check_triplets(observed, rank)
    _, sigma, _ = leading_triplets(from_mask(observed).normalised_matrix(), rank, stream())
    ones = int((np.abs(sigma - 1) < 1e-4).sum())
    assert ones >= min(count, rank)


def test_more_equal_values_than_a_block_is_wide_are_found() -> None:
    check_triplets(np.eye(150, dtype=bool), 100)
    check_triplets(np.kron(np.eye(80), np.ones((3, 2))).astype(bool), 100)


@pytest.mark.parametrize(("size", "rank"), [(20, 1), (40, 8), (300, 64)])
@pytest.mark.parametrize("kind", ["pair", "star", "complete"])
def test_a_graph_that_a_step_exhausts(kind: str, size: int, rank: int) -> None:
    observed = np.full((size, size), kind == "complete")
    observed[0, slice(None) if kind == "star" else 0] = True
    check_triplets(observed, rank)


def norms(tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    users, items = tables
    return users.double().norm(dim=0), items.double().norm(dim=0)


def test_tables_are_the_roots_of_the_triplets_with_one_factor() -> None:
    observed = random_mask(40, 30, 0.3)
    dim = 7
    users, items = spectral_tables(from_mask(observed), dim, stream())
    left, sigma, right = np.linalg.svd(dense_normalised(observed), full_matrices=False)
    best = (left[:, :dim] * sigma[:dim]) @ right[:dim]
    product = (users @ items.T).double().numpy()
    factor = (product * best).sum() / (best**2).sum()
    np.testing.assert_allclose(product / factor, best, atol=2e-3 * np.abs(best).max())
    for found in norms((users, items)):
        expected = torch.from_numpy(np.sqrt(factor * sigma[:dim]))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dim", [1, 4, 16])
def test_rows_keep_the_mean_norm_of_xaviers(dim: int) -> None:
    positives = tiny_positives(n_users=60, n_items=45)
    means = [
        torch.cat(tables(positives, dim, stream())).norm(dim=1).mean()
        for tables in (spectral_tables, xavier_tables)
    ]
    torch.testing.assert_close(*means)


def test_the_seed_decides_and_changes_little() -> None:
    positives = from_mask(random_mask(400, 300, 0.05))
    torch.manual_seed(1)
    first = spectral_tables(positives, 4, stream(5))
    torch.manual_seed(2)
    for one, other in zip(first, spectral_tables(positives, 4, stream(5)), strict=True):
        assert torch.equal(one, other)
    # The leading vector is known: roots of the degrees, all of one sign.
    counts = (positives.user_counts, positives.item_counts)
    for seed in (5, 6):
        for table, degrees in zip(spectral_tables(positives, 4, stream(seed)), counts, strict=True):
            column, root = table[:, 0], degrees.sqrt().float()
            torch.testing.assert_close(
                column / column.norm(), root / root.norm(), rtol=0, atol=TOLERANCE
            )


def test_a_disconnected_graph_is_decided_by_the_seed_too() -> None:
    positives = from_mask(components(20))
    tables = [spectral_tables(positives, 8, stream(3)) for _ in range(2)]
    for one, other in zip(*tables, strict=True):
        assert torch.equal(one, other)


def test_columns_beyond_the_rank_are_xaviers() -> None:
    positives = from_mask(np.ones((8, 6), dtype=bool))  # of rank 1
    noise = xavier_tables(positives, 5, stream())
    for table, xavier in zip(spectral_tables(positives, 5, stream()), noise, strict=True):
        assert torch.equal(table[:, 1:], xavier[:, 1:])
        assert table[:, 0].std() < 1e-5
        assert table[0, 0] > 0.01


def test_an_embedding_larger_than_the_catalogue() -> None:
    observed = random_mask(9, 6, 0.6, seed=1)
    positives = from_mask(observed)
    rank = np.linalg.matrix_rank(dense_normalised(observed))
    noise = xavier_tables(positives, 20, stream())
    for table, xavier in zip(spectral_tables(positives, 20, stream()), noise, strict=True):
        assert torch.equal(table[:, rank:], xavier[:, rank:])
        assert not torch.isclose(table[:, :rank], xavier[:, :rank]).any(dim=0).all()


def test_rows_without_positives_are_xaviers() -> None:
    observed = random_mask(50, 40, 0.2)
    observed[[3, 30]] = False
    observed[:, 7] = False
    positives = from_mask(observed)
    noise = xavier_tables(positives, 6, stream())
    tables = spectral_tables(positives, 6, stream())
    for table, xavier, lonely in zip(tables, noise, ([3, 30], [7]), strict=True):
        same = (table == xavier).all(dim=1)
        assert same.nonzero().flatten().tolist() == lonely
    means = [torch.cat(each).norm(dim=1).mean() for each in (tables, noise)]
    torch.testing.assert_close(*means)


def test_without_positives_all_is_xaviers() -> None:
    positives = from_mask(np.zeros((4, 3), dtype=bool))
    noise = xavier_tables(positives, 2, stream())
    for table, xavier in zip(spectral_tables(positives, 2, stream()), noise, strict=True):
        assert torch.equal(table, xavier)


class Scaled(Backbone):
    """A backbone of one's own, which says nothing of the start."""

    def forward(self) -> Embeddings:
        return Embeddings(self.user_embedding * 2, self.item_embedding)


BUILT = [
    (MF, BackboneConfig(dim=5, init="spectral")),
    (LightGCN, LightGCNConfig(dim=5, init="spectral")),
    (Scaled, BackboneConfig(dim=5, init="spectral")),
]


@pytest.mark.parametrize(("backbone", "config"), BUILT)
def test_every_backbone_starts_there_and_keeps_the_contract(
    backbone: type[Backbone], config: BackboneConfig
) -> None:
    positives = tiny_positives()
    expected = spectral_tables(positives, 5, stream(4))
    tables = backbone(positives, config, stream(4)).layer_zero()
    for table, start in zip(tables, expected, strict=True):
        assert torch.equal(table, start)
    check_backbone(backbone, config)


@pytest.fixture(scope="module")
def world() -> Dataset:
    return ConfoundedWorld(n_users=150, n_items=100, seed=0).dataset()


@pytest.mark.parametrize("name", ["lightgcn", "mf"])
def test_training_starts_ahead_and_goes_on(name: str, world: Dataset) -> None:
    values = {}
    for init in ("xavier", "spectral"):
        model = Recommender(
            backbone=name,
            sampler="random",
            backbone_options={"dim": 16, "init": init},
            training={"epochs": 15, "patience": None},
        ).fit(world)
        losses = [record["train"]["loss"] for record in model.history_]
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]
        values[init] = [record["validation"]["ndcg@20"] for record in model.history_]
    assert values["spectral"][0] > values["xavier"][0]


def test_a_flat_spectrum_is_not_searched_for_ever(monkeypatch):
    """A random graph: the search ends, and finds nearly all that the leading directions hold."""
    rng = np.random.default_rng(0)
    matrix = sparse.csr_array(rng.normal(size=(300, 200)) / 60)
    monkeypatch.setattr(spectral, "MOST_VECTORS", 8)
    depths: list[int] = []
    solve = scipy.linalg.eigh

    def counting(projected, **options):
        depths.append(len(projected))
        return solve(projected, **options)

    monkeypatch.setattr(scipy.linalg, "eigh", counting)
    _, sigma, _ = leading_triplets(matrix, 4, torch.Generator().manual_seed(0))
    exact = np.linalg.svd(matrix.toarray(), compute_uv=False)[:4]
    assert max(depths) == 16, "four times the four wanted"
    assert (sigma <= exact + 1e-9).all()
    assert sigma.sum() > 0.9 * exact.sum()


@pytest.mark.parametrize("most", range(16, 36))
def test_a_search_may_end_between_two_tests_of_convergence(most, monkeypatch):
    """Whatever the most vectors are, those found are orthonormal and as large as they can be."""
    matrix = sparse.csr_array(np.random.default_rng(0).normal(size=(120, 90)) / 60)
    monkeypatch.setattr(spectral, "MOST_VECTORS", most)
    monkeypatch.setattr(spectral, "BLOCK", 3)
    left, sigma, right = leading_triplets(matrix, 4, stream())
    for side in (left, right):
        assert np.allclose(side.T @ side, np.eye(4), atol=1e-6)
    exact = np.linalg.svd(matrix.toarray(), compute_uv=False)[:4]
    assert (sigma <= exact + 1e-9).all()
    assert sigma.sum() > 0.9 * exact.sum()


@pytest.fixture
def searches(monkeypatch):
    """What singular triplets are looked for of, from here on."""
    asked = []

    def counted(*arguments):
        asked.append(arguments)
        return leading_triplets(*arguments)

    monkeypatch.setattr(spectral, "leading_triplets", counted)
    return asked


def test_a_start_found_last_is_not_searched_again(searches):
    """The same tables and the same stream afterwards; anything else is searched."""
    first, other = (from_mask(random_mask(30, 20, 0.3, seed)) for seed in range(2))
    generator = stream()
    expected = spectral_tables(first, 8, generator)
    after = torch.rand(3, generator=generator)
    searches.clear()
    with remembering():
        for _ in range(2):
            generator = stream()
            tables = spectral_tables(first, 8, generator)
            assert all(map(torch.equal, tables, expected))
            assert torch.equal(torch.rand(3, generator=generator), after)
            for table in tables:  # what training does with them stays with it
                table.zero_()
        assert len(searches) == 1
        for again in (
            lambda: spectral_tables(first, 7, stream()),
            lambda: spectral_tables(first, 8, stream(1)),
            lambda: spectral_tables(other, 8, stream()),
        ):
            before = len(searches)
            again()
            assert len(searches) == before + 1
    before = len(searches)
    assert all(
        map(torch.equal, spectral_tables(other, 8, stream()), spectral_tables(other, 8, stream()))
    )
    assert len(searches) == before + 2


def test_the_models_of_a_stack_begin_at_one_start(searches):
    dataset = ConfoundedWorld(n_users=150, n_items=100, seed=0).dataset()
    settings = {"epochs": 1, "refit": False}
    Recommender(preset="default", training=settings).fit(dataset)
    assert len(searches) == 1
