from __future__ import annotations

import pytest
import torch

from robust_npe.attacks import (
    FGSM,
    PGD,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    Noise,
    Objective,
    make_ball,
    std_unit,
)
from robust_npe.divergences import kl
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.random import stream
from robust_npe.tasks import GaussianLinear
from tests.helpers import (
    NoClosedForm,
    make_estimator,
    observations,
    pairs,
)

NORMS = ("l1", "l2", "linf")
TASK = GaussianLinear()


def movement_matrix(task):
    """M with KL(p(.|x), p(.|x + delta)) = delta^T M delta / 2: diagonal, returned as a vector."""
    a, noise_precision = task.slopes, task.noise_std**-2
    posterior_variance = 1 / (1 + a**2 * noise_precision)
    return noise_precision * a * posterior_variance * a * noise_precision


def half_square(delta):
    return 0.5 * (delta.double() ** 2 * movement_matrix(TASK)).sum(-1)


class Value(Objective):
    """An objective that is a given function of the perturbation."""

    name = "value"

    def __init__(self, *functions):
        self.functions = functions
        self.bindings = 0

    def __call__(self, posterior, x, theta, generator):
        function = self.functions[min(self.bindings, len(self.functions) - 1)]
        self.bindings += 1
        return lambda x_adv: function(x_adv - x)


@pytest.fixture(scope="module")
def data():
    return pairs(TASK, 64)


# The exact posterior of the linear Gaussian task: the optimum is known.


def test_protocol_constants(data):
    radius = 0.1 * std_unit(pairs(TASK, 10_000)[1])
    assert radius == pytest.approx(0.106, rel=0.02)
    optimum = 0.5 * radius**2 * float(movement_matrix(TASK).max())
    assert optimum == pytest.approx(0.563, rel=0.03)


@pytest.mark.parametrize("objective", [KLForward(), KLReverse()], ids=["forward", "reverse"])
@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_closed_form_optimum(norm, objective, data):
    radius = 0.1 * std_unit(data[1])
    m = movement_matrix(TASK)
    optimum = 0.5 * radius**2 * float(m.sum() if norm == "linf" else m.max())
    x, ball = data[1].double(), make_ball(norm, radius)
    x_adv = PGD(objective)(TASK.true_posterior, x, ball=ball, generator=stream(0))
    reached = half_square(x_adv - x) / optimum
    assert float(reached.max()) <= 1 + 1e-9
    # every corner of an L1 ball is a local maximum, and a random start may lead to a lower one
    floor = float(m[m > 0.5 * m.max()].min() / m.max()) if norm == "l1" else 0.99
    assert float(reached.min()) >= 0.99 * floor
    assert float(reached.median()) >= 0.99


def test_estimated_divergences_reach_the_optimum_too(data):
    radius = 0.1 * std_unit(data[1])
    optimum = 0.5 * radius**2 * float(movement_matrix(TASK).max())
    x = data[1][:16]
    ball = make_ball("l2", radius)

    def hidden(y):
        return NoClosedForm(TASK.true_posterior(y))

    x_adv = PGD(KLReverse(20))(hidden, x, ball=ball, generator=stream(0))
    # the optimum is nearly flat, so noise of the estimate turns the direction a little
    assert float((half_square(x_adv - x) / optimum).median()) >= 0.95


def largest_quadratic(center, slope, radius):
    """Maximum of |center + slope * delta|^2 / 2 over |delta|_2 <= radius.

    Stationarity: (multiplier - slope^2) delta = slope * center, at the multiplier above every
    slope^2 where |delta| = radius; found by bisection.
    """
    curvature = slope**2
    low = curvature.max() + torch.zeros(len(center), 1, dtype=torch.float64)
    high = low + (slope * center).norm(dim=-1, keepdim=True) / radius + 1
    for _ in range(200):
        middle = (low + high) / 2
        long = (slope * center / (middle - curvature)).norm(dim=-1, keepdim=True) > radius
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    delta = slope * center / (high - curvature)
    torch.testing.assert_close(delta.norm(dim=-1), torch.full((len(center),), radius).double())
    return 0.5 * (center + slope * delta).square().sum(-1)


def test_nll_attack_reaches_the_closed_form_optimum(data):
    theta, x = (t.double() for t in data)
    radius = 0.1 * std_unit(x)
    p = TASK.true_posterior(x)
    # -log p(theta|x + delta) = const + |(m - theta)/s + (K/s) delta|^2 / 2, K the gain
    center = (p.mean - theta) / p.stddev
    slope = (p.stddev * TASK.slopes / TASK.noise_std**2)[0]
    best = largest_quadratic(center, slope, radius)
    # a random start may end on the other side of the ball: not the highest hill, but near it
    attack, ball = PGD(NegativeLogLikelihood(), start=0.01), make_ball("l2", radius)
    x_adv = attack(TASK.true_posterior, x, theta, ball=ball, generator=stream(0))
    reached = 0.5 * (center + slope * (x_adv - x)).square().sum(-1)
    assert ((reached / best) <= 1 + 1e-6).all()
    assert float((reached / best).min()) >= 0.99


# Strength.


def planted(dim_x=30):
    """A linear Gaussian estimator with one hidden direction that it is very sensitive to."""
    estimator = make_estimator(
        lambda d, c: DiagonalGaussian(d, c, hidden=[]), dim_x=dim_x, gain=0.01
    )
    direction = torch.randn(dim_x, generator=stream(9))
    direction /= direction.norm()
    estimator.standardize.std.fill_(1.0)
    with torch.no_grad():
        estimator.head.net[-1].weight[0] += 20 * direction
    return estimator, direction


def test_finds_a_planted_vulnerability():
    estimator, direction = planted()
    x = observations(20, dim_x=30)
    ball = make_ball("l2", 1.0)
    delta = PGD(KLForward())(estimator, x, ball=ball, generator=stream(0)) - x
    assert float((delta @ direction).abs().min()) > 0.99
    noise = Noise()(estimator, x, ball=ball, generator=stream(0)) - x
    assert float((noise @ direction).abs().median()) < 0.3


def true_value(estimator, x, x_adv):
    with torch.no_grad():
        return kl(estimator(x), estimator(x_adv), 1000, stream(99))


@pytest.fixture(scope="module")
def nonlinear():
    return make_estimator(MAF, gain=1.7)


def test_beats_noise_and_one_step_on_a_nonlinear_estimator(nonlinear):
    x, ball = observations(40), make_ball("l2", 1.5)
    value = {}
    for attack in (PGD(KLForward(5), steps=40), FGSM(KLForward(5)), Noise()):
        x_adv = attack(nonlinear, x, ball=ball, generator=stream(0))
        value[attack.name] = true_value(nonlinear, x, x_adv)
    assert set(value) == {"pgd", "fgsm", "noise"}
    assert float((value["pgd"] > value["noise"]).float().mean()) > 0.85
    assert float(value["pgd"].median()) > 2 * float(value["noise"].median())
    assert float(value["pgd"].mean()) > float(value["fgsm"].mean())


def test_larger_balls_give_larger_values(nonlinear):
    x = observations(40)
    medians = []
    for radius in (0.25, 0.5, 1.0, 2.0):
        attack, ball = PGD(KLForward(5), steps=30), make_ball("l2", radius)
        x_adv = attack(nonlinear, x, ball=ball, generator=stream(0))
        medians.append(float(true_value(nonlinear, x, x_adv).median()))
    assert medians == sorted(medians)
    assert medians[-1] > 4 * medians[0] > 0


def test_fgsm_takes_one_full_step(data):
    x, radius = data[1].double(), 0.3
    ball = make_ball("l2", radius)
    found = FGSM(KLForward()).search(TASK.true_posterior, x, None, ball, stream(0))
    delta = found.x_adv - x
    assert (found.zero_gradients == 0).all()
    torch.testing.assert_close(delta.norm(dim=-1), torch.full((64,), radius).double())
    # one step along the gradient at a random start: better than random, below the optimum
    m = movement_matrix(TASK)
    random = 0.5 * radius**2 * float(m.mean())
    assert random < float(half_square(delta).median()) <= 0.5 * radius**2 * float(m.max())


def test_steps_shrink_to_zero_or_stay():
    class Recorder(Value):
        def __call__(self, posterior, x, theta, generator):
            self.seen = []

            def climb(x_adv):
                self.seen.append((x_adv - x).detach())
                return (x_adv - x).sum(-1)

            return climb

    x = torch.zeros(1, 1)
    lengths = {}
    for schedule in ("cosine", "constant"):
        recorder = Recorder()
        steps = {"steps": 8, "step_size": 0.01, "schedule": schedule, "select": "last"}
        attack, ball = PGD(recorder, start=1e-3, **steps), make_ball("l2", 100.0)
        last = attack(None, x, ball=ball, generator=stream(0)) - x
        track = torch.cat([*recorder.seen, last]).flatten()
        lengths[schedule] = track.diff()
    torch.testing.assert_close(lengths["constant"], torch.ones(8), rtol=1e-4, atol=0)
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(8) / 8))
    torch.testing.assert_close(lengths["cosine"], cosine, rtol=1e-3, atol=1e-5)
