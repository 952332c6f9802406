"""Posteriors at the edges: wrong shapes, no gradients in x, bounded supports."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.distributions import (
    AffineTransform,
    Beta,
    Exponential,
    Gamma,
    Independent,
    LogNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

import robust_npe as rn
from robust_npe.attacks import (
    FGSM,
    PGD,
    KLForward,
    KLReverse,
    NegativeLogLikelihood,
    make_ball,
)
from robust_npe.checks import ConfigError
from robust_npe.fisher import fisher_eigenvalue, fisher_trace, scores
from robust_npe.metrics import MMD, NLL, Context, Coverage, Divergence, TruePosterior
from robust_npe.posterior import log_prob
from robust_npe.random import stream
from tests.helpers import NoClosedForm
from tests.posteriors import (
    Vector,
)

OBJECTIVES = {"kl_forward": KLForward, "kl_reverse": KLReverse, "nll": NegativeLogLikelihood}


WRONG = {
    "coordinates": lambda x: Normal(x, torch.ones_like(x)),  # Independent is missing
    "one": lambda x: Independent(Normal(x[0], torch.ones(2)), 1),
    "tensor": lambda x: x,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_one_distribution_for_each_observation_is_refused(wrong):
    posterior, x, ball = WRONG[wrong], torch.zeros(6, 2), make_ball("l2", 1.0)
    context = Context(Vector(), posterior, x, x, x + 1, True, 0)
    calls = [
        lambda o=o: PGD(o())(posterior, x, x, ball=ball, generator=stream(0))
        for o in OBJECTIVES.values()
    ]
    calls += [lambda: rn.kl(posterior, x, x), lambda: fisher_trace(posterior, x, 2, stream(0))]
    calls += [
        lambda m=m: m(context) for m in (NLL(), Coverage(), Divergence(), MMD(), TruePosterior())
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"posterior.x. is a .*batch shape \(B,\)") as error:
            call()
        assert "\n" not in str(error.value)


def in_numpy(x):
    mean = torch.as_tensor(x.detach().numpy() * 2)
    return NoClosedForm(Independent(Normal(mean, torch.ones_like(mean)), 1))


bias = torch.zeros(2, requires_grad=True)  # of the graph, but not of x
STILL = {
    "constant": lambda x: Independent(Normal(torch.zeros(len(x), 2), torch.ones(2)), 1),
    "parameter": lambda x: Independent(Normal(bias.expand(len(x), 2), torch.ones(2)), 1),
    "numpy": in_numpy,
}


@pytest.mark.parametrize("still", STILL)
@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_posteriors_without_gradient_in_x_survive_and_say_so(objective, still):
    posterior, x, ball = STILL[still], torch.randn(5, 2, generator=stream(1)), make_ball("l2", 1.0)
    for attack in (PGD(objective(), steps=3), FGSM(objective())):
        found = attack.search(posterior, x, x, ball, stream(0))
        assert (found.zero_gradients == 1).all()
        assert (ball.norm(found.x_adv - x) <= 1 + 1e-6).all()
        assert (rn.kl(posterior, x, found.x_adv) == 0).all() or still == "numpy"
    for attached in (False, True):
        assert not scores(posterior, x, 3, stream(0), attached).any()
    assert not fisher_eigenvalue(posterior, x, 3, stream(0), attached=False).any()


def box(x):
    """Uniform on the unit square at x."""
    return Independent(Uniform(x, x + 1), 1)


class Box(NoClosedForm):
    @property
    def support(self):
        return self.base.support


@pytest.mark.parametrize("closed", [True, False])
def test_bounded_supports(closed):
    posterior = box if closed else lambda x: Box(box(x))
    x = torch.zeros(4, 2, dtype=torch.float64)
    x_adv = torch.tensor([[0.0, 0.0], [0.5, 0.0], [2.0, 0.0], [0.0, -0.1]], dtype=x.dtype)
    theta = torch.full_like(x, 0.3)
    inside = torch.tensor([True, False, False, True])
    torch.testing.assert_close(log_prob(posterior(x_adv), theta), torch.log(inside.double()))
    context = Context(Vector(), posterior, theta, x, x_adv, True, 0)
    found = {
        m.metric: m.per_observation
        for metric in (NLL(), Coverage(), Divergence(), TruePosterior())
        for m in metric(context)
    }
    assert torch.equal(found["nll"], torch.where(inside, 0.0, torch.inf).double())
    assert (found["hpd_level"][~inside] > 0.99).all()
    assert (found["hpd_level"][inside] < 0.99).all()
    for key in ("kl_forward", "kl_reverse"):
        assert torch.equal(found[key], torch.tensor([0.0, *3 * [torch.inf]]).double())
    assert (found["error"] == torch.inf).all()  # the exact posterior is Gaussian
    for objective in OBJECTIVES.values():
        ball = make_ball("l2", 1.0)
        moved = PGD(objective(), steps=3)(posterior, x, theta, ball=ball, generator=stream(0))
        assert (ball.norm(moved - x) <= 1 + 1e-6).all()


def affine(base):
    return TransformedDistribution(base, AffineTransform(0.0, 2.0))


# Nothing below 0 is possible; what scipy says where it knows.
BOUNDED = {
    "lognormal": (lambda x: LogNormal(x, 1.0), stats.lognorm(1)),
    "unchecked": (lambda x: Gamma(x + 2, 1.0, validate_args=False), stats.gamma(2)),
    "moved": (lambda x: affine(LogNormal(x, 1.0)), stats.lognorm(1, scale=2)),
    "box": (lambda x: affine(Uniform(x, x + 1)), stats.uniform(0, 2)),
    "beta": (lambda x: affine(Beta(x + 2, x + 3)), stats.beta(2, 3, scale=2)),
    "exponential": (lambda x: Exponential(x + 1, validate_args=False), stats.expon()),
    "sigmoid": (lambda x: TransformedDistribution(Normal(x, 1.0), SigmoidTransform()), None),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_log_density_outside_of_a_support_and_gradients_beside_it(name):
    make_one, known = BOUNDED[name]
    x = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    q = Independent(make_one(x), 1)
    theta = torch.tensor([[-1.0], [0.75], [-1e9]], dtype=x.dtype)
    value = log_prob(q, theta)
    assert value[[0, 2]].tolist() == [-torch.inf] * 2
    alone = Independent(make_one(x[1:2]), 1).log_prob(theta[1:2])
    torch.testing.assert_close(value[1:2], alone)
    if known is not None:
        assert value[1].item() == pytest.approx(known.logpdf(0.75))
    expected, slope = (torch.autograd.grad(v.sum(), x)[0] for v in (alone, value))
    torch.testing.assert_close(slope, expected)
    assert slope.isfinite().all()


def test_theta_that_is_missing_or_of_another_shape_is_not_outside():
    q = Independent(Normal(torch.zeros(3, 2), torch.ones(2), validate_args=True), 1)
    for wrong in (torch.full((3, 2), torch.nan), torch.zeros(4, 2)):
        with pytest.raises(ValueError, match=r"Expected value|not broadcastable"):
            log_prob(q, wrong)
