"""The latent map and the end points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridges import BadInput, EndPoints, LatentMap, Trajectory
from bridges.latent.latent_map import default_widths


@pytest.mark.parametrize(
    ("hidden_size", "latent_dim", "widths"),
    [
        (1024, None, (1024, 256, 128)),  # the paper's
        (4096, None, (1024, 256, 128)),
        (768, None, (768, 192, 96)),
        (64, None, (64, 16, 16)),
        (8, None, (8, 8, 8)),
        (1024, 32, (1024, 256, 32)),
        (64, 40, (64, 40, 40)),
    ],
)
def test_default_widths(hidden_size: int, latent_dim: int | None, widths: tuple[int, ...]) -> None:
    assert default_widths(hidden_size, latent_dim) == widths


def test_a_latent_dimension_of_zero_is_not_the_default() -> None:
    assert default_widths(64, 0)[-1] == 0


def trajectory(width: int = 3, layers: int = 4, targets: int = 5, batch: int = 2) -> Trajectory:
    states = torch.randn(layers, targets, width, dtype=torch.float64)
    context = torch.randn(layers, batch, width, dtype=torch.float64)
    return Trajectory(states, context, torch.randint(batch, (targets,)))


@pytest.mark.parametrize("widths", [(2,), (6, 2), (6, 5, 2)])
def test_latent_map_is_the_stack_on_context_and_state(widths: tuple[int, ...]) -> None:
    """1e-12: the same sums of a dozen terms in another order."""
    latent_map, path = LatentMap(3, widths).double(), trajectory()
    x = torch.cat([path.context[:, path.rows], path.states], dim=-1)
    for i, layer in enumerate(latent_map.layers):
        assert isinstance(layer, nn.Linear)
        x = layer(F.gelu(x) if i else x)
    torch.testing.assert_close(latent_map(path), x, rtol=1e-12, atol=1e-12)
    assert x.shape == (4, 5, widths[-1])


def test_latent_map_computes_in_its_own_dtype() -> None:
    path = trajectory()
    assert LatentMap(3, (4, 2))(path).dtype == torch.float32
    assert LatentMap(3, (4, 2)).double()(path).dtype == torch.float64


@pytest.mark.parametrize("widths", [(), (4, 0), (4, -1), (4, 2.0)])
def test_latent_map_refuses_bad_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(
        BadInput, match=r"latent map widths .*: expected one or more whole numbers above 0"
    ):
        LatentMap(3, widths)


def embeddings(vocabulary: int = 50, width: int = 12) -> Tensor:
    """Off centre, with well separated principal axes."""
    return torch.randn(vocabulary, width) * torch.linspace(3, 1, width) + 5


def pca(table: Tensor, dim: int) -> Tensor:
    """By the singular value decomposition in float64, rows of unit length; axes up to sign."""
    exact = table.double()
    left, values, _ = torch.linalg.svd(exact - exact.mean(0), full_matrices=False)
    return F.normalize(left[:, :dim] * values[:dim], dim=1)


@pytest.mark.parametrize("dim", [1, 5, 12])
def test_end_points_are_the_principal_components_of_unit_length(dim: int) -> None:
    """1e-6: the end points are stored in float32, the components are O(1) apart."""
    table = embeddings()
    found = EndPoints.from_embeddings(table, dim).vectors
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50), rtol=1e-6, atol=0)
    true = pca(table, dim)
    signs = (found.double() * true).sum(0).sign()
    torch.testing.assert_close(found.double(), true * signs, rtol=0, atol=1e-6)


def test_axes_point_where_their_largest_loading_is_positive() -> None:
    """The loadings are got back by regressing the unscaled projection on the centred table."""
    table = embeddings().double()
    centred = table - table.mean(0)
    true = pca(table, 12)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    signs = (EndPoints.from_embeddings(table, 12).vectors.double() * true).sum(0).sign()
    loadings = axes * signs[:, None]
    largest = loadings.gather(1, loadings.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_end_points_are_deterministic_and_blind_to_a_shift() -> None:
    """1e-6: they are stored in float32; centring takes the shift out in float64."""
    table = embeddings().double()
    first = EndPoints.from_embeddings(table, 5).vectors
    assert torch.equal(first, EndPoints.from_embeddings(table.clone(), 5).vectors)
    torch.testing.assert_close(
        EndPoints.from_embeddings(table + 100, 5).vectors, first, rtol=0, atol=1e-6
    )


def test_a_word_at_the_mean_has_end_point_zero_not_nan() -> None:
    table = embeddings()[:4].double()
    table = torch.cat([table, -table, torch.zeros(1, 12).double()])
    vectors = EndPoints.from_embeddings(table, 2).vectors
    assert (vectors[-1] == 0).all()
    assert vectors.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "dim", "most"),
    [((50, 12), 13, 12), ((50, 12), 0, 12), ((50, 12), -1, 12), ((5, 12), 5, 4)],
)
def test_a_dimension_the_table_cannot_have_is_refused(
    shape: tuple[int, int], dim: int, most: int
) -> None:
    with pytest.raises(
        BadInput, match=rf"latent_dim={dim}: expected 1 to {most} for word embeddings of shape"
    ):
        EndPoints.from_embeddings(embeddings(*shape), dim)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_embedding_that_is_not_finite_is_refused(value: float) -> None:
    table = embeddings()
    table[17, 3] = value
    with pytest.raises(
        BadInput, match=r"word embedding of token 17 is not finite: is the model loaded\?"
    ):
        EndPoints.from_embeddings(table, 5)


def test_forward_reads_the_rows_in_use_and_no_other() -> None:
    end_points = EndPoints.from_embeddings(embeddings(), 5)
    tokens = torch.tensor([3, 49, 3, 0])
    before = end_points(tokens)
    assert torch.equal(before, torch.stack([end_points.vectors[i] for i in (3, 49, 3, 0)]))
    unused = [i for i in range(50) if i not in (0, 3, 49)]
    end_points.vectors[unused] = float("nan")
    assert torch.equal(end_points(tokens), before)
