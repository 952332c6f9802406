from __future__ import annotations

import math

import pytest
import torch

from robust_npe.antithetic import antithetic
from robust_npe.attacks import PGD, data_domain, std_unit
from robust_npe.checks import ConfigError
from robust_npe.defenses import TRADES, AdversarialTraining, Batch, NoiseAugmentation
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.random import child, draws_from, stream
from tests.helpers import make_estimator, observations, prior_draws

NORMS = ("l1", "l2", "linf")


def gaussian():
    return make_estimator(lambda d, c: DiagonalGaussian(d, c, hidden=[16]), gain=1.5)


def flow():
    return make_estimator(lambda d, c: MAF(d, c, transforms=2, hidden=(16, 16)), gain=1.5)


@pytest.fixture(scope="module")
def data():
    return prior_draws(40), observations(40)


def set_up(defense, data):
    defense.setup(gaussian(), *data)
    return defense


def perturbed(defense, estimator, data, seed=0):
    return defense.perturb(estimator, Batch(*data), stream(seed))


def loss_of(defense, estimator, data, seed=0):
    return defense.loss(estimator, Batch(*data), stream(seed))


def log_density(mean, log_std, z):
    return (-0.5 * ((z - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(
        -1
    )


def by_hand(estimator, theta, x, x_adv, beta=0.0, direction="kl_forward"):
    """Loss of a diagonal Gaussian estimator from its network's raw outputs."""

    def outputs(x):
        mean, raw = estimator.head.net(estimator.standardize(x)).chunk(2, -1)
        return mean, raw / (1 + raw.abs() / 12)  # softly limited

    s = estimator.bijection.standardize
    clean, moved = outputs(x), outputs(x_adv)
    p, q = (clean, moved) if direction == "kl_forward" else (moved, clean)
    ratio = (2 * (p[1] - q[1])).exp()
    divergence = 0.5 * (ratio + ((p[0] - q[0]) / q[1].exp()) ** 2 - 1 - ratio.log()).sum(-1)
    nll = -(log_density(*clean, (theta - s.mean) / s.std) - s.std.log().sum())
    return (nll + beta * divergence).mean()


def gradients(loss, estimator):
    return torch.autograd.grad(loss, list(estimator.parameters()))


def leaky_gradients(defense, estimator, theta, x, x_adv, beta, steps=3):
    """The published mistake: attack steps that call backward() on a network that is not frozen."""
    estimator.zero_grad()
    for _ in range(steps):
        (-by_hand(estimator, theta, x, x_adv, 1.0)).backward()
    defense(estimator, theta, x, x_adv, beta).backward()
    result = [p.grad.clone() for p in estimator.parameters()]
    estimator.zero_grad(set_to_none=True)
    return result


def distance(a, b):
    total = sum(float((u - v).square().sum()) for u, v in zip(a, b, strict=True))
    return (total / sum(float(v.square().sum()) for v in b)) ** 0.5


@pytest.mark.parametrize("direction", ["kl_forward", "kl_reverse"])
def test_trades_gradient_is_that_of_the_written_out_loss(direction, data):
    estimator, beta = gaussian(), 0.7
    defense = set_up(TRADES(beta, epsilon=0.5, divergence=direction, steps=5), data)
    x_adv = perturbed(defense, estimator, data)
    expected = by_hand(estimator, *data, x_adv, beta, direction)
    loss = loss_of(defense, estimator, data)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    got = [p.grad.clone() for p in estimator.parameters()]
    reference = gradients(expected, estimator)
    assert distance(got, reference) < 1e-5
    # the same comparison would have caught the leak, and the wrong direction
    assert distance(leaky_gradients(by_hand, estimator, *data, x_adv, beta), reference) > 0.1
    other = "kl_reverse" if direction == "kl_forward" else "kl_forward"
    wrong = gradients(by_hand(estimator, *data, x_adv, beta, other), estimator)
    assert distance(wrong, reference) > 1e-3


def test_adversarial_training_gradient_is_that_of_the_written_out_loss(data):
    estimator, (theta, x) = gaussian(), data
    defense = set_up(AdversarialTraining(0.5, steps=5), data)
    x_adv = perturbed(defense, estimator, data)
    expected = by_hand(estimator, theta, x_adv, x_adv)
    loss = loss_of(defense, estimator, data)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    got = [p.grad.clone() for p in estimator.parameters()]
    reference = gradients(expected, estimator)
    assert distance(got, reference) < 1e-5
    leaky = leaky_gradients(by_hand, estimator, theta, x_adv, x, 0.0)
    assert distance(leaky, reference) > 0.1


def test_trades_of_a_flow_samples_the_divergence_with_attached_theta(data):
    estimator, (theta, x) = flow(), data
    defense = set_up(TRADES(0.7, epsilon=0.5, steps=3, num_samples=4), data)
    loss = loss_of(defense, estimator, data)
    generator = stream(0)
    x_adv = defense.perturb(estimator, Batch(theta, x), generator)
    with draws_from(child(generator)):
        samples = antithetic(estimator(x)).rsample((4,))
    divergence = estimator(x).log_prob(samples) - estimator(x_adv).log_prob(samples)
    expected = 0.7 * divergence.mean() - estimator(x).log_prob(theta).mean()
    torch.testing.assert_close(loss, expected)
    assert distance(gradients(loss, estimator), gradients(expected, estimator)) < 1e-5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining, NoiseAugmentation])
def test_perturbations_fill_the_ball_and_never_leave_it(kind, norm, data):
    theta, x = data
    defense = set_up(kind(epsilon=0.5, norm=norm), data)
    radius = 0.5 * std_unit(x)
    assert defense.facts() == {"radius": pytest.approx(radius)}
    batch = slice(0, 20)  # the radius is that of the training data, not of the batch
    x_adv = perturbed(defense, gaussian(), (theta[batch], x[batch]))
    order = {"l1": 1, "l2": 2, "linf": math.inf}[norm]
    norms = torch.linalg.vector_norm(x_adv - x[batch], ord=order, dim=-1)
    assert float(norms.max()) <= radius * (1 + 1e-4)
    assert float(norms.max()) > 0.8 * radius
    if kind is not NoiseAugmentation:
        low, high = data_domain(x)
        assert (x_adv >= low).all()
        assert (x_adv <= high).all()


@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining])
def test_inner_attack_has_the_published_settings(kind, data):
    defense = set_up(kind(epsilon=0.5, steps=7, step_size=0.1), data)
    attack = defense.attack
    assert isinstance(attack, PGD)
    assert (attack.steps, attack.schedule, attack.select) == (7, "constant", "last")
    # the step is in units of std, as epsilon is, not a share of the radius
    assert attack.step_size * defense.ball.radius == pytest.approx(0.1 * std_unit(data[1]))
    assert set_up(kind(epsilon=0.05, step_size=0.1), data).attack.step_size == 1.0
    expected = "nll" if kind is AdversarialTraining else "kl_forward"
    assert attack.objective.name == expected


def test_inner_attacks_find_worse_places_than_noise(data):
    estimator, (theta, x) = flow(), data
    noise = perturbed(set_up(NoiseAugmentation(0.5), data), estimator, data)

    def nll(x):
        return float(-estimator(x).log_prob(theta).mean().detach())

    x_adv = perturbed(set_up(AdversarialTraining(0.5), data), estimator, data)
    assert nll(x_adv) > nll(noise) + 0.1 * abs(nll(noise) - nll(x))
    gauss = gaussian()
    x_adv = perturbed(set_up(TRADES(epsilon=0.5), data), gauss, data)
    moved = [
        float((by_hand(gauss, theta, x, y, 1.0) - by_hand(gauss, theta, x, y)).detach())
        for y in (x_adv, noise)
    ]
    assert moved[0] > 1.5 * moved[1]


def test_noise_augmentation_trains_on_noisy_observations(data):
    estimator, theta = gaussian(), data[0]
    defense = set_up(NoiseAugmentation(1.0), data)
    noisy = perturbed(defense, estimator, data)
    loss = loss_of(defense, estimator, data)
    torch.testing.assert_close(loss, by_hand(estimator, theta, noisy, noisy))


def visit(defense, estimator, data, epoch):
    """One epoch in random order; returns x~ of all pairs."""
    theta, x = data
    x_adv = torch.zeros_like(x)
    for i, index in enumerate(torch.randperm(40, generator=stream(epoch)).split(20)):
        batch = Batch(theta[index], x[index], index, epoch)
        x_adv[index] = defense.perturb(estimator, batch, stream(epoch, i))
    return x_adv


@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining])
def test_attack_every_uses_the_last_perturbations_in_between(kind, data):
    defense = set_up(kind(epsilon=0.5, steps=2, attack_every=3), data)
    epochs = [visit(defense, gaussian(), data, epoch) for epoch in range(5)]
    assert torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.isclose(epochs[3], epochs[2]).all(-1).any()
    assert torch.equal(epochs[3], epochs[4])


@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining])
def test_a_warm_start_goes_on_where_the_last_epoch_ended(kind, data):
    theta, x = data
    estimator = gaussian()

    def objective(x_adv):
        if kind is AdversarialTraining:
            return float(by_hand(estimator, theta, x_adv, x_adv))
        moved = by_hand(estimator, theta, x, x_adv, 1.0) - by_hand(estimator, theta, x, x_adv)
        return float(moved)

    with torch.no_grad():
        cold, warm = (
            set_up(kind(epsilon=0.5, steps=2, step_size=0.05, warm_start=w), data)
            for w in (False, True)
        )
        values = [[objective(visit(d, estimator, data, s)) for s in range(8)] for d in (cold, warm)]
        longest = set_up(kind(epsilon=0.5, steps=100, step_size=0.05), data)
        best = objective(visit(longest, estimator, data, 0))
    assert values[0][0] == pytest.approx(values[1][0])  # nothing to start from yet
    assert best - values[1][-1] < 0.3 * (best - max(values[0]))
    radius = 0.5 * std_unit(x)
    distances = torch.linalg.vector_norm(visit(warm, estimator, data, 9) - x, dim=-1)
    assert float(distances.max()) <= radius * (1 + 1e-4)


@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining])
def test_only_pairs_with_an_index_are_remembered(kind, data):
    theta, x = data
    defense = set_up(kind(epsilon=0.5, steps=2, warm_start=True, attack_every=2), data)
    first = visit(defense, gaussian(), data, 0)
    # a validation set in between neither sees nor changes what is remembered
    others = perturbed(defense, gaussian(), (theta[:5], x[:5] + 1))
    assert (others - x[:5] - 1).norm(dim=-1).max() <= 0.5 * std_unit(x) * (1 + 1e-4)
    assert torch.equal(visit(defense, gaussian(), data, 1), first)
    assert not torch.equal(visit(set_up(defense, data), gaussian(), data, 2), first)


@pytest.mark.parametrize("kind", [TRADES, AdversarialTraining, NoiseAugmentation])
def test_setup_is_needed(kind, data):
    with pytest.raises(RuntimeError, match="setup"):
        loss_of(kind(), gaussian(), data)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (NoiseAugmentation, {"epsilon": 0.0}),
        (NoiseAugmentation, {"norm": "l7"}),
        (AdversarialTraining, {"steps": 0}),
        (AdversarialTraining, {"step_size": 0.0}),
        (AdversarialTraining, {"attack_every": 0}),
        (TRADES, {"beta": -0.1}),
        (TRADES, {"divergence": "kl"}),
        (TRADES, {"num_samples": 0}),
    ],
)
def test_settings_are_checked(kind, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(**wrong)
