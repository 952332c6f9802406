import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from robust_npe.attacks import std_unit
from robust_npe.checks import ConfigError
from robust_npe.defenses import DRO, Batch
from robust_npe.estimators import MAF, Head
from robust_npe.random import stream
from tests.helpers import make_estimator, observations, prior_draws

WIDTH = 0.7


class Linear(Head):
    """N(A x, WIDTH^2): its loss is quadratic."""

    def __init__(self, dim_theta, dim_context):
        super().__init__()
        self.net = nn.Linear(dim_context, dim_theta)

    def forward(self, context):
        return Independent(Normal(self.net(context), WIDTH), 1)


def problem(dim_theta=1, head=Linear, num=50):
    estimator = make_estimator(head, dim_theta=dim_theta).double()
    theta = prior_draws(num, dim_theta=dim_theta).double()
    return estimator, Batch(theta, observations(num).double())


def value(defense, estimator, batch):
    defense.setup(estimator, batch.theta, batch.x)
    return defense.loss(estimator, batch, stream(0))


def residuals(estimator, batch):
    """r_i = (z_i - A x_i - b) / WIDTH, and its slope along z and standardised x: `(1 + Dx,)`."""
    z = estimator.bijection.inverse_and_log_det(batch.theta)[0]
    net = estimator.head.net
    r = (z - net(estimator.standardize(batch.x))).squeeze(1) / WIDTH
    return r, torch.cat([torch.ones(1), -net.weight.squeeze(0)]) / WIDTH


@pytest.mark.parametrize("moved", ["both", "x"])
@pytest.mark.parametrize("units", ["feature", "std"])
def test_worst_case_of_a_quadratic_loss_is_the_closed_form(moved, units):
    """With l = r^2 / 2 + c, r linear with slope m, the supremum over displacements of root mean
    square epsilon is (rms(r) + epsilon |m|)^2 / 2 + c, by the Cauchy-Schwarz inequality."""
    estimator, batch = problem()
    r, slope = residuals(estimator, batch)
    if units == "std":
        slope[1:] *= std_unit(batch.x) / estimator.standardize.std
    slope = slope if moved == "both" else slope[1:]
    rms, gain = r.square().mean().sqrt(), slope.norm()
    plain = estimator.loss(batch.theta, batch.x)
    settings = {"units": units, "move_theta": moved == "both"}
    for epsilon in (0.05, 0.5, 2.0):
        expected = plain + epsilon * rms * gain + (epsilon * gain).square() / 2
        ascent = DRO(epsilon, "ascent", steps=20, **settings)
        torch.testing.assert_close(value(ascent, estimator, batch), expected, rtol=1e-4, atol=0)
        published = plain + epsilon * rms * gain
        gradient = value(DRO(epsilon, "gradient", **settings), estimator, batch)
        torch.testing.assert_close(gradient, published)


def gradients(loss, estimator):
    return torch.autograd.grad(loss, list(estimator.parameters()))


@pytest.mark.parametrize("method", ["gradient", "ascent"])
def test_gradient_is_that_of_the_closed_form(method):
    estimator, batch = problem()
    loss = value(DRO(0.3, method, steps=50), estimator, batch)
    r, slope = residuals(estimator, batch)
    gain, rms = slope.norm(), r.square().mean().sqrt()
    expected = r.square().mean() / 2 + 0.3 * rms * gain
    if method == "ascent":
        expected = expected + (0.3 * gain).square() / 2
    for g, e in zip(gradients(loss, estimator), gradients(expected, estimator), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-3, atol=1e-4)


def maf(dim_theta, dim_context):
    return MAF(dim_theta, dim_context, transforms=2, hidden=(16, 16))


@pytest.mark.parametrize("method", ["gradient", "ascent"])
def test_small_balls_have_the_slope_of_the_gradient_norm(method):
    """Against finite differences of log q in z and standardised x, for a flow."""
    estimator, batch = problem(2, maf)
    base, std = batch.x, estimator.standardize.std
    z = estimator.bijection.inverse_and_log_det(batch.theta)[0]
    step, total = 1e-5, 0.0
    with torch.no_grad():
        for j in range(5):
            move = step * torch.eye(5, dtype=z.dtype)[j]
            plus, minus = (
                estimator(base + s * std * move[2:]).base.log_prob(z + s * move[:2])
                for s in (1, -1)
            )
            total += ((plus - minus) / (2 * step)).square().mean()
    plain = estimator.loss(batch.theta, batch.x)
    slope = (value(DRO(1e-4, method), estimator, batch) - plain) / 1e-4
    torch.testing.assert_close(slope.detach(), total.sqrt(), rtol=0.01, atol=0)


@pytest.mark.parametrize("support", ["real", "box"])
def test_more_steps_find_worse_pairs_within_the_ball(support):
    estimator = make_estimator(maf, support, gain=1.5)
    batch = Batch(prior_draws(60, support), observations(60))
    values = []
    for steps in (1, 5, 40):
        defense = DRO(0.3, "ascent", steps=steps)
        values.append(float(value(defense, estimator, batch).detach()))
    plain = float(estimator.loss(batch.theta, batch.x).detach())
    assert plain < values[0] < values[1] < values[2] + 1e-3
    assert all(p.requires_grad and p.grad is None for p in estimator.parameters())


def test_radius_of_zero_is_no_defense():
    estimator, batch = problem(2, maf)
    assert value(DRO(0.0), estimator, batch) == estimator.loss(batch.theta, batch.x)


@pytest.mark.parametrize(
    "arguments",
    [{"epsilon": -0.1}, {"method": "dual"}, {"units": "noise"}, {"steps": 0}, {"step_size": 0.0}],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match=f"defense.{next(iter(arguments))}"):
        DRO(**arguments)
