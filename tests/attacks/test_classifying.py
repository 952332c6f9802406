"""Objectives against classifiers, and the standard evaluation of what hides its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from robust_npe.attacks import (
    FGSM,
    PGD,
    ComponentNLL,
    LogitMargin,
    NegativeLogLikelihood,
    PredictiveMargin,
    PublishedSoftmax,
    StandardEvaluation,
    SurfaceNoise,
    make_ball,
)
from robust_npe.attacks.classifier_evaluation import in_float64
from robust_npe.attacks.objectives import Sampled
from robust_npe.bayesian import DeepEnsemble
from robust_npe.bayesian.mixture import CategoricalMixture
from robust_npe.checks import ConfigError
from robust_npe.metrics.classification import correct
from robust_npe.random import stream
from tests.bayesian.common import fitted, moons

LOGITS = torch.tensor([[[2.0, 0.0, -1.0]], [[-1.0, 1.0, 0.5]]])  # (2, 1, 3)
Y = torch.zeros(1, 1)


class Fixed(nn.Module):
    classifies = True

    def forward(self, x):
        return CategoricalMixture(LOGITS + 0 * x.sum())


def test_the_mixture_is_the_mean_of_probabilities():
    q, mean = CategoricalMixture(LOGITS), LOGITS.softmax(-1).mean(0)
    torch.testing.assert_close(q.log_probs.exp(), mean)
    torch.testing.assert_close(q.log_prob(torch.tensor([[2.0]])), mean[:, 2].log())
    other = CategoricalMixture(LOGITS.flip(-1))
    expected = kl_divergence(Categorical(mean), Categorical(mean.flip(-1)))
    torch.testing.assert_close(kl_divergence(q, other), expected)
    sure = CategoricalMixture(torch.tensor([[[900.0, 0.0]]]))
    assert float(kl_divergence(q_two(0.5), sure)) == pytest.approx(450 + torch.tensor(0.5).log())


def q_two(p):
    return CategoricalMixture(torch.tensor([[[p, 1 - p]]]).log())


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (NegativeLogLikelihood(), -LOGITS.softmax(-1).mean(0)[0, 0].log()),
        (ComponentNLL(), -LOGITS.log_softmax(-1)[:, 0, 0].mean()),
        (LogitMargin(), torch.tensor(0.0)),  # means 0.5, 0.5, -0.25
        (PredictiveMargin(), (lambda p: (p[1] / p[0]).log())(LOGITS.softmax(-1).mean(0)[0])),
        (PublishedSoftmax(), -LOGITS.softmax(-1).mean(0)[0].softmax(-1)[0].log()),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_values_by_hand(objective, expected):
    climb = objective(Fixed(), torch.zeros(1, 2), Y, stream(0))
    torch.testing.assert_close(climb(torch.ones(1, 2))[0], expected)


def test_fresh_draws_average_to_all_of_them():
    objective = ComponentNLL(draws=1)
    climb = objective(Fixed(), torch.zeros(1, 2), Y, stream(0))
    assert isinstance(climb, Sampled)
    steps = torch.stack([climb.step(torch.zeros(1, 2)) for _ in range(400)])
    assert len(steps.unique()) == 2  # one of the two networks each time
    full = ComponentNLL()(Fixed(), torch.zeros(1, 2), Y, stream(0))(torch.zeros(1, 2))
    torch.testing.assert_close(steps.mean(0), full, atol=0.1, rtol=0)
    torch.testing.assert_close(climb(torch.zeros(1, 2)), full)
    with pytest.raises(ConfigError, match=r"objective\.draws=0"):
        ComponentNLL(draws=0)


def test_objectives_of_labels_need_a_classifier_and_labels():
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(1, 2), 1.0), 1)
    with pytest.raises(ConfigError, match="needs a classifier"):
        LogitMargin().check_posterior(lambda x: normal, torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="theta=None"):
        LogitMargin()(Fixed(), torch.zeros(1, 2), None, stream(0))


def test_surface_noise_is_random_signs():
    x = torch.full((200, 3), 0.5)
    x_adv = SurfaceNoise()(Fixed(), x, ball=make_ball("linf", 0.1), generator=stream(0))
    torch.testing.assert_close((x_adv - x).abs(), torch.full_like(x, 0.1))
    assert float((x_adv > x).double().mean()) == pytest.approx(0.5, abs=0.1)


class Scaled(nn.Module):
    """The same predictions, with logits so large that cross-entropies saturate."""

    classifies = True

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return CategoricalMixture(self.factor * self.network(x).logits)


@pytest.fixture(scope="module")
def attacked():
    network, _ = fitted(DeepEnsemble(3, epochs=40, batch_size=32, learning_rate=0.02))
    theta, x = moons(100, seed=1)
    right = correct(network, x, theta)
    return network, theta[right], x[right], make_ball("linf", 0.9)


def left(posterior, attack, attacked):
    _, theta, x, ball = attacked
    found = attack.search(posterior, x, theta, ball, stream(0))
    return float(correct(posterior, found.x_adv, theta).double().mean()), found


def test_planted_masking_deceives_the_published_attack_and_not_the_standard_evaluation(attacked):
    masked = Scaled(attacked[0], 1000.0)
    published = PGD(PublishedSoftmax(), 15, 0.25, "constant", 0.01, "last")
    usual, found = left(masked, published, attacked)
    assert usual >= 0.8
    assert float(found.zero_gradients.mean()) > 0.5
    worst, found = left(masked, StandardEvaluation(NegativeLogLikelihood()), attacked)
    assert worst <= 0.05
    assert float(found.zero_gradients.mean()) > 0.05
    x, ball = attacked[2:]
    assert (ball.norm(found.x_adv - x) <= ball.radius + 1e-6).all()
    # without masking both break it
    assert left(attacked[0], published, attacked)[0] <= 0.05


def test_the_standard_evaluation_climbs_its_objective_where_labels_have_changed(attacked):
    network, theta, x, _ = attacked
    ball, climbed = make_ball("linf", 0.3), NegativeLogLikelihood()
    value = climbed(network, x, theta, stream(1))
    means = []
    for attack in (StandardEvaluation(climbed), PGD(climbed, 40)):
        found = attack.search(network, x, theta, ball, stream(0))
        assert (ball.norm(found.x_adv - x) <= ball.radius + 1e-6).all()
        means.append(float(value(found.x_adv).detach().mean()))
    assert means[0] >= 0.999 * means[1]


def test_the_standard_evaluation_is_never_worse_than_its_parts(attacked):
    network = attacked[0]
    weaker = (*attacked[:3], make_ball("linf", 0.3))
    worst, _ = left(network, StandardEvaluation(LogitMargin()), weaker)
    parts = [PGD(NegativeLogLikelihood(), 40), FGSM(ComponentNLL()), SurfaceNoise()]
    pgd, fgsm, noise = (left(network, part, weaker)[0] for part in parts)
    assert worst <= pgd <= fgsm + 0.02 <= noise + 0.04
    assert 0 < worst < 1


def test_float64_sees_gradients_that_float32_rounds_away(attacked):
    network, theta, x, _ = attacked
    masked = Scaled(network, 30.0)
    shares = []
    for posterior, at in ((masked, x), (in_float64(masked), x.double())):
        climb = NegativeLogLikelihood()(posterior, at, theta, stream(0))
        at = at.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(climb(at).sum(), at)
        shares.append(float((slope == 0).all(-1).double().mean()))
    assert shares[0] > shares[1] + 0.2
    assert all(p.dtype == torch.float32 for p in masked.parameters())
