"""Small things that several test modules build on; no tests here."""

from __future__ import annotations

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.distributions import (
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

from robust_npe.attacks import Attack, Objective
from robust_npe.bayesian import Inference
from robust_npe.components import bind, build
from robust_npe.defenses import Defense
from robust_npe.estimators import Embedding, Estimator, Head, Identity, Pushforward
from robust_npe.estimators.bijection import Bijection
from robust_npe.metrics import Metric
from robust_npe.paths import config_directory
from robust_npe.random import draws_from, stream
from robust_npe.tasks import GaussianLinear, Task

KINDS = {
    "task": (Task,),
    "estimator": (Head, "dim_theta", "dim_context", "dim_x", "num_classes"),
    "embedding": (Embedding, "dim_x"),
    "inference": (Inference,),
    "defense": (Defense,),
    "attack": (Attack,),
    "objective": (Objective,),
    "metric": (Metric,),
}


def conf_names(group):
    names = sorted(path.stem for path in (config_directory() / group).glob("*.yaml"))
    assert names, f"no YAML files in {group}"
    return names


def from_conf(group, name, skip=(), top=None, **overrides):
    """Build what conf/<group>/<name>.yaml describes, leaving out some keys.

    Interpolations refer to the keys of `top`; those to other keys are left out. Heads and
    embeddings become factories, which take the dimensions.
    """
    top = top or {}
    config = OmegaConf.load(config_directory() / group / f"{name}.yaml")
    node = config if "_target_" in config else config[group]  # some set top-level keys, too
    unresolved = OmegaConf.to_container(node)
    if "defaults" in unresolved:  # of post-hoc defenses: conf/defense/none.yaml below `base`
        unresolved |= {"base": {"_target_": "robust_npe.defenses.NoDefense"}}
    unknown = (k for k, v in unresolved.items() if is_reference(v) and v[2:-1] not in top)
    skip = {*skip, "defaults", *unknown}
    kept = {k: v for k, v in unresolved.items() if k not in skip} | overrides
    wanted = OmegaConf.to_container(OmegaConf.create({**top, group: kept}), resolve=True)[group]
    kind, *given = KINDS[group]
    return bind(wanted, group, kind, given) if given else build(wanted, group, kind)


def is_reference(value):
    return isinstance(value, str) and value.startswith("${")


def prior(kind, dim=2):
    base = {
        "real": Normal(torch.zeros(dim), 1.5 * torch.ones(dim)),
        "box": Uniform(-2 * torch.ones(dim), 3 * torch.ones(dim)),
        "positive": LogNormal(torch.zeros(dim), 0.5 * torch.ones(dim)),
    }
    return Independent(base[kind], 1)


SUPPORTS = ("real", "box", "positive")


def make_estimator(head, support="real", dim_theta=2, dim_x=3, embedding=Identity, gain=1.0):
    """An estimator with random weights, z-scored on data of a certain scale.

    A gain above 1 makes q less Gaussian and more dependent on x than a fresh network's.
    """
    p = prior(support, dim_theta)
    with draws_from(stream(3, "weights")):
        estimator = Estimator(head, embedding, dim_theta, dim_x, p.support)
        theta = p.sample((500,))
        x = 5 + 2 * torch.randn(500, dim_x)
    estimator.fit_standardization(theta, x)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.mul_(gain)
    return estimator


def connect_directly(module, scale=0.3):
    """Give direct connections weights: they start from zero, where they could not be wrong."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.removesuffix(".weight").endswith("direct"):
                weight = torch.randn(parameter.shape, generator=stream(0, "direct", name))
                parameter.copy_(scale / max(1, weight.shape[1]) * weight)
    return module


def observations(num, dim_x=3, seed=0):
    return 5 + 2 * torch.randn(num, dim_x, generator=stream(seed, "x"))


def prior_draws(num, support="real", dim_theta=2, seed=0):
    with draws_from(stream(seed, "theta")):
        return prior(support, dim_theta).sample((num,))


class Exact(nn.Module):
    """The exact posterior of a task as an estimator; `spread` and `shift` make it wrong."""

    def __init__(self, task, spread=1.0, shift=0.0):
        super().__init__()
        self.task = task
        self.spread = spread
        self.shift = shift
        self.bijection = Bijection(task.dim_theta, task.support)

    def forward(self, x):
        p = self.task.true_posterior(x)
        base = MultivariateNormal(p.mean + self.shift, scale_tril=self.spread * p.scale_tril)
        return Pushforward(base, self.bijection)


class NoClosedForm(torch.distributions.Distribution):
    """Hides the type of a distribution, so that divergences have to be estimated."""

    has_rsample = True

    def __init__(self, base):
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    def log_prob(self, theta):
        return self.base.log_prob(theta)

    def rsample(self, sample_shape=()):
        return self.base.rsample(sample_shape)


def linear_task(slopes=(1.0, -0.5), noise_std=0.3):
    return GaussianLinear(slopes, noise_std)


def pairs(task, num, seed=0):
    theta = task.sample_prior(num, stream(seed, "theta"))
    return theta, task.simulate(theta, stream(seed, "x"))


def gaussian_kl(p, q):
    """KL(p || q) of Gaussians from means and covariances, written out."""
    d = p.mean.shape[-1]
    precision = torch.linalg.inv(q.covariance_matrix)
    difference = (q.mean - p.mean).unsqueeze(-1)
    quadratic = (difference.mT @ precision @ difference).squeeze(-1).squeeze(-1)
    trace = (precision @ p.covariance_matrix).diagonal(dim1=-2, dim2=-1).sum(-1)
    log_det = torch.logdet(q.covariance_matrix) - torch.logdet(p.covariance_matrix)
    return 0.5 * (trace + quadratic - d + log_det)
