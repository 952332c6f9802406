"""Gaussian posteriors as encoders: Jacobians, bounds and limits, computed in other ways."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from robust_npe.checks import ConfigError
from robust_npe.encoders import Encoder, Gaussian, as_gaussian, clopper_pearson, first_order_margins
from robust_npe.estimators import MAF, DiagonalGaussian, FullGaussian
from robust_npe.random import draws_from, stream
from tests.encoders import HalfSpace, spreading
from tests.helpers import make_estimator, observations

HEADS = {"diagonal": DiagonalGaussian, "full": FullGaussian}


def double(head):
    """An estimator in double precision, for finite differences."""
    return make_estimator(lambda d, c: head(d, c, hidden=[30]), gain=1.5).double()


@pytest.mark.parametrize("kind", HEADS)
def test_jacobians_agree_with_finite_differences(kind):
    encoder, x = Encoder(double(HEADS[kind])), observations(6).double()
    jacobian = encoder.jacobian(x)
    for j in range(x.shape[1]):
        step = 1e-6 * torch.eye(3, dtype=x.dtype)[j]
        with torch.no_grad():
            pairs = zip(encoder(x + step), encoder(x - step), strict=True)
            slopes = [(after - before).flatten(1) / 2e-6 for after, before in pairs]
        for got, expected in zip(jacobian, slopes, strict=True):
            error = (got[..., j] - expected).norm() / expected.norm()
            assert float(error) < 1e-5


@pytest.mark.parametrize("kind", HEADS)
def test_the_fisher_rao_margin_is_that_of_the_curvature_of_the_kl(kind):
    posterior, x = double(HEADS[kind]), observations(4).double()
    encoder = Encoder(posterior)
    probability = torch.full((4,), 0.9, dtype=x.dtype)
    with torch.no_grad():
        margin = first_order_margins(encoder(x), encoder.jacobian(x), probability)[:, 2]
        largest = torch.stack([curvature(posterior, row) for row in x])
    expected = math.asin(0.8) / largest.sqrt()
    torch.testing.assert_close(margin, expected, rtol=1e-3, atol=0)


def curvature(posterior, x, step=1e-3):
    """Largest eigenvalue of the second derivative of KL(q(.|x) || q(.|x~)), by differences."""
    steps = step * torch.eye(len(x), dtype=x.dtype)

    def kl(delta):
        return kl_divergence(posterior(x[None]), posterior(x[None] + delta))[0]

    hessian = torch.stack(
        [
            torch.stack([kl(a + b) + kl(-a - b) - kl(a - b) - kl(b - a) for b in steps])
            for a in steps
        ]
    ) / (4 * step**2)
    return torch.linalg.eigvalsh(hessian)[-1]


def test_bounds_are_tight_for_a_linear_encoder_and_a_half_space():
    posterior = HalfSpace()
    encoder, x = Encoder(posterior), posterior.at(5)
    probability = torch.full((5,), posterior.probability)
    margins = first_order_margins(encoder(x), encoder.jacobian(x), probability)
    published, spectral, fisher_rao = margins.unbind(-1)
    torch.testing.assert_close(spectral, torch.full((5,), posterior.margin), rtol=1e-4, atol=0)
    torch.testing.assert_close(published, spectral)
    assert (fisher_rao < spectral).all()
    assert (first_order_margins(encoder(x), encoder.jacobian(x), probability - 0.5) == 0).all()


def test_where_the_scale_changes_only_the_fisher_rao_margin_holds():
    # P(|sigma eta| <= r) falls to 1/2 where sigma = r / 0.6745
    rate, r = 1.0, 1.5
    encoder, x = Encoder(spreading(rate)), torch.zeros(1, 1, dtype=torch.float64)
    probability = torch.special.erf(torch.tensor([r / 2**0.5], dtype=torch.float64))
    margins = first_order_margins(encoder(x), encoder.jacobian(x), probability)
    exact = math.log(r / 0.67448975) / rate
    assert float(margins[0, 1]) > 100 * exact
    assert 0.3 * exact < float(margins[0, 2]) < exact


def test_full_and_diagonal_scales_agree():
    mean, std = torch.randn(3, 2, generator=stream(0)), torch.rand(3, 2, generator=stream(1)) + 0.2
    slopes = torch.randn(2, 3, 2, 4, generator=stream(2))
    diagonal = Gaussian(mean, std), Gaussian(slopes[0], slopes[1])
    below = torch.zeros(3, 2, 2, 4)
    below[:, 0, 0], below[:, 1, 1] = slopes[1, :, 0], slopes[1, :, 1]
    full = Gaussian(mean, torch.diag_embed(std)), Gaussian(slopes[0], below.flatten(1, 2))
    p = torch.tensor([0.6, 0.9, 0.99])
    torch.testing.assert_close(first_order_margins(*diagonal, p), first_order_margins(*full, p))
    samples = [g.sample(4000, stream(3)) for g, _ in (diagonal, full)]
    torch.testing.assert_close(samples[0], samples[1])
    torch.testing.assert_close(samples[0].std(0), std, rtol=0.05, atol=0)


def test_deviations_are_those_of_draws_from_the_posterior():
    posterior = make_estimator(FullGaussian, gain=1.5)
    x, encoder = observations(3), Encoder(posterior)
    with torch.no_grad(), draws_from(stream(5)):
        base = posterior(x + 1).base
        expected = (base.sample((4000,)) - encoder(x).mean).norm(dim=-1)
        got = encoder.deviations(x + 1, encoder.reconstruct(x), 4000, stream(6))
    levels = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(
        got.quantile(levels, 0), expected.quantile(levels, 0), rtol=0.1, atol=0
    )


def test_limits_are_those_of_scipy():
    successes = torch.tensor([0, 1, 37, 99, 100])
    low, high = clopper_pearson(successes, 100)
    for i, k in enumerate(successes.tolist()):
        expected = binomtest(k, 100).proportion_ci(0.95, method="exact")
        assert (float(low[i]), float(high[i])) == pytest.approx((expected.low, expected.high))


def test_what_is_gaussian():
    mean, std = torch.zeros(2, 3), torch.ones(2, 3)
    assert as_gaussian(Independent(Normal(mean, std), 1)).scale.shape == (2, 3)
    full = MultivariateNormal(mean, torch.eye(3).expand(2, 3, 3))
    assert as_gaussian(full).scale.shape == (2, 3, 3)
    assert as_gaussian(make_estimator(MAF)(observations(2))) is None
    with pytest.raises(ConfigError, match=r"no Gaussian but a .*estimator=gaussian"):
        Encoder(make_estimator(MAF))(observations(2))
