"""Even mixtures against torch's own mixture; see also `tests/test_posterior_contract.py`."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, Uniform

from robust_npe import mixtures
from robust_npe.antithetic import antithetic
from robust_npe.mixtures import EvenMixture
from robust_npe.random import draws_from, stream

M, B, D = 6, 3, 2


def members():
    with draws_from(stream(0)):
        return torch.randn(M, B, D).double(), torch.rand(M, B, D).double() + 0.3


def gaussian(mean, std):
    return Independent(Normal(mean.flatten(0, -2), std.flatten(0, -2)), 1)


def split_into(*sizes):
    parts = [t.split(sizes) for t in members()]
    return EvenMixture([gaussian(*part) for part in zip(*parts, strict=True)], B)


def by_torch():
    mean, std = (t.movedim(0, 1) for t in members())
    return MixtureSameFamily(
        Categorical(torch.ones(B, M)), Independent(Normal(mean, std), 1), validate_args=False
    )


@pytest.mark.parametrize("sizes", [(6,), (1,) * 6, (1, 3, 2)])
@pytest.mark.parametrize("shape", [(), (5,), (4, 5)])
def test_density_is_the_mean_of_the_densities(sizes, shape, monkeypatch):
    monkeypatch.setattr(mixtures, "ROWS", 2 * M * B)  # several pieces
    theta = torch.randn(*shape, B, D, generator=stream(1), dtype=torch.float64)
    q = split_into(*sizes)
    torch.testing.assert_close(q.log_prob(theta), by_torch().log_prob(theta))
    torch.testing.assert_close(
        q.log_prob(theta[..., :1, :]), by_torch().log_prob(theta[..., :1, :])
    )


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("num", [1, 2, 5, 6, 7, 13])
def test_samples_are_spread_evenly_over_the_members(num, pairs):
    centers = 10 * torch.arange(M).reshape(M, 1, 1).expand(M, B, D).float()
    q = EvenMixture([gaussian(centers, torch.full_like(centers, 0.1))], B)
    with draws_from(stream(num)):
        theta = (antithetic(q) if pairs else q).sample((num,))
    assert theta.shape == (num, B, D)
    member = (theta / 10).round()
    assert torch.equal(member[..., 0], member[..., 1])
    each = 2 if pairs else 1
    for b in range(B):
        counts = torch.bincount(member[:, b, 0].long(), minlength=M)
        assert int(counts.max()) <= each * -(-num // (each * M))
        assert int(counts.min()) >= each * (num // (each * M)) - num % each  # half a pair
    if pairs:
        assert torch.equal(member[: num // 2 * 2 : 2], member[1 : num // 2 * 2 : 2])


@pytest.mark.parametrize("shape", [(2,), (1, 3), ()])
def test_each_sample_alone_follows_the_mixture(shape):
    q, theta = split_into(1, 3, 2), []
    with draws_from(stream(3)):
        theta = torch.stack([antithetic(q).sample(shape) for _ in range(4000)])
    last = theta.reshape(4000, -1, B, D)[:, -1]
    expected = by_torch()
    error = (expected.variance / 4000).sqrt()
    assert ((last.mean(0) - expected.mean).abs() < 4.5 * error).all()
    torch.testing.assert_close(last.var(0), expected.variance, rtol=0.2, atol=0)


def test_gradients_of_samples_are_those_of_the_expectation():
    mean, std = (t.requires_grad_(True) for t in members())
    with draws_from(stream(4)):
        theta = EvenMixture([gaussian(mean, std)], B).rsample((60_000,))
    found = torch.autograd.grad(theta.square().mean(0).sum(), (mean, std))
    expected = 2 * mean.detach() / M, 2 * std.detach() / M  # of second moments
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.02)


def test_samples_have_no_gradient_and_bring_their_density():
    mean, std = (t.requires_grad_(True) for t in members())
    q = EvenMixture([gaussian(mean, std)], B)
    with draws_from(stream(5)):
        theta, log_prob = q.sample_and_log_prob((4,))
    assert not theta.requires_grad
    torch.testing.assert_close(log_prob, by_torch().log_prob(theta))
    assert not log_prob.requires_grad


def test_theta_may_be_outside_of_the_support_of_members():
    low = torch.tensor([[0.0], [1.0]])  # two members of one observation
    q = EvenMixture([Independent(Uniform(low, low + 2), 1)], 1)
    theta = torch.tensor([-1.0, 0.5, 1.5, 5.0]).reshape(4, 1, 1)
    density = q.log_prob(theta).exp().squeeze(1)
    torch.testing.assert_close(density, torch.tensor([0.0, 0.25, 0.5, 0.0]))
