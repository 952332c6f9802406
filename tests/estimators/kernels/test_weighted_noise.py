"""Weighted noise against the normal distribution, vector by vector."""

import numpy as np
import pytest
import scipy.stats
import torch

from robust_npe.estimators.kernels.weighted_noise import _place, weighted_noise
from robust_npe.random import stream


def draw(count, dim, seed=0):
    z, weight = weighted_noise(count, dim, stream(seed), torch.float64)
    return z.T, weight


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (2, 3), (7, 3), (40, 4), (41, 10)])
def test_shapes_pairs_and_blocks(count, dim):
    z, weight = draw(count, dim)
    assert z.shape == (count, dim)
    assert weight.shape == (count,)
    first, second = z[::2], z[1::2]
    assert torch.equal(second, -first[: len(second)])
    assert torch.equal(weight[1::2], weight[::2][: len(second)])
    block = first[:dim]
    products = block @ block.T
    off_diagonal = products - products.diag().diag()
    torch.testing.assert_close(off_diagonal, torch.zeros_like(off_diagonal))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_norms_follow_the_mixture_and_weights_undo_it(dim):
    z, weight = draw(40_000, dim)
    square = z[::2].square().sum(1).numpy()

    def cdf(s):
        return 0.2 * scipy.stats.chi2(dim).cdf(s) + 0.8 * scipy.stats.chi2(dim + 2).cdf(s)

    assert scipy.stats.kstest(square, cdf).pvalue > 1e-3
    density = scipy.stats.chi2(dim).pdf(square)
    proposal = 0.2 * density + 0.8 * scipy.stats.chi2(dim + 2).pdf(square)
    np.testing.assert_allclose(weight[::2], density / proposal, rtol=1e-9)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_directions_are_uniform_at_every_place_of_a_block(position):
    z = draw(2 * 3 * 20_000, 3)[0][::2].reshape(-1, 3, 3)[:, position]
    direction = z / z.norm(dim=1, keepdim=True)
    for coordinate in direction.T:  # each coordinate of a point on the sphere is uniform
        assert scipy.stats.kstest(coordinate, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_a_direction_of_zero_length_is_survived():
    z, weight = _place(np.zeros((3, 5), np.float32), 6)
    assert np.isfinite(z).all()
    assert np.isfinite(weight).all()
    np.testing.assert_array_equal(z, 0)


def test_means_are_those_of_the_normal_distribution():
    z, weight = draw(400_000, 4)
    functions = {
        1.0: torch.ones(len(z)),
        4.0: z.square().sum(1),
        3.0: z[:, 0] ** 4,
        4 * 0.15865525: (z > 1).sum(1),
    }
    for expected, value in functions.items():
        terms = weight * value
        error = float(terms.std() / len(z) ** 0.5)
        assert abs(float(terms.mean()) - expected) < 5 * error


def test_less_error_than_independent_vectors_for_quadratic_functions():
    matrix = torch.randn(6, 6, generator=stream(1)).double()
    matrix = matrix @ matrix.T

    def error(draws):
        means = torch.stack(
            [(w * torch.einsum("ni,ij,nj->n", z, matrix, z)).mean() for z, w in draws]
        )
        return float((means - matrix.trace()).square().mean().sqrt())

    own = [draw(60, 6, seed) for seed in range(300)]
    independent = [
        (torch.randn(60, 6, generator=stream(seed)).double(), torch.ones(60)) for seed in range(300)
    ]
    assert error(own) < 0.35 * error(independent)
