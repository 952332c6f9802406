"""What tests of Bayesian networks share; no tests here."""

from __future__ import annotations

import torch

from robust_npe.bayesian import SGD, WeightEnsemble
from robust_npe.defenses import NoDefense
from robust_npe.estimators import Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.tasks import HalfMoons
from robust_npe.training import infer


def moons(num, seed=0):
    task, generator = HalfMoons(), stream(seed, "moons")
    theta = task.sample_prior(num, generator)
    return theta, task.simulate(theta, generator)


def network(inference=None, inputs=2, classes=2, **settings):
    with draws_from(stream(0, "network")):
        return WeightEnsemble(
            1, inputs, classes, inference or SGD(), **{"hidden": (16,)} | settings
        )


def fresh(inference, seed=0, **settings):
    """A classifier of half moons whose weights are not made yet."""

    def head(dim_theta, dim_context, num_classes):
        return WeightEnsemble(
            dim_theta, dim_context, num_classes, inference, **{"hidden": (16,)} | settings
        )

    head.classifies = True
    with draws_from(stream(seed, "network")):
        return Estimator(head, Identity, 1, 2, HalfMoons().support)


def fitted(inference, num=400, **settings):
    """Such a classifier with its weights, and what is known of its inference."""
    estimator = fresh(inference, **settings)
    return estimator, infer(estimator, NoDefense(), moons(num), stream(0, "infer")).facts


def accuracy(posterior, theta, x):
    with torch.no_grad():
        return float((posterior(x).log_probs.argmax(-1) == theta.squeeze(-1)).double().mean())
