"""Flow matching: its loss, a posterior that it knows exactly, and training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, constraints

from robust_npe.attacks import PGD, KLForward, make_ball
from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, TRADES, NoDefense
from robust_npe.estimators import FMPE, Estimator, Identity
from robust_npe.fisher import fisher_information, scores
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train
from tests.estimators.common import MIN_NOISE, make_flow_matching, normal
from tests.helpers import linear_task, pairs

# A problem whose vector field is known: theta|x ~ N(m x, c^2), one parameter, one feature.


class LinearGaussianField(nn.Module):
    """F of the path to N(m x, c^2 - min_noise^2) plus its noise, in closed form."""

    m, c = 0.8, 0.3

    def of_context(self, context):
        return self.m * context

    def of_time(self, s):
        root = 1 - (1 - MIN_NOISE ** (1 / 3)) * s
        sigma = root**3
        return torch.atan2((1 - sigma) / (1 - MIN_NOISE), sigma).unsqueeze(-1)

    def forward(self, z, mean, angle):
        return self.with_divergence(z, mean, angle)[0]

    def with_divergence(self, z, mean, angle):
        # z = sin(angle) theta_1 + cos(angle) theta_0, F = E[dz/dangle | z]
        sin, cos, c2 = angle.sin(), angle.cos(), self.c**2 - MIN_NOISE**2
        slope = sin * cos * (c2 - 1) / (sin**2 * c2 + cos**2)
        value = cos * mean + slope * (z - sin * mean)
        return value, slope.expand(z.shape).sum(-1)


@pytest.fixture
def known():
    with draws_from(stream(0)):
        head = FMPE(1, 1, steps=40, min_noise=MIN_NOISE)
    head.field = LinearGaussianField()
    return Estimator(lambda d, c: head, Identity, 1, 1, constraints.real_vector)


def test_a_known_posterior(known):
    x, theta = torch.tensor([[0.5], [-1.0]]), torch.tensor([[0.7], [-1.2]])
    exact = MultivariateNormal(0.8 * x, 0.09 * torch.eye(1))
    torch.testing.assert_close(known(x).log_prob(theta), exact.log_prob(theta), rtol=0, atol=1e-3)
    with draws_from(stream(0)):
        samples, log_prob = known(x).sample_and_log_prob((4000,))
    torch.testing.assert_close(samples.mean(0), 0.8 * x, rtol=0, atol=0.02)
    torch.testing.assert_close(samples.std(0), torch.full((2, 1), 0.3), rtol=0.04, atol=0)
    torch.testing.assert_close(log_prob, exact.log_prob(samples), rtol=0, atol=2e-3)


def test_fisher_information_of_a_known_posterior(known):
    x = torch.tensor([[0.5], [-1.0]])
    information = fisher_information(known, x, 4000, stream(0))
    torch.testing.assert_close(
        information, torch.full((2, 1, 1), (0.8 / 0.3) ** 2), rtol=0.08, atol=0
    )
    # the score itself, sample by sample: m (theta - m x) / c^2
    score = scores(known, x, 50, stream(1), attached=False)
    with draws_from(stream(1)):
        theta = known(x).sample((50,))
    torch.testing.assert_close(score, 0.8 * (theta - 0.8 * x) / 0.09, rtol=0, atol=0.02)


def test_the_loss_is_least_at_the_known_field(known):
    # theta_1 has the variance c^2 - min_noise^2: what is left at t = 1 is in c
    x = normal(4000, 1).float()
    theta = 0.8 * x + (0.09 - MIN_NOISE**2) ** 0.5 * normal(4000, 1, seed=1).float()

    def loss():
        with torch.no_grad(), draws_from(stream(0)):
            return float(known.loss(theta, x))

    least = loss()
    for name, value in (("m", 0.75), ("m", 0.85), ("c", 0.27), ("c", 0.33)):
        kept = getattr(known.head.field, name)
        setattr(known.head.field, name, value)
        assert loss() > least + 1e-4, name
        setattr(known.head.field, name, kept)


# Training.


def test_loss_in_other_words():
    # the paper's formula, from the velocity and draws of its own: equal in the mean
    head, theta, context = (
        make_flow_matching(time_exponent=1.0),
        normal(200, 2),
        normal(200, 3, seed=1),
    )
    with torch.no_grad(), draws_from(stream(0)):
        found = float(head.loss(head(context), theta))
    rows = 100
    t = torch.rand(rows, 200, generator=stream(1), dtype=torch.float64).sqrt()
    noise = normal(rows, 200, 2, seed=2)
    at = t.unsqueeze(-1)
    theta_t = at * theta + (1 - (1 - MIN_NOISE) * at) * noise
    with torch.no_grad():
        v = head.velocity(theta_t, t, context)
    errors = (v - (theta - (1 - MIN_NOISE) * noise)).square().sum(-1)
    spread = float(errors.mean(1).std()) / 4  # of the mean over 16 draws
    assert found == pytest.approx(float(errors.mean()), abs=4 * spread)


@pytest.mark.parametrize("defense", [NoDefense(), FIM(0.1), TRADES(0.1, steps=1)])
def test_training_is_a_function_of_its_seed_and_validation_draws_the_same_numbers(defense):
    task = linear_task()

    def run(seed, **settings):
        with draws_from(stream(0)):
            head = lambda d, c: FMPE(d, c, hidden=8, steps=2)  # noqa: E731
            estimator = Estimator(head, Identity, 2, 2, task.support)
        data = pairs(task, 40), pairs(task, 20, seed=1)
        chosen = TrainingSettings(**{"batch_size": 20, "max_epochs": 2, **settings})
        return train(estimator, defense, *data, chosen, stream(seed))

    assert run(0) == run(0)
    assert run(0).train_loss != run(1).train_loss
    still = run(0, learning_rate=1e-30, max_epochs=3).validation_loss
    assert still == pytest.approx([still[0]] * 3, rel=1e-6)


def test_the_loss_takes_a_ready_distribution(known):
    x, theta = torch.tensor([[0.5], [-1.0]]), torch.tensor([[0.7], [-1.2]])
    with draws_from(stream(0)):
        expected = known.loss(theta, x)
    with draws_from(stream(0)):
        assert torch.equal(known.loss(theta, x, known(x)), expected)


def test_attacks_climb(known):
    x = torch.tensor([[0.5], [-1.0]])
    attack = PGD(KLForward(4), steps=8)
    x_adv = attack(known, x, ball=make_ball("l2", 0.2), generator=stream(0))
    # KL = (m delta)^2 / (2 c^2) is largest at the border
    torch.testing.assert_close((x_adv - x).abs(), torch.full((2, 1), 0.2), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": 0}, {"steps": 0}, {"draws": 0}, {"time_exponent": -1.0}, {"min_noise": 0.0}],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FMPE(2, 3, **wrong)
