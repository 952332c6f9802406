"""Information gain, KL to the prior and leakage, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

from robust_npe.metrics import Context, InformationGain, Leakage
from tests.helpers import Exact, gaussian_kl, linear_task, pairs

TASK = linear_task()


def measure(metric, posterior, num=2000, task=TASK, move=0.0):
    theta, x = pairs(TASK, num)
    c = Context(task, posterior, theta, x, x + move, bool(move), 0, 300)
    return c, {m.metric: m.per_observation for m in metric(c)}


def test_gain_of_the_exact_posterior_is_the_mutual_information():
    _, found = measure(InformationGain(50), Exact(TASK))
    # each parameter is seen with its slope and Gaussian noise
    expected = 0.5 * torch.log1p(TASK.slopes**2 / TASK.noise_std**2).sum()
    gain = found["information_gain"].double()
    assert abs(float(gain.mean() - expected)) < 4 * float(gain.std()) / 2000**0.5
    kl = found["kl_prior"].double()
    assert abs(float(kl.mean() - expected)) < 4 * float(kl.std()) / 2000**0.5


@pytest.mark.parametrize("move", [0.0, 2.0])
def test_kl_to_the_prior_and_gain_by_hand(move):
    c, found = measure(InformationGain(20_000), Exact(TASK, spread=1.5), num=20, move=move)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    p = TASK.true_posterior(c.x_adv)
    q = MultivariateNormal(p.mean, 1.5**2 * p.covariance_matrix)
    assert ((found["kl_prior"] - gaussian_kl(q, prior)).abs() < 5 * found["kl_prior_se"]).all()
    gain = q.log_prob(c.theta) - prior.log_prob(c.theta)
    torch.testing.assert_close(found["information_gain"], gain, rtol=1e-3, atol=1e-3)


class Box(type(TASK)):
    prior = Independent(Uniform(-torch.ones(2), torch.ones(2)), 1)


def shifted(x):
    """Half of its mass is above the upper end in the first parameter, all below in the second."""
    mean = torch.tensor([1.0, 0.0]).expand(len(x), 2)
    return Independent(Normal(mean, torch.tensor([1e-3, 0.1])), 1)


def test_leaking_mass_and_infinite_divergence_from_a_bounded_prior():
    box = Box(TASK.slopes.tolist(), TASK.noise_std)
    box.prior = Box.prior
    _, found = measure(Leakage(4000), shifted, num=50, task=box)
    assert (found["leakage"] - 0.5).abs().max() < 4.5 * 0.5 / 4000**0.5
    _, found = measure(InformationGain(50), shifted, num=20, task=box)
    assert (found["kl_prior"] == torch.inf).all()
    assert measure(Leakage(), Exact(TASK), num=20)[1]["leakage"].eq(0).all()


@pytest.mark.parametrize("metric", [InformationGain, Leakage])
def test_settings_are_checked(metric):
    with pytest.raises(ValueError, match="num_samples"):
        metric(0)


def test_samples_that_are_no_numbers_have_no_density():
    class Missing(Normal):
        def sample(self, sample_shape=()):
            return torch.full_like(super().sample(sample_shape), torch.nan)

    def posterior(x):
        normal = Missing(x[:, :2], torch.ones(len(x), 2), validate_args=False)
        return Independent(normal, 1, validate_args=False)

    task = linear_task()
    theta, x = pairs(task, 4)
    gain, kl, *_ = InformationGain(8)(Context(task, posterior, theta, x, x, False, 0))
    assert gain.per_observation.isfinite().all()
    assert kl.per_observation.isnan().all()
