from __future__ import annotations

import copy

import pytest
import torch
from torch.distributions import Independent, Normal

from robust_npe.attacks import (
    PGD,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    Noise,
    Objective,
    ThreatModel,
    frozen,
    make_ball,
    std_unit,
)
from robust_npe.divergences import kl
from robust_npe.estimators import MAF, DiagonalGaussian
from robust_npe.random import stream
from robust_npe.tasks import GaussianLinear
from tests.helpers import (
    NoClosedForm,
    conf_names,
    from_conf,
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
    attack = PGD(make_ball(norm, radius), objective)
    x = data[1].double()
    reached = half_square(attack(TASK.true_posterior, x, generator=stream(0)) - x) / optimum
    assert float(reached.max()) <= 1 + 1e-9
    # every corner of an L1 ball is a local maximum, and a random start may lead to a lower one
    floor = float(m[m > 0.5 * m.max()].min() / m.max()) if norm == "l1" else 0.99
    assert float(reached.min()) >= 0.99 * floor
    assert float(reached.median()) >= 0.99


def test_estimated_divergences_reach_the_optimum_too(data):
    radius = 0.1 * std_unit(data[1])
    optimum = 0.5 * radius**2 * float(movement_matrix(TASK).max())
    x = data[1][:16]
    attack = PGD(make_ball("l2", radius), KLReverse(20))
    x_adv = attack(lambda y: NoClosedForm(TASK.true_posterior(y)), x, generator=stream(0))
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
    attack = PGD(make_ball("l2", radius), NegativeLogLikelihood(), start=0.01)
    x_adv = attack(TASK.true_posterior, x, theta, generator=stream(0))
    reached = 0.5 * (center + slope * (x_adv - x)).square().sum(-1)
    assert ((reached / best) <= 1 + 1e-6).all()
    assert float((reached / best).min()) >= 0.99


# What must hold for every attack, norm and threat model.


@pytest.mark.parametrize("name", conf_names("attack"))
@pytest.mark.parametrize("domain", ["none", "data", "widened"])
@pytest.mark.parametrize("unit", ["std", "feature"])
@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_ball_and_box(norm, unit, domain, name):
    estimator = make_estimator(MAF, gain=1.5)
    x = observations(30)
    threat = ThreatModel(norm, unit)
    ball = threat.ball(2.0, TASK, x)
    box = None if domain == "none" else threat.box(TASK, x)
    if domain == "widened":  # some x lie outside of the box
        box = (box[0] * 0 + 4.0, box[1] * 0 + 6.0)
    extra = {} if name == "noise" else {"objective": KLReverse(2)}
    if name == "pgd":
        extra["steps"] = 10
    attack = from_conf("attack", name, skip=["objective"])(ball=ball, domain=box, **extra)
    x_adv = attack(estimator, x, generator=stream(0))
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert (ball.norm(x_adv - x) <= ball.radius + 1e-5).all()
    # a corner of the box may hold an x that lies outside of it, but only few
    assert float(((x_adv - x).abs().amax(-1) > 0).float().mean()) > 0.9
    if box is not None:
        assert (x_adv >= torch.minimum(box[0], x)).all()
        assert (x_adv <= torch.maximum(box[1], x)).all()


def test_feasible_clips_to_the_box_without_leaving_the_ball():
    attack = Noise(make_ball("l2", 1.0), (torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])))
    x = torch.tensor([[0.5, 0.5], [1.5, 0.5]])
    far = attack.feasible(x, x + torch.tensor([[30.0, 40.0], [3.0, 0.0]]))
    torch.testing.assert_close(far, torch.tensor([[1.0, 1.0], [1.5, 0.5]]))


def test_noise_is_one_uniform_draw():
    ball = make_ball("l2", 2.0)
    x = observations(5)
    x_adv = Noise(ball)(TASK.true_posterior, x, generator=stream(4))
    torch.testing.assert_close(x_adv, x + ball.sample(x, stream(4)))


def test_deterministic_given_the_generator(data):
    estimator = make_estimator(MAF, gain=1.5)
    x = observations(8)
    attack = PGD(make_ball("l2", 1.0), KLForward(2), steps=5)
    first, again, other = (attack(estimator, x, generator=stream(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_observations_with_graph_give_results_without(data):
    x = observations(4).requires_grad_(True)
    for attack in (Noise(make_ball("l2", 1.0)), PGD(make_ball("l2", 1.0), KLForward(), steps=2)):
        assert not attack(make_estimator(MAF), x, generator=stream(0)).requires_grad
    assert x.grad is None


# Nothing leaks into the network.


def test_leaves_gradients_and_flags_of_the_parameters_alone():
    estimator, x = make_estimator(MAF, gain=1.5), observations(6)
    attack = PGD(make_ball("l2", 1.0), KLForward(2), steps=3)
    fresh = attack(estimator, x, generator=stream(0))
    assert all(p.grad is None for p in estimator.parameters())

    parameters = list(estimator.parameters())
    parameters[0].requires_grad_(False)
    for p in parameters:
        p.grad = torch.full_like(p, 7.0)
    grads = [p.grad for p in parameters]
    weights = copy.deepcopy(estimator.state_dict())
    stale = attack(estimator, x, generator=stream(0))
    assert torch.equal(fresh, stale)
    assert [p.requires_grad for p in parameters] == [False] + [True] * (len(parameters) - 1)
    assert all(p.grad is g for p, g in zip(parameters, grads, strict=True))
    assert all((g == 7).all() for g in grads)
    for name, value in estimator.state_dict().items():
        assert torch.equal(value, weights[name])


def test_network_is_frozen_while_the_attack_runs_and_thawed_after_an_error():
    estimator = make_estimator(DiagonalGaussian)
    seen = []

    def broken(x):
        seen.extend(p.requires_grad for p in estimator.parameters())
        raise ArithmeticError

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = estimator

        def forward(self, x):
            return broken(x)

    attack = PGD(make_ball("l2", 1.0), KLForward())
    with pytest.raises(ArithmeticError):
        attack(Model(), observations(2), generator=stream(0))
    assert seen
    assert not any(seen)
    assert all(p.requires_grad for p in estimator.parameters())
    with frozen(lambda x: x):  # plain functions have nothing to freeze
        pass


@pytest.mark.parametrize("grad_enabled", [False, True])
def test_works_with_and_without_grad_mode(grad_enabled):
    estimator, x = make_estimator(MAF, gain=1.5), observations(4)
    attack = PGD(make_ball("l2", 1.0), KLReverse(2), steps=3)
    expected = attack(estimator, x, generator=stream(0))
    with torch.set_grad_enabled(grad_enabled):
        assert torch.equal(attack(estimator, x, generator=stream(0)), expected)


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
    attack = PGD(make_ball("l2", 1.0), KLForward())
    delta = attack(estimator, x, generator=stream(0)) - x
    assert float((delta @ direction).abs().min()) > 0.99
    noise = Noise(make_ball("l2", 1.0))(estimator, x, generator=stream(0)) - x
    assert float((noise @ direction).abs().median()) < 0.3


def true_value(estimator, x, x_adv):
    with torch.no_grad():
        return kl(estimator(x), estimator(x_adv), 1000, stream(99))


@pytest.fixture(scope="module")
def nonlinear():
    return make_estimator(MAF, gain=1.7)


def test_beats_noise_and_one_step_on_a_nonlinear_estimator(nonlinear):
    x, ball = observations(40), make_ball("l2", 1.5)
    settings = {"pgd": {"steps": 40}, "fgsm": {"steps": 1, "step_size": 1.0, "start": 0.01}}
    value = {}
    for name, kwargs in settings.items():
        attack = PGD(ball, KLForward(5), **kwargs)
        assert attack.name == name
        value[name] = true_value(nonlinear, x, attack(nonlinear, x, generator=stream(0)))
    noise = Noise(ball)(nonlinear, x, generator=stream(0))
    value["noise"] = true_value(nonlinear, x, noise)
    assert float((value["pgd"] > value["noise"]).float().mean()) > 0.85
    assert float(value["pgd"].median()) > 2 * float(value["noise"].median())
    assert float(value["pgd"].mean()) > float(value["fgsm"].mean())


def test_larger_balls_give_larger_values(nonlinear):
    x = observations(40)
    medians = []
    for radius in (0.25, 0.5, 1.0, 2.0):
        attack = PGD(make_ball("l2", radius), KLForward(5), steps=30)
        x_adv = attack(nonlinear, x, generator=stream(0))
        medians.append(float(true_value(nonlinear, x, x_adv).median()))
    assert medians == sorted(medians)
    assert medians[-1] > 4 * medians[0] > 0


def test_fgsm_takes_one_full_step(data):
    x, radius = data[1].double(), 0.3
    make_attack = from_conf("attack", "fgsm", skip=["objective"])
    attack = make_attack(ball=make_ball("l2", radius), objective=KLForward())
    delta = attack(TASK.true_posterior, x, generator=stream(0)) - x
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
        ball = make_ball("l2", 100.0)
        settings = {"steps": 8, "step_size": 0.01, "schedule": schedule, "select": "last"}
        last = PGD(ball, recorder, start=1e-3, **settings)(None, x, generator=stream(0)) - x
        track = torch.cat([*recorder.seen, last]).flatten()
        lengths[schedule] = track.diff()
    torch.testing.assert_close(lengths["constant"], torch.ones(8), rtol=1e-4, atol=0)
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(8) / 8))
    torch.testing.assert_close(lengths["cosine"], cosine, rtol=1e-3, atol=1e-5)


# Which iterate is returned.


def test_best_iterate_is_kept_where_the_last_one_is_worse():
    x = torch.zeros(50, 2)
    ball = make_ball("l2", 1.0)
    oscillating = {"steps": 7, "step_size": 0.9, "schedule": "constant"}

    def height(delta):  # a narrow ring that large steps jump over
        return -((delta.norm(dim=-1) - 0.3) ** 2)

    results = {}
    for select in ("best", "last"):
        attack = PGD(ball, Value(height), select=select, **oscillating)
        results[select] = height(attack(None, x, generator=stream(0)))
    assert (results["best"] >= results["last"]).all()
    assert float((results["best"] > results["last"] + 0.01).float().mean()) > 0.3


def test_best_iterate_is_judged_with_fresh_numbers():
    # the first binding values what its gradient leads away from; the second one, the judge,
    # values where it leads to
    x = torch.zeros(20, 2)

    def loves_start(delta):
        return delta[:, 0] - 2 * delta[:, 0].detach()

    settings = {"steps": 5, "step_size": 0.5}
    fooled = PGD(make_ball("l2", 1.0), Value(loves_start), **settings)
    honest = PGD(make_ball("l2", 1.0), Value(loves_start, lambda d: d[:, 0]), **settings)
    last = PGD(make_ball("l2", 1.0), Value(loves_start), select="last", **settings)
    expected = last(None, x, generator=stream(0))
    assert torch.equal(honest(None, x, generator=stream(0)), expected)
    assert (fooled(None, x, generator=stream(0))[:, 0] < expected[:, 0] - 0.1).any()


def test_best_is_at_least_as_good_as_last_on_fresh_noise(nonlinear):
    x = observations(60)
    value = {}
    for select in ("best", "last"):
        attack = PGD(
            make_ball("l2", 1.5),
            KLForward(2),
            steps=12,
            step_size=0.8,
            schedule="constant",
            select=select,
        )
        value[select] = true_value(nonlinear, x, attack(nonlinear, x, generator=stream(0)))
    assert float(value["best"].mean()) > float(value["last"].mean())


def test_values_that_are_not_finite_are_never_chosen():
    def cliff(delta):  # rises towards a place where it breaks
        return delta[:, 0].where(delta[:, 0] < 0.5, torch.nan)

    def spike(delta):
        return delta[:, 0].where(delta[:, 0] < 0.5, torch.inf)

    x = torch.zeros(30, 2)
    for function in (cliff, spike):
        settings = {"steps": 6, "step_size": 0.4, "start": 0.2}
        delta = PGD(make_ball("l2", 1.0), Value(function), **settings)(None, x, generator=stream(0))
        assert (delta[:, 0] < 0.5).all()
        assert (delta[:, 0] > 0).all()


def test_ball_of_radius_zero_returns_the_observation():
    x = observations(3)
    attack = PGD(make_ball("l2", 0.0), KLForward(), steps=3)
    assert torch.equal(attack(make_estimator(DiagonalGaussian), x, generator=stream(0)), x)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"step_size": 0.0},
        {"schedule": "linear"},
        {"start": 0.0},
        {"start": 1.5},
        {"select": "worst"},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PGD(make_ball("l2", 1.0), KLForward(), **wrong)


def test_rows_do_not_influence_each_other():
    # a row whose gradient is not finite must not spoil its neighbours
    def posterior(x):
        broken = torch.where(x[:, :1] > 100, x[:, :1] * torch.inf, 0.0)
        return Independent(Normal(x + broken, torch.ones_like(x), validate_args=False), 1)

    clean = observations(3)
    with_broken = clean.clone()
    with_broken[1] = 1000.0
    attack = PGD(make_ball("l2", 1.0), NegativeLogLikelihood(), steps=4)
    theta = torch.zeros(3, 3)
    a, b = (attack(posterior, x, theta, generator=stream(0)) for x in (clean, with_broken))
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert b.isfinite().all()
