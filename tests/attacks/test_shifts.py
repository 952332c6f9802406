from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from robust_npe.attacks import PGD, CoverageBreaking, MaximumMeanDiscrepancy, MeanShift, make_ball
from robust_npe.discrepancy import mmd
from robust_npe.random import draws_from, stream
from tests.attacks.test_objectives import hidden, posterior
from tests.attacks.test_pgd import TASK
from tests.helpers import NoClosedForm, pairs

OBJECTIVES = (MeanShift(), MaximumMeanDiscrepancy(), CoverageBreaking())
IDS = [objective.name for objective in OBJECTIVES]


class NotReparameterised(NoClosedForm):
    has_rsample = False

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape)


@pytest.fixture
def x():
    return torch.randn(4, 3, generator=stream(0), dtype=torch.float64)


@pytest.fixture
def x_adv(x):
    return x + 0.2 * torch.randn(4, 3, generator=stream(1), dtype=torch.float64)


@pytest.fixture
def theta(x):
    with draws_from(stream(2)):
        return posterior(x).sample()


def shift_by_hand(x, x_adv):
    p, q = posterior(x), posterior(x_adv)
    return ((q.mean - p.mean) / p.variance.sqrt()).square().sum(-1).sqrt()


def test_mean_shift_is_that_of_the_gaussian(x, x_adv):
    expected = shift_by_hand(x, x_adv)
    torch.testing.assert_close(MeanShift()(posterior, x, None, stream(0))(x_adv), expected)
    climb = MeanShift(1000)(hidden, x, None, stream(0))
    torch.testing.assert_close(climb(x_adv), expected, rtol=0.2, atol=0)
    assert (climb(x) == 0).all()  # common random numbers
    # the error of the mean is that of its difference: far below 1 / sqrt(16)
    few = MeanShift(16)(lambda y: NoClosedForm(Independent(Normal(y, 1.0), 1)), x, None, stream(0))
    torch.testing.assert_close(few.step(x_adv), (x_adv - x).norm(dim=-1), rtol=0.2, atol=0)


def test_discrepancy_is_that_of_gaussians_in_closed_form():
    """MMD^2 of N(0, I) and N(m, s^2 I) with kernel width h, D = 2:
    (1 + 2/h^2)^-1 + (1 + 2 s^2/h^2)^-1 - 2 (1 + v)^-1 exp(-|m|^2 / (2 h^2 (1 + v))),
    v = (1 + s^2)/h^2; h^2 is the median of |a - b|^2 = 2 chi^2_2 = 4 log 2."""
    x, h2 = torch.zeros(200, 2), 4 * torch.tensor(2.0).log()
    x_adv = torch.tensor([0.8, 0.3]).expand(200, 2)

    def gaussians(y):  # s = 1 at x, 1.2 at x~
        return Independent(Normal(y, (1 + 0.25 * y[:, :1]).expand(-1, 2)), 1)

    v = (1 + 1.2**2) / h2
    across = torch.exp(-(0.8**2 + 0.3**2) / (2 * h2 * (1 + v))) / (1 + v)
    exact = 1 / (1 + 2 / h2) + 1 / (1 + 2 * 1.2**2 / h2) - 2 * across
    values = MaximumMeanDiscrepancy()(gaussians, x, None, stream(0))(x_adv)
    error = float(values.std()) / 200**0.5
    assert abs(float(values.mean() - exact)) < 5 * error < 0.2 * float(exact)
    same = MaximumMeanDiscrepancy()(gaussians, x, None, stream(0))(x)
    assert abs(float(same.mean())) < 5 * float(same.std()) / 200**0.5


def test_discrepancy_is_the_one_that_is_measured(x, x_adv):
    """But for the width of the kernel, which follows both sets of samples there."""
    climb = MaximumMeanDiscrepancy(400)(posterior, x, None, stream(0))
    with draws_from(stream(5)):
        p, q = (posterior(y).sample((4000,)).movedim(0, -2)[:, :1500] for y in (x, x_adv))
    units = (p - p.mean(-2, keepdim=True)) / p.std(-2, keepdim=True)
    width = torch.stack([torch.pdist(u).square().median() for u in units])
    torch.testing.assert_close(climb(x_adv), mmd(p, q, width), rtol=0.2, atol=0.02)


def test_coverage_is_the_level_of_the_region_of_a_gaussian(x, x_adv, theta):
    """In two dimensions a highest-density region of level a has squared radius -2 log(1 - a)."""
    q = posterior(x_adv)
    squares = ((theta - q.mean).square() / q.variance).sum(-1)
    climb = CoverageBreaking(20_000)(posterior, x, theta, stream(0))
    torch.testing.assert_close(climb(x_adv), 1 - torch.exp(-squares / 2), rtol=0, atol=0.015)


@pytest.mark.parametrize("objective", [MeanShift(200), MaximumMeanDiscrepancy(200)], ids=IDS[:2])
def test_gradients_against_finite_differences(objective, x, x_adv):
    climb = objective(hidden, x, None, stream(0))
    x_adv.requires_grad_(True)
    (gradient,) = torch.autograd.grad(climb(x_adv).sum(), x_adv)
    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        numeric = [(climb(x_adv + s) - climb(x_adv - s)) / 2e-6 for s in step]
    torch.testing.assert_close(gradient, torch.stack(numeric, -1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("q", [posterior, hidden], ids=["known", "hidden"])
def test_slope_of_the_level_at_low_temperature(q, x, x_adv, theta):
    """The smooth level's gradient tends to that of 1 - exp(-r^2 / 2), see above."""
    x_adv.requires_grad_(True)
    climb = CoverageBreaking(100_000, temperature=0.02)(q, x, theta, stream(0))
    (gradient,) = torch.autograd.grad(climb(x_adv).sum(), x_adv)
    p = posterior(x_adv)
    level = 1 - torch.exp(-((theta - p.mean).square() / p.variance).sum(-1) / 2)
    (exact,) = torch.autograd.grad(level.sum(), x_adv)
    torch.testing.assert_close(gradient, exact, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=IDS)
def test_posteriors_without_reparameterised_samples(objective, x, x_adv, theta):
    """The score-function estimator agrees with the reparameterised gradient, on average."""
    many = type(objective)(20_000 if objective.name != "mmd" else 1500)

    def plain(y):
        return NotReparameterised(posterior(y))

    slopes = []
    for q in (hidden, plain):
        moved = x_adv.clone().requires_grad_(True)
        climb = many(q, x, theta, stream(0))
        (slope,) = torch.autograd.grad(climb(moved).sum(), moved)
        slopes.append(slope)
    assert float((slopes[0] - slopes[1]).norm() / slopes[0].norm()) < (
        0.12 if objective.name != "mmd" else 0.25
    )


@pytest.mark.parametrize("objective", [MeanShift(), CoverageBreaking()], ids=["mean", "coverage"])
def test_reaches_the_closed_form_optimum_on_the_linear_task(objective):
    """Both rise along the movement of the mean, whose largest gain is known: in L2, K of one
    feature; theta at the clean mean makes the level a function of that movement."""
    x, radius = pairs(TASK, 32)[1].double(), 1.0
    p = TASK.true_posterior(x)
    gain = (p.stddev * TASK.slopes / TASK.noise_std**2)[0]  # movement in posterior sds
    ball = make_ball("l2", radius)
    x_adv = PGD(objective)(TASK.true_posterior, x, p.mean, ball=ball, generator=stream(0))
    moved = (gain * (x_adv - x)).norm(dim=-1) / (radius * float(gain.abs().max()))
    assert float(moved.max()) <= 1 + 1e-9
    assert float(moved.median()) > 0.98


def test_labels_have_a_discrepancy_too():
    def classifier(y):
        return Categorical(logits=torch.cat((y, -y), dim=-1))

    x = torch.zeros(8, 1)
    climb = MaximumMeanDiscrepancy(500)(classifier, x, None, stream(0))
    assert (climb(x + 2) > climb(x) + 0.1).all()


def test_theta_is_needed_for_coverage(x):
    with pytest.raises(ValueError, match="coverage needs theta"):
        CoverageBreaking()(posterior, x, None, stream(0))


@pytest.mark.parametrize(
    ("kind", "argument"),
    [
        (MeanShift, {"num_samples": 0}),
        (MaximumMeanDiscrepancy, {"num_samples": 1}),
        (CoverageBreaking, {"num_samples": 0}),
        (CoverageBreaking, {"temperature": 0}),
    ],
)
def test_wrong_arguments_are_named(kind, argument):
    name, value = next(iter(argument.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        kind(**argument)
