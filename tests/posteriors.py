"""Posteriors of every kind, tasks for them, and what is true of them; no tests here.

What is true comes from sums over a grid of theta (or over all classes), and derivatives from
finite differences of those.
"""

from __future__ import annotations

import torch
import zuko
from torch import nn
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)

from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.mixtures import EvenMixture
from robust_npe.random import draws_from, stream
from robust_npe.tasks import GaussianLinear
from robust_npe.tasks.base import Reference, Task
from tests.helpers import pairs, prior

# Tasks: two parameters, one, and a class; two features each.


class Stored:
    """Stores one reference posterior."""

    num_references = 1

    def reference(self, i):
        theta, x = pairs(self, 1, seed=5)
        with draws_from(stream(i, "reference")):
            samples = self.true_posterior(x).sample((50,)).squeeze(1).float()
        return Reference(x[0], theta[0], samples)


class Vector(Stored, GaussianLinear):
    def __init__(self):
        super().__init__((1.0, -0.5), 0.5)


class Scalar(Stored, Task):
    name, dim_x, noise_std = "scalar", 2, 0.7
    prior = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)

    def simulate(self, theta, generator):
        return theta + self.noise_std * torch.randn(len(theta), 2, generator=generator)

    def true_posterior(self, x):
        variance = 1 / (1 + 2 / self.noise_std**2)
        mean = variance / self.noise_std**2 * x.sum(-1, keepdim=True)
        return MultivariateNormal(mean, torch.full((1, 1), variance, dtype=x.dtype))


class Classes(Stored, Task):
    name, dim_x, noise_std = "classes", 2, 1.0
    prior = Independent(Categorical(torch.ones(1, 3)), 1)
    centers = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    def simulate(self, theta, generator):
        noise = torch.randn(len(theta), 2, generator=generator)
        return self.centers[theta.long().squeeze(-1)] + self.noise_std * noise

    def logits(self, x):
        square = (x.unsqueeze(-2) - self.centers.to(x)).square().sum(-1)
        return -square / (2 * self.noise_std**2)

    def true_posterior(self, x):
        return Independent(Categorical(logits=self.logits(x).unsqueeze(-2)), 1)


# Posteriors.


def estimator(seed=0):
    def head(dim_theta, dim_context):
        return MAF(dim_theta, dim_context, transforms=2, hidden=(16, 16))

    with draws_from(stream(seed, "weights")):
        q = Estimator(head, Identity, 2, 2, prior("real").support)
    q.fit_standardization(*pairs(Vector(), 500))
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.mul_(1.2)
        q.head.context.weight.mul_(2)
        shifts = q.head.direct.weight[::2]  # log slopes would make tails that leave the grid
        shifts.copy_(0.3 * torch.randn(shifts.shape, generator=stream(seed, "direct")))
    return q


class TwoEstimators(nn.Module):
    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(estimator(seed) for seed in (1, 2))

    def forward(self, x):
        return PlainMixture([member(x) for member in self.members])


class PlainMixture(Distribution):
    """As plain as one can write it: no rsample, no sample_and_log_prob."""

    def __init__(self, parts):
        self.parts = parts
        super().__init__(parts[0].batch_shape, parts[0].event_shape, validate_args=False)

    def log_prob(self, theta):
        return (
            torch.stack([p.log_prob(theta) for p in self.parts]).logsumexp(0)
            - torch.tensor(2).log()
        )

    def sample(self, sample_shape=()):
        one, other = (p.sample(sample_shape) for p in self.parts)
        return torch.where(torch.rand(one.shape[:-1]).unsqueeze(-1) < 0.5, one, other)


class Averaged(nn.Module):
    """Of three members, two in one distribution."""

    def __init__(self):
        super().__init__()
        self.one, self.other = estimator(1), estimator(2)

    def forward(self, x):
        u = 0.3 * torch.tensor([1.0, -0.5]).to(x)
        return EvenMixture([self.one(x), self.other(torch.cat((x + u, x - u)))], len(x))


def two_peaks(x):
    """A plain function; theta is a number, without an axis of its own."""
    means = torch.stack((x[..., 0] - 1, 0.5 * x[..., 1] + 1), -1)
    stds = torch.stack((0.4 * (0.3 * x[..., 1]).exp(), torch.full_like(x[..., 0], 0.8)), -1)
    weights = torch.stack((x[..., 0], torch.zeros_like(x[..., 0])), -1)
    return MixtureSameFamily(Categorical(logits=weights), Normal(means, stds))


class Module(nn.Module):
    """Its KL with itself is known to torch, but not the KL between two observations."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        loc, log_scale = self.net(x).chunk(2, -1)
        base = Independent(Normal(torch.zeros_like(loc), torch.ones_like(loc)), 1)
        return TransformedDistribution(base, AffineTransform(2 * loc, log_scale.exp(), event_dim=1))


def zuko_flow():
    flow = zuko.flows.MAF(2, 2, transforms=2, hidden_features=(8,), activation=nn.Tanh)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(1.3)
    return flow


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x):
        return Categorical(logits=3 * self.net(x))


POSTERIORS = {
    "estimator": (estimator, Vector),
    "function": (lambda: two_peaks, Scalar),
    "module": (Module, Vector),
    "mixture": (TwoEstimators, Vector),
    "averaged": (Averaged, Vector),
    "zuko": (zuko_flow, Vector),
    "classifier": (Classifier, Classes),
}
SMOOTH = ("estimator", "averaged", "module", "zuko")  # with reparameterised samples


def make(name, dtype=torch.float64):
    build, task = POSTERIORS[name]
    with draws_from(stream(4, name)):
        posterior = build()
    return (posterior.to(dtype) if isinstance(posterior, nn.Module) else posterior), task()


def data(task, num, dtype=torch.float64):
    theta, x = pairs(task, num)
    return theta.to(dtype), x.to(dtype)


# What is expected.


def on_grid(q):
    """Log densities `(G, B)` at all classes or on a grid, and the volume of a cell."""
    if isinstance(q, Categorical):
        return q.logits.T, 1.0
    axis = torch.linspace(-9, 9, 1201 if q.event_shape == () else 181, dtype=torch.float64)
    step = float(axis[1] - axis[0])
    if q.event_shape == ():
        theta, volume = axis.unsqueeze(-1).expand(-1, *q.batch_shape), step
    else:
        grid = torch.cartesian_prod(axis, axis).unsqueeze(1)
        theta, volume = grid.expand(-1, *q.batch_shape, -1), step**2
    log_prob = q.log_prob(theta)
    mass = volume * log_prob.exp().sum(0)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=0.01)
    return log_prob, volume


@torch.no_grad()
def exact_kl(p, q):
    (log_p, volume), (log_q, _) = on_grid(p), on_grid(q)
    return volume * (log_p.exp() * (log_p - log_q)).sum(0)


@torch.no_grad()
def differences(function, x, step=1e-5):
    """Central differences of a function of x `(B, Dx)` along each feature, stacked last."""
    moves = step * torch.eye(x.shape[-1], dtype=x.dtype)
    return torch.stack([(function(x + m) - function(x - m)) / (2 * step) for m in moves], -1)


@torch.no_grad()
def exact_information(posterior, x):
    log_prob, volume = on_grid(posterior(x))
    score = differences(lambda v: on_grid(posterior(v))[0], x)
    return volume * torch.einsum("gb,gbi,gbj->bij", log_prob.exp(), score, score)


def trace(matrix):
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def exact_value(objective, posterior, x, x_adv, theta):
    q, moved = posterior(x), posterior(x_adv)
    if objective == "nll":
        return -moved.log_prob(theta.reshape(*moved.batch_shape, *moved.event_shape)).detach()
    return exact_kl(q, moved) if objective == "kl_forward" else exact_kl(moved, q)
