from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    Poisson,
    Uniform,
    biject_to,
    constraints,
)

from robust_npe.checks import ConfigError
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.tasks import GaussianLinear
from robust_npe.tasks.supports import vector_support

BOX = constraints.interval(torch.tensor([0.0, -2.0]), torch.tensor([1.0, 3.0]))
REAL, POSITIVE = constraints.real, constraints.positive


def task(prior):
    made = GaussianLinear((1.0, 1.0))
    made.name, made.prior = "mine", prior
    return made


# name: support, some vectors inside, some outside
MIXED = {
    "stack": (constraints.stack([REAL, POSITIVE], -1), [-1.0, 2.0], [1.0, -2.0]),
    "stack along 0": (constraints.stack([REAL, POSITIVE]), [-1.0, 2.0], [1.0, -2.0]),
    "independent(stack)": (
        constraints.independent(constraints.stack([POSITIVE, REAL]), 1),
        [1.0, -2.0],
        [-1.0, 2.0],
    ),
    "cat": (
        constraints.cat([POSITIVE, constraints.independent(BOX, 1)], -1, [1, 2]),
        [5.0, 0.5, 2.0],
        [5.0, 0.5, 4.0],
    ),
    "independent(cat)": (  # as of sbi's MultipleIndependent
        constraints.independent(constraints.cat([constraints.real_vector, BOX], 1, [2, 2]), 1),
        [-5.0, 5.0, 0.5, 2.0],
        [-5.0, 5.0, 0.5, 4.0],
    ),
    "not declared independent": (POSITIVE, [1.0, 2.0], [1.0, -2.0]),
    "mixture": (
        MixtureSameFamily(
            Categorical(torch.ones(3)), Independent(Normal(torch.zeros(3, 2), 1.0), 1)
        ).support,
        [1.0, -2.0],
        None,
    ),
}


@pytest.mark.parametrize(("support", "inside", "outside"), MIXED.values(), ids=MIXED)
def test_every_form_becomes_one(support, inside, outside):
    dim = len(inside)
    one = vector_support(support, dim, "task mine")
    assert one.check(torch.tensor([inside] * 4)).tolist() == [True] * 4
    if outside is not None:
        assert one.check(torch.tensor([inside, outside])).tolist() == [True, False]
    transform, u = biject_to(one), torch.randn(5, 7, dim, generator=stream(0)).double()
    theta = transform(u)
    assert one.check(theta).shape == (5, 7)
    torch.testing.assert_close(transform.inv(theta), u)


@pytest.mark.parametrize("support", [constraints.real_vector, constraints.independent(BOX, 1)])
def test_usual_supports_stay_what_they_are(support):
    assert vector_support(support, 2, "task mine") is support


REFUSED = {
    "Simplex": Dirichlet(torch.ones(2)),
    "IntegerGreaterThan": Independent(Poisson(torch.ones(2)), 1),
    "shape": Beta(1.0, 1.0),
    r"\(3, 2\), expected": MixtureSameFamily(
        Categorical(torch.ones(3)), Independent(Uniform(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    ),
    "does not define `support`": type(
        "Silent", (Distribution,), {"arg_constraints": {}, "event_shape": torch.Size([2])}
    )(validate_args=False),
}


@pytest.mark.parametrize(("message", "prior"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_estimated_is_refused_by_name(message, prior):
    with pytest.raises(ConfigError, match=f"task mine.*{message}"):
        Estimator.for_task(task(prior), MAF, Identity)


class Mixed(Distribution):
    """theta_1 ~ N(0, 1), theta_2 ~ Exp(1), with torch's `stack` as support."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.stack([REAL, POSITIVE], -1)

    def __init__(self):
        super().__init__(event_shape=torch.Size([2]), validate_args=False)

    def sample(self, sample_shape=()):
        return torch.stack([torch.randn(sample_shape), torch.empty(sample_shape).exponential_()], 1)


def test_an_estimator_with_mixed_parameters():
    with draws_from(stream(0)):
        estimator = Estimator.for_task(task(Mixed()), MAF, Identity).double().float()
        estimator.fit_standardization(Mixed().sample((500,)), torch.randn(500, 2))
    x = torch.tensor([[0.5, -1.0]])
    axis = torch.linspace(-12, 12, 400).double()
    theta = torch.cartesian_prod(axis, axis)
    theta[:, 1] = theta[:, 1].exp()
    area = (axis[1] - axis[0]) ** 2 * theta[:, 1]
    with torch.no_grad(), draws_from(stream(1)):
        q = estimator(x)
        density = q.log_prob(theta.unsqueeze(1)).squeeze(1).double().exp()
        samples = q.sample((500,))
    assert float((density * area).sum()) == pytest.approx(1, abs=1e-3)
    assert (samples[..., 1] > 0).all()
    assert (samples[..., 0] < 0).any()
    assert q.log_prob(torch.tensor([[1.0, -1.0]])).item() == -torch.inf
