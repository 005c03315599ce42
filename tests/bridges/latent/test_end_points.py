"""White end points, and what the axes of end points keep of the contrasts between words."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridges import BadInput, EndPoints
from bridges.latent.end_points import centred, contrasts_kept, principal_axes


def embeddings(vocabulary: int = 50, width: int = 12) -> Tensor:
    """Off centre, with well separated principal axes, some of them long."""
    return torch.randn(vocabulary, width).double() * torch.logspace(1, -1, width) + 5


def aligned(found: Tensor, expected: Tensor) -> Tensor:
    """Axes are known up to their sign."""
    return expected * (found * expected).sum(0).sign()


@pytest.mark.parametrize("dim", [1, 5, 12])
def test_white_end_points_are_the_left_singular_vectors_of_unit_rows(dim: int) -> None:
    """1e-6: they are stored in float32, and O(1) apart."""
    table = embeddings()
    left, _, _ = torch.linalg.svd(table - table.mean(0), full_matrices=False)
    expected = F.normalize(left[:, :dim], dim=1)
    found = EndPoints.from_embeddings(table, dim, ends="white").vectors
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), aligned(found, expected), rtol=0, atol=1e-6)


def test_they_are_the_whitened_coordinates() -> None:
    """Of unit covariance, up to a factor of each word: by numpy's covariance, not its decomposition."""
    table = embeddings()
    _, axes = principal_axes(centred(table), 5)
    spread = torch.cov((table @ axes).T).diagonal()
    expected = F.normalize((table - table.mean(0)) @ axes / spread.sqrt(), dim=1)
    found = EndPoints.from_embeddings(table, 5, ends="white")
    torch.testing.assert_close(found.vectors.double(), expected, rtol=0, atol=1e-6)
    assert found.axes is not None
    assert torch.equal(found.axes, axes)


@pytest.mark.parametrize("rank", [1, 3])
def test_an_axis_without_spread_is_left_at_zero(rank: int) -> None:
    """There is nothing to divide by; the other coordinates are those of the axes that there are."""
    narrow = torch.randn(50, rank).double() @ torch.randn(rank, 12).double()
    found = EndPoints.from_embeddings(narrow, 5, ends="white").vectors
    assert found.isfinite().all()
    assert (found[:, rank:] == 0).all()
    few = EndPoints.from_embeddings(narrow, rank, ends="white").vectors
    torch.testing.assert_close(found[:, :rank], few, rtol=0, atol=1e-6)


def test_words_that_are_all_the_same_have_no_end_points() -> None:
    """A cost of them could be saved, and not be loaded."""
    same = torch.ones(50, 12).double()
    for ends in ("pca", "white"):
        with pytest.raises(BadInput, match="the word embeddings are all the same"):
            EndPoints.from_embeddings(same, 5, ends=ends)


def test_white_tells_apart_what_a_long_common_axis_hides() -> None:
    """Words far out along one axis: their cosine is near 1 on plain axes and smaller on white ones."""
    table = embeddings()
    table[:2, 0] += 200
    plain, white = (EndPoints.from_embeddings(table, 12, ends=e).vectors[:2] for e in ("pca", "white"))
    assert plain[0] @ plain[1] > 0.99 > white[0] @ white[1] + 0.05


def test_other_end_points_are_refused() -> None:
    with pytest.raises(BadInput, match="ends='zca': expected 'pca' or 'white'"):
        EndPoints.from_embeddings(embeddings(), 5, ends="zca")


def test_shuffled_ones_are_on_the_same_axes() -> None:
    points = EndPoints.from_embeddings(embeddings(), 5)
    shuffled = points.shuffled(3)
    assert shuffled.axes is points.axes
    assert list(points.state_dict()) == ["vectors"]


@pytest.mark.parametrize("dim", [1, 4, 12])
def test_contrasts_kept_is_the_mean_over_pairs(dim: int) -> None:
    table = embeddings()
    _, axes = principal_axes(centred(table), dim)
    words = table[[3, 17, 17, 5, 40]]
    shares = []
    for a, b in itertools.combinations(words, 2):
        if not torch.equal(a, b):
            apart = a - b
            shares.append(float((axes @ (axes.T @ apart)).square().sum() / apart.square().sum()))
    assert len(shares) == 9
    assert contrasts_kept(words, axes) == pytest.approx(sum(shares) / 9, rel=1e-9)
    assert dim != 12 or contrasts_kept(words, axes) == pytest.approx(1)


def test_of_no_pair_everything_is_kept() -> None:
    _, axes = principal_axes(centred(embeddings()), 2)
    for words in (embeddings()[:1], embeddings()[:0], embeddings()[:1].expand(3, -1)):
        assert contrasts_kept(words, axes) == 1
